#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    pyro_vmm::device::fuzz::fuzz_net_queue(bytes);
});
