#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| drop(pyro_oci::flatten::fuzz_layer(bytes)));
