#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pyro_oci::manifest::fuzz_manifest(bytes));
