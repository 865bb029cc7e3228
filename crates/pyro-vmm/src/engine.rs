//! What runs the vCPUs. Device cores know nothing of it.

use std::path::PathBuf;

pub(crate) mod emulated;
pub(crate) mod kvm;
mod probe;
pub use probe::*;

/// An engine and what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineSpec {
    /// QEMU's software emulation, with our devices.
    Emulated {
        /// Absolute path of `qemu-system-x86_64`.
        qemu: PathBuf,
    },
    /// The host's processor, by the kernel's KVM.
    Kvm,
}

/// For a processor whose counter always runs: the watchdog would take a busy host for a bad counter and fall back to
/// a worse clock.
const RELIABLE_TSC: &str = "tsc=reliable";

impl EngineSpec {
    /// As `--engine` names it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Emulated { .. } => "emulated",
            Self::Kvm => "kvm",
        }
    }
}

/// What every guest kernel is told on its command line (`Documentation/admin-guide/kernel-parameters.txt` of Linux).
const KERNEL_WORDS: [&str; 10] = [
    // Errors and panics reach the bounded console log, nothing else costs time there.
    "console=ttyS0",
    "quiet",
    // Emergencies only: each byte on the serial line is an exit.
    "loglevel=1",
    // A guest that panics or restarts ends its machine, at once: it does not put the interrupt controllers in order
    // before, which is some four hundred exits.
    "panic=-1",
    "reboot=t,f",
    "pci=off",
    "random.trust_cpu=on",
    // Mounts and control groups wait for grace periods, which else last several timer ticks each.
    "rcupdate.rcu_expedited=1",
    // The driver for made-up interfaces makes one by itself; a guest without a network has none.
    "dummy.numdummies=0",
    // With one CPU the kernel would take the lock prefixes out of its code, a tenth of an emulated boot long: each
    // place costs the emulator what it has translated around it, and a host a copy of the kernel's page.
    "noreplace-smp",
];

/// Reads arbitrary bytes as an engine's monitor sends them.
pub(crate) fn fuzz_monitor(bytes: &[u8]) {
    let _ = emulated::fuzz_monitor(bytes);
}

/// Loads arbitrary bytes as a kernel. False when they are none.
#[doc(hidden)]
pub fn fuzz_kernel(bytes: &[u8]) -> bool {
    kvm::fuzz_kernel(bytes)
}
