//! What runs the vCPUs. Device cores know nothing of it.

use std::path::PathBuf;

pub(crate) mod emulated;
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
