#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    pyro_vmm::device::fuzz::fuzz_small_queues(bytes);
});
