//! One connection with the host: frames over a stream socket, vsock in a guest, Unix in tests.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use pyro_agent::wire::{self, DATA_CHUNK_BYTES, Decoder, Failure, FailureCode, FrameKind};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec};
use serde::Serialize;

use crate::limits::READ_BYTES;

/// A stream socket and the bytes of it that are not yet a frame.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    decoder: Decoder,
}

impl Connection {
    /// A blocking connection.
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket, decoder: Decoder::new() }
    }

    /// Its parts, for an operation that polls the socket itself.
    pub(crate) fn parts(&mut self) -> (&OwnedFd, &mut Decoder) {
        (&self.socket, &mut self.decoder)
    }

    /// The next frame; `None` when the host has closed.
    pub(crate) fn receive(&mut self) -> io::Result<Option<(FrameKind, Vec<u8>)>> {
        loop {
            match self.decoder.next_frame() {
                Ok(Some(frame)) => return Ok(Some(frame)),
                Ok(None) => {}
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
            let read = self.decoder.feed_by(|buffer| {
                retry(|| {
                    buffer.reserve(READ_BYTES);
                    rustix::io::read(&self.socket, spare_capacity(buffer))
                })
            });
            if read? == 0 {
                return Ok(None);
            }
        }
    }

    /// The next frame, if its first bytes come in time.
    pub(crate) fn receive_within(&mut self, limit: Duration) -> io::Result<Option<(FrameKind, Vec<u8>)>> {
        if wait(self.socket.as_fd(), PollFlags::IN, limit)? { self.receive() } else { Ok(None) }
    }

    /// Sends a JSON frame.
    pub(crate) fn send<T: Serialize>(&mut self, kind: FrameKind, message: &T) -> io::Result<()> {
        let frame = wire::emit_json(kind, message).map_err(io::Error::other)?;
        self.send_bytes(&frame)
    }

    /// Sends bytes that are whole frames.
    pub(crate) fn send_bytes(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = retry(|| rustix::net::send(&self.socket, bytes, rustix::net::SendFlags::NOSIGNAL))?;
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    /// Ends sending and waits for the host to close, so that no reset overtakes the last frame.
    pub(crate) fn linger(self, limit: Duration) {
        if rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write).is_ok() {
            self.await_close(limit);
        }
    }

    /// Waits for the host to close.
    pub(crate) fn await_close(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut sink = [0; 16 << 10];
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            match wait(self.socket.as_fd(), PollFlags::IN, left) {
                Ok(true) => {}
                Ok(false) | Err(_) => return,
            }
            if !matches!(rustix::io::read(&self.socket, &mut sink), Ok(1..)) {
                return;
            }
        }
    }
}

/// Waits for one event on one descriptor.
pub(crate) fn wait(fd: BorrowedFd<'_>, events: PollFlags, limit: Duration) -> io::Result<bool> {
    let mut poll = [PollFd::from_borrowed_fd(fd, events)];
    let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
    Ok(retry(|| rustix::event::poll(&mut poll, Some(&limit)))? > 0)
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}

/// The `Data` frames of a transfer from the host as one byte stream.
pub(crate) struct DataReader<'a> {
    connection: &'a mut Connection,
    chunk: Vec<u8>,
    taken: usize,
    ended: bool,
}

impl<'a> DataReader<'a> {
    pub(crate) fn new(connection: &'a mut Connection) -> Self {
        Self { connection, chunk: Vec::new(), taken: 0, ended: false }
    }
}

impl Read for DataReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.chunk.len() && !self.ended {
            match self.connection.receive()? {
                Some((FrameKind::Data, chunk)) => {
                    self.ended = chunk.is_empty();
                    (self.chunk, self.taken) = (chunk, 0);
                }
                Some((other, _)) => {
                    let text = format!("{other:?} frame inside a transfer");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
                None => return Err(io::ErrorKind::ConnectionAborted.into()),
            }
        }
        let len = buffer.len().min(self.chunk.len() - self.taken);
        buffer[..len].copy_from_slice(&self.chunk[self.taken..self.taken + len]);
        self.taken += len;
        Ok(len)
    }
}

/// A byte stream to the host as `Data` frames of [`DATA_CHUNK_BYTES`].
pub(crate) struct DataWriter<'a> {
    connection: &'a mut Connection,
    frame: Vec<u8>,
}

impl<'a> DataWriter<'a> {
    pub(crate) fn new(connection: &'a mut Connection) -> Self {
        Self { connection, frame: Vec::with_capacity(DATA_CHUNK_BYTES) }
    }

    /// Sends what is left and the empty frame that ends the transfer.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.connection.send_bytes(&wire::emit_frame(FrameKind::Data, &[]))
    }
}

impl Write for DataWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(DATA_CHUNK_BYTES - self.frame.len());
        self.frame.extend_from_slice(&bytes[..len]);
        if self.frame.len() == DATA_CHUNK_BYTES {
            self.flush()?;
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.frame.is_empty() {
            self.connection.send_bytes(&wire::emit_frame(FrameKind::Data, &self.frame))?;
            self.frame.clear();
        }
        Ok(())
    }
}

/// A failure for the host.
pub(crate) fn failure(code: FailureCode, message: impl Into<String>) -> Failure {
    Failure { code, message: message.into() }
}

/// The failure that an error of the kernel means, with what was tried.
pub(crate) fn os_failure(what: &str, error: &io::Error) -> Failure {
    let code = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => FailureCode::NotFound,
        io::ErrorKind::PermissionDenied => FailureCode::PermissionDenied,
        _ => FailureCode::Os,
    };
    failure(code, format!("{what}: {error}"))
}
