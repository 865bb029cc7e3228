//! Requests to KVM that no safe interface offers.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd};

use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VmFd};
use vmm_sys_util::eventfd::EventFd;

use super::Region;

/// The KVM behind an open device.
pub(super) fn kvm(device: File) -> Kvm {
    // SAFETY: the descriptor is open and nobody else's from here on. If it is no KVM, its requests fail.
    unsafe { Kvm::from_raw_fd(device.into_raw_fd()) }
}

/// Maps memory of this process into the guest.
pub(super) fn add_memory(
    vm: &VmFd,
    slot: u32,
    region: Region,
    is_read_only: bool,
) -> Result<(), kvm_ioctls::Error> {
    let region = kvm_userspace_memory_region {
        slot,
        flags: if is_read_only { KVM_MEM_READONLY } else { 0 },
        guest_phys_addr: region.guest_address,
        memory_size: region.len_bytes,
        userspace_addr: region.host_address,
    };
    // SAFETY: regions are of memory that is mapped for as long as the process lives, and which this process
    // only touches through volatile accesses.
    unsafe { vm.set_user_memory_region(region) }
}

/// Another handle of an event counter, as the crate for KVM wants it.
pub(super) fn event(counter: BorrowedFd<'_>) -> io::Result<EventFd> {
    let fd = counter.try_clone_to_owned()?.into_raw_fd();
    // SAFETY: the descriptor was just made and is handed over.
    Ok(unsafe { EventFd::from_raw_fd(fd) })
}
