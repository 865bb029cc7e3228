//! Channels of chunks as the streams that synchronous code reads and writes.

use pyro_agent::wire::DATA_CHUNK_BYTES;
use pyro_tree::TreeError;
use pyro_tree::pax::WriteError;
use std::io::{self, Read, Write};
use tokio::sync::mpsc;

/// Writes into a channel. Fails as soon as nobody receives.
pub(super) struct ChunkWriter {
    chunks: mpsc::Sender<Vec<u8>>,
    chunk: Vec<u8>,
}

impl ChunkWriter {
    pub(super) fn new(chunks: mpsc::Sender<Vec<u8>>) -> Self {
        Self { chunks, chunk: Vec::new() }
    }

    /// `inner`, which fails as well once nobody receives: for reading that gives nothing to write.
    pub(super) fn guard<R: Read>(&self, inner: R) -> Guarded<R> {
        Guarded { inner, chunks: self.chunks.clone() }
    }

    pub(super) fn finish(mut self) -> Result<(), TreeError> {
        Ok(self.flush().map_err(WriteError::Io)?)
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(DATA_CHUNK_BYTES - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..len]);
        if self.chunk.len() == DATA_CHUNK_BYTES {
            self.flush()?;
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let next = Vec::with_capacity(DATA_CHUNK_BYTES);
        let full = std::mem::replace(&mut self.chunk, next);
        self.chunks.blocking_send(full).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// A stream that ends when its [`ChunkWriter`] has no reader any more.
pub(super) struct Guarded<R> {
    inner: R,
    chunks: mpsc::Sender<Vec<u8>>,
}

impl<R: Read> Read for Guarded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.chunks.is_closed() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.inner.read(buffer)
    }
}

/// Reads from a channel up to an empty chunk. A channel that closes without one broke off.
pub(super) struct ChunkReader {
    chunks: mpsc::Receiver<Vec<u8>>,
    chunk: Vec<u8>,
    taken: usize,
    ended: bool,
}

impl ChunkReader {
    pub(super) fn new(chunks: mpsc::Receiver<Vec<u8>>) -> Self {
        Self { chunks, chunk: Vec::new(), taken: 0, ended: false }
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.chunk.len() && !self.ended {
            self.chunk = self.chunks.blocking_recv().ok_or(io::ErrorKind::ConnectionAborted)?;
            self.taken = 0;
            self.ended = self.chunk.is_empty();
        }
        let len = buffer.len().min(self.chunk.len() - self.taken);
        buffer[..len].copy_from_slice(&self.chunk[self.taken..self.taken + len]);
        self.taken += len;
        Ok(len)
    }
}
