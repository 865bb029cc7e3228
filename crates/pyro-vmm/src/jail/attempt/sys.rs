//! System calls that the jail forbids, most of which no safe interface offers.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const PAGE_BYTES: usize = 4096;

/// Reads one byte.
pub(super) fn read_memory(pid: i32, address: u64) -> io::Result<()> {
    let mut byte = 0u8;
    let local = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: 1 };
    // SAFETY: the local vector names one byte that is alive; the kernel checks the remote one.
    match unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) } {
        1 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Becomes the debugger of a process until this thread ends.
pub(super) fn trace(pid: i32) -> io::Result<()> {
    // SAFETY: this request takes no pointers.
    status(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0usize, 0usize) })
}

/// Starts a process that ends at once.
pub(super) fn fork() -> io::Result<()> {
    // SAFETY: the child makes one system call.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: ends the child without running anything of its parent's.
        0 => unsafe { libc::_exit(0) },
        // SAFETY: nothing is to be told of the child.
        child => status(unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) }.min(0).into()),
    }
}

/// Makes namespaces for mounts. The calling thread keeps them.
pub(super) fn unshare() -> io::Result<()> {
    // SAFETY: only the view of mounts is unshared; descriptors and memory stay as they are.
    status(unsafe { libc::unshare(libc::CLONE_NEWNS) }.into())
}

/// Tries to get a page that can be written and executed.
pub(super) fn map_executable_page() -> io::Result<()> {
    map(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC).map(drop)
}

/// Tries to make a written page executable.
pub(super) fn make_page_executable() -> io::Result<()> {
    let page = map(libc::PROT_READ | libc::PROT_WRITE)?;
    // SAFETY: nothing else knows of the page.
    status(unsafe { libc::mprotect(page.0, PAGE_BYTES, libc::PROT_READ | libc::PROT_EXEC) }.into())
}

struct Page(*mut libc::c_void);

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: the page was mapped by `map` and nothing refers to it.
        unsafe { libc::munmap(self.0, PAGE_BYTES) };
    }
}

fn map(protection: libc::c_int) -> io::Result<Page> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a fresh mapping at a place of the kernel's choice touches nothing that exists.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), PAGE_BYTES, protection, flags, -1, 0) };
    if page == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Page(page)) }
}

/// Makes an io_uring of one entry.
pub(super) fn io_uring() -> io::Result<()> {
    // `struct io_uring_params` of `linux/io_uring.h`: all zero asks for nothing special.
    let mut parameters = [0u64; 15];
    // SAFETY: the structure is as long as the kernel's, and alive.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) };
    let ring = i32::try_from(ring).map_err(io::Error::other)?;
    status(ring.min(0).into())?;
    // SAFETY: the kernel has just made this descriptor, and nobody else owns it.
    drop(unsafe { OwnedFd::from_raw_fd(ring) });
    Ok(())
}

/// Sends a request whose argument is 0.
pub(super) fn ioctl(device: BorrowedFd<'_>, request: u32) -> io::Result<()> {
    // SAFETY: a request that takes a pointer finds null, which the kernel refuses.
    match unsafe { libc::ioctl(device.as_raw_fd(), request.into(), 0usize) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn status(result: libc::c_long) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
