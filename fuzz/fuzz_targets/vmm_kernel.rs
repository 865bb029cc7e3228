#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    pyro_vmm::engine::fuzz_kernel(bytes);
});
