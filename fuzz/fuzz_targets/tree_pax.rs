#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    pyro_tree::pax::fuzz_archive(bytes);
    pyro_tree::fuzz_repack(bytes);
});
