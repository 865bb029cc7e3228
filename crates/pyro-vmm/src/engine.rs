//! What runs the vCPUs. Device cores know nothing of it.

use std::path::PathBuf;

pub(crate) mod emulated;
#[allow(dead_code, reason = "not yet chosen by any machine")]
pub(crate) mod kvm;
mod probe;
mod sys;
pub use probe::*;

/// An engine and what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineSpec {
    /// QEMU's software emulation, with our devices.
    Emulated {
        /// Absolute path of `qemu-system-x86_64`.
        qemu: PathBuf,
    },
}

/// Reads arbitrary bytes as an engine's monitor sends them.
pub(crate) fn fuzz_monitor(bytes: &[u8]) {
    let _ = emulated::fuzz_monitor(bytes);
}

/// Loads arbitrary bytes as a kernel. False when they are none.
#[doc(hidden)]
pub fn fuzz_kernel(bytes: &[u8]) -> bool {
    kvm::fuzz_kernel(bytes)
}
