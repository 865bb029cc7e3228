#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pyro_vmm::protocol::fuzz_parse(bytes));
