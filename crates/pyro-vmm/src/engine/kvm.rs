//! The host's KVM runs the vCPUs; the devices are ours, in the same process.
//!
//! What is pure is apart from what makes system calls: [`layout`] is the machine's address map, [`loader`] and
//! [`acpi`] make what is in memory when the kernel starts, [`registers`] and [`cpuid`] what the vCPUs begin with.

pub(crate) mod acpi;
pub(crate) mod cpuid;
pub(crate) mod layout;
pub(crate) mod loader;
pub(crate) mod memory;
pub(crate) mod registers;

pub(crate) use loader::fuzz_kernel;
