#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    pyro_net::fuzz::fuzz_names(bytes);
});
