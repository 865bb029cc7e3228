#![no_main]

use libfuzzer_sys::fuzz_target;

// The first byte says how the stream is cut.
fuzz_target!(|bytes: &[u8]| {
    if let Some((cut, stream)) = bytes.split_first() {
        pyro_agent::wire::fuzz_records(stream, usize::from(*cut));
    }
});
