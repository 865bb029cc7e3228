//! Memory for the rings of connections, straight from the kernel.
//!
//! An allocator gives back memory that others have used, and clears it: every connection would cost its whole rings
//! in time and in memory. Pages of the kernel cost nothing before data waits in them.
#![allow(unsafe_code, reason = "memory maps")]

use std::ffi::c_void;
use std::io;
use std::ptr::{self, NonNull};
use std::slice;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp;

/// One anonymous mapping.
struct Pages {
    first: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping belongs to this value alone, and any thread may use or unmap it.
unsafe impl Send for Pages {}

impl Pages {
    fn new(length: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at a place of the kernel's choice touches no memory that anyone uses.
        let first = unsafe {
            mmap_anonymous(ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
        }?;
        let first = NonNull::new(first.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { first, length })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and whoever borrowed from it was dropped before (see `Sockets`).
        let _ = unsafe { munmap(self.first.as_ptr().cast::<c_void>(), self.length) };
    }
}

/// A set of one socket whose rings are pages of its own.
pub(super) struct Sockets {
    // Fields are dropped in this order: the socket goes before what it borrows.
    set: SocketSet<'static>,
    handle: SocketHandle,
    _rings: [Pages; 2],
}

impl Sockets {
    /// A socket with two rings of `ring_bytes`.
    pub(super) fn new(ring_bytes: usize) -> io::Result<Self> {
        let rings = [Pages::new(ring_bytes)?, Pages::new(ring_bytes)?];
        let [receive, send] = rings.each_ref().map(|pages| {
            // SAFETY: the pages are mapped, zeroed and lent only here, to the socket, which never leaves this value
            // and is dropped before them.
            let bytes = unsafe { slice::from_raw_parts_mut(pages.first.as_ptr(), pages.length) };
            tcp::SocketBuffer::new(bytes)
        });
        let mut set = SocketSet::new(Vec::with_capacity(1));
        let handle = set.add(tcp::Socket::new(receive, send));
        Ok(Self { set, handle, _rings: rings })
    }

    /// The set. The connection passes it to the TCP stack and takes nothing out of it.
    pub(super) fn set(&mut self) -> &mut SocketSet<'static> {
        &mut self.set
    }

    /// The set, to be looked at.
    pub(super) fn as_set(&self) -> &SocketSet<'static> {
        &self.set
    }

    /// The socket.
    pub(super) fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.set.get_mut(self.handle)
    }
}
