//! What a host socket has not taken yet.

use std::io;
use std::os::fd::BorrowedFd;

use crate::device::iov::{SocketIo, Source};

/// Bytes in order. Takes memory only while there are any.
#[derive(Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    /// Of those, how many have left already.
    gone: usize,
}

impl Buffer {
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.gone
    }

    /// Appends; the caller bounds the length by the connection's credit.
    pub(super) fn push(&mut self, source: &Source<'_>) {
        self.bytes.drain(..self.gone);
        self.gone = 0;
        let end = self.bytes.len();
        self.bytes.resize(end + source.len(), 0);
        source.copy_to(&mut self.bytes[end..]);
    }

    /// Sends what the socket takes and returns how much that was.
    pub(super) fn send_to(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let sent = socket.send(&Source::from_slice(&self.bytes[self.gone..]))?;
        self.gone += sent;
        if self.is_empty() {
            *self = Buffer::default();
        }
        Ok(sent)
    }
}
