use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use crate::limits::MAX_ENTROPY_BYTES;

/// `_IOW('R', 0x03, int[2])`: add bytes to the pool and credit them.
const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
/// `_IO('R', 0x07)`: reseed the generator from the pool now.
const RNDRESEEDCRNG: libc::c_ulong = 0x5207;

/// `_IOWR('X', 119, int)`.
const FIFREEZE: libc::c_ulong = 0xc004_5877;
/// `_IOWR('X', 120, int)`.
const FITHAW: libc::c_ulong = 0xc004_5878;

/// `struct rand_pool_info` with room for the largest entropy accepted.
#[repr(C)]
struct Pool {
    entropy_bits: libc::c_int,
    len_bytes: libc::c_int,
    bytes: [u8; MAX_ENTROPY_BYTES],
}

/// Adds `entropy`, at most [`MAX_ENTROPY_BYTES`], to the kernel's pool, credits it, and reseeds.
pub(crate) fn add_entropy(entropy: &[u8]) -> io::Result<()> {
    let len = entropy.len().min(MAX_ENTROPY_BYTES);
    let len_bytes = libc::c_int::try_from(len).expect("at most MAX_ENTROPY_BYTES");
    let mut pool = Pool { entropy_bits: len_bytes * 8, len_bytes, bytes: [0; MAX_ENTROPY_BYTES] };
    pool.bytes[..len].copy_from_slice(&entropy[..len]);
    let random = File::options().write(true).open("/dev/random")?;
    // SAFETY: the kernel reads a header and `len_bytes` bytes, all inside `pool`.
    let added = unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, &raw const pool) };
    if added < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: this request takes no argument.
    let reseeded = unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG) };
    if reseeded < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Brings the interface `lo` up.
pub(crate) fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: `ifreq` is plain old bytes, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the kernel reads one `ifreq`, which lives through the call.
    let done = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Freezes the file system of an open directory: writers wait until [`thaw`].
pub(crate) fn freeze(directory: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the kernel ignores this request's argument.
    let done = unsafe { libc::ioctl(directory.as_raw_fd(), FIFREEZE, 0) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Thaws it.
pub(crate) fn thaw(directory: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the kernel ignores this request's argument.
    let done = unsafe { libc::ioctl(directory.as_raw_fd(), FITHAW, 0) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// SIGKILL to every process but PID 1. Does nothing in any other process than PID 1.
pub(crate) fn kill_all() {
    if rustix::process::getpid() == rustix::process::Pid::INIT {
        // SAFETY: no pointer is passed.
        unsafe { libc::kill(-1, libc::SIGKILL) };
    }
}
