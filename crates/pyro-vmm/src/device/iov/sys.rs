//! The only place where guest memory is touched by address.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::bitmap::BitmapSlice;
use vm_memory::volatile_memory::VolatileSlice;

use super::{Pieces, Source, Target};

/// The kernel takes no more pieces in one call (`UIO_MAXIOV`).
const MAX_PIECES_PER_CALL: usize = 1024;

impl<'a> Source<'a> {
    /// Appends a piece of guest memory.
    pub fn push_guest<B: BitmapSlice>(&mut self, slice: &VolatileSlice<'a, B>) {
        let guard = slice.ptr_guard();
        self.pieces.push(libc::iovec { iov_base: guard.as_ptr().cast_mut().cast(), iov_len: slice.len() });
    }

    /// Copies the first bytes into `buf` and returns how many there were.
    pub fn copy_to(&self, buf: &mut [u8]) -> usize {
        let mut copied = 0;
        for piece in self.pieces.vecs.iter() {
            if copied == buf.len() {
                break;
            }
            copied += volatile(piece).copy_to(&mut buf[copied..]);
        }
        copied
    }
}

impl<'a> Target<'a> {
    /// Appends a piece of guest memory. It counts as written from here on, for the dirty tracking.
    pub fn push_guest<B: BitmapSlice>(&mut self, slice: &VolatileSlice<'a, B>) {
        let guard = slice.ptr_guard_mut();
        slice.bitmap().mark_dirty(0, slice.len());
        self.pieces.push(libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: slice.len() });
    }

    /// Copies `buf` to the front and returns how many bytes had room.
    pub fn copy_from(&mut self, buf: &[u8]) -> usize {
        let mut copied = 0;
        for piece in self.pieces.vecs.iter() {
            let len = piece.iov_len.min(buf.len() - copied);
            volatile(piece).copy_from(&buf[copied..copied + len]);
            copied += len;
        }
        copied
    }

    /// Writes zeroes everywhere.
    pub fn fill_zero(&mut self) {
        for piece in self.pieces.vecs.iter() {
            // SAFETY: a piece is valid for writes of its length for as long as `self` lives; zero is a
            // valid byte, and nobody holds a Rust reference into it.
            unsafe { std::ptr::write_bytes(piece.iov_base.cast::<u8>(), 0, piece.iov_len) }
        }
    }
}

fn volatile(piece: &libc::iovec) -> VolatileSlice<'_> {
    // SAFETY: pieces come from slices or guest memory that outlive the list they are in, and the list
    // outlives the result.
    unsafe { VolatileSlice::new(piece.iov_base.cast(), piece.iov_len) }
}

fn count(pieces: &Pieces<'_>) -> libc::c_int {
    pieces.vecs.len().min(MAX_PIECES_PER_CALL) as libc::c_int
}

fn checked(returned: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(returned).map_err(|_| io::Error::last_os_error())
}

fn file_offset(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Positioned vectored I/O, one system call each; may be short.
pub trait FileIo {
    /// Reads at `offset` into `target`.
    fn read_target_at(&self, target: &mut Target<'_>, offset: u64) -> io::Result<usize>;
    /// Writes `source` at `offset`.
    fn write_source_at(&self, source: &Source<'_>, offset: u64) -> io::Result<usize>;
}

impl FileIo for File {
    fn read_target_at(&self, target: &mut Target<'_>, offset: u64) -> io::Result<usize> {
        let pieces = &target.pieces;
        let (fd, offset) = (self.as_raw_fd(), file_offset(offset)?);
        // Most requests are one piece, and a list costs the kernel more.
        if let [piece] = &*pieces.vecs {
            // SAFETY: the piece is valid for writes of its length while `target` is borrowed.
            return checked(unsafe { libc::pread(fd, piece.iov_base, piece.iov_len, offset) });
        }
        // SAFETY: the pieces are valid for writes of their lengths while `target` is borrowed.
        checked(unsafe { libc::preadv(fd, pieces.vecs.as_ptr(), count(pieces), offset) })
    }

    fn write_source_at(&self, source: &Source<'_>, offset: u64) -> io::Result<usize> {
        let pieces = &source.pieces;
        let (fd, offset) = (self.as_raw_fd(), file_offset(offset)?);
        if let [piece] = &*pieces.vecs {
            // SAFETY: the piece is valid for reads of its length while `source` is borrowed.
            return checked(unsafe { libc::pwrite(fd, piece.iov_base, piece.iov_len, offset) });
        }
        // SAFETY: the pieces are valid for reads of their lengths while `source` is borrowed.
        checked(unsafe { libc::pwritev(fd, pieces.vecs.as_ptr(), count(pieces), offset) })
    }
}

/// Vectored I/O on a stream socket that never blocks and never raises a signal.
pub trait SocketIo {
    /// Receives into `target`; 0 is the end of the stream.
    fn receive(&self, target: &mut Target<'_>) -> io::Result<usize>;
    /// Sends from `source`.
    fn send(&self, source: &Source<'_>) -> io::Result<usize>;
}

fn message(pieces: &Pieces<'_>) -> libc::msghdr {
    // SAFETY: `msghdr` is a plain C struct for which all zeroes is a valid value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = pieces.vecs.as_ptr().cast_mut();
    message.msg_iovlen = count(pieces) as _;
    message
}

impl SocketIo for BorrowedFd<'_> {
    fn receive(&self, target: &mut Target<'_>) -> io::Result<usize> {
        let mut message = message(&target.pieces);
        // SAFETY: the pieces are valid for writes of their lengths while `target` is borrowed.
        checked(unsafe { libc::recvmsg(self.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) })
    }

    fn send(&self, source: &Source<'_>) -> io::Result<usize> {
        let message = message(&source.pieces);
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the pieces are valid for reads of their lengths while `source` is borrowed.
        checked(unsafe { libc::sendmsg(self.as_raw_fd(), &raw const message, flags) })
    }
}
