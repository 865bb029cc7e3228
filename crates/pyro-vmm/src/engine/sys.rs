//! System calls that no safe interface offers.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `_IO(0xAE, 0x00)`.
const KVM_GET_API_VERSION: libc::c_ulong = 0xAE00;

/// Asks a KVM device for its version.
pub(super) fn kvm_api_version(device: &File) -> io::Result<i32> {
    // SAFETY: the request takes no argument and only returns a number; the descriptor is open.
    match unsafe { libc::ioctl(device.as_raw_fd(), KVM_GET_API_VERSION, 0) } {
        -1 => Err(io::Error::last_os_error()),
        version => Ok(version),
    }
}
