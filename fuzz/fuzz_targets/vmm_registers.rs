#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    pyro_vmm::virtio_mmio::fuzz::fuzz_registers(bytes);
});
