//! To come.
pub(crate) fn fuzz_kernel(_bytes: &[u8]) -> bool {
    false
}
