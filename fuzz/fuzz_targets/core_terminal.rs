#![no_main]

use libfuzzer_sys::fuzz_target;

// The first bytes are the terminal's size, how the stream is cut, and how much a reader takes at a time.
fuzz_target!(|bytes: &[u8]| pyro_core::terminal::fuzz(bytes));
