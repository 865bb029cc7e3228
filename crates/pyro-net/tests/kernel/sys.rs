//! A network namespace for a thread, and a TAP device in it.
#![allow(unsafe_code, reason = "system calls that have no safe form")]

use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;

use rustix::ioctl::{IntegerSetter, Setter, ioctl};
use rustix::thread::{UnshareFlags, unshare_unsafe};

const TUNSETIFF: u32 = 0x4004_54ca;
const TUNSETOFFLOAD: u32 = 0x4004_54d0;
const TUNSETVNETHDRSZ: u32 = 0x4004_54d8;
const IFF_TAP: u16 = 2;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
/// Sums and segmentation of both families are left to us.
const TUN_F_CSUM_TSO4_TSO6: usize = 1 | 2 | 4;

/// `struct ifreq`, as far as this request uses it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Puts the calling thread alone into a network namespace of its own, which ends with its last user.
pub fn leave_network() -> io::Result<()> {
    // SAFETY: only the network is left; nothing that other threads rely on changes.
    Ok(unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?)
}

/// Makes a TAP device whose packets begin with a virtio header of 12 bytes.
pub fn open_tap(name: &str) -> io::Result<OwnedFd> {
    let file: File = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let mut request =
        InterfaceRequest { name: [0; 16], flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, rest: [0; 22] };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the request is what this number takes, as large as the kernel's.
    let request = unsafe { Setter::<TUNSETIFF, _>::new(request) };
    // SAFETY: the device is named and typed; no memory is touched but the request's.
    unsafe { ioctl(&file, request) }?;
    let header: c_int = 12;
    // SAFETY: this number takes a pointer to an integer.
    let header = unsafe { Setter::<TUNSETVNETHDRSZ, _>::new(header) };
    // SAFETY: the device changes the length of its headers, which are read by nobody yet.
    unsafe { ioctl(&file, header) }?;
    // SAFETY: this number takes an integer by value.
    let offload = unsafe { IntegerSetter::<TUNSETOFFLOAD>::new_usize(TUN_F_CSUM_TSO4_TSO6) };
    // SAFETY: the device changes what its packets may be; no memory is touched.
    unsafe { ioctl(&file, offload) }?;
    Ok(file.into())
}
