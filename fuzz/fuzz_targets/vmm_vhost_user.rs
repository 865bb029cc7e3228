#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pyro_vmm::vhost_user::fuzz::fuzz_messages(bytes));
