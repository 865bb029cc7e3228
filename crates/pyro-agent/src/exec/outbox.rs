//! Frames on their way to the host.

use pyro_agent::wire::{DATA_CHUNK_BYTES, FrameKind, HEADER_BYTES, Header};

/// Bytes that the host has not taken yet. Output is read into its place here: it is copied by the kernel alone.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outbox {
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Forgets the first `len` unsent bytes.
    pub(super) fn take(&mut self, len: usize) {
        self.sent += len;
        if self.is_empty() {
            self.bytes.clear();
            self.sent = 0;
        }
    }

    /// Adds a whole frame.
    pub(super) fn push(&mut self, frame: &[u8]) {
        self.bytes.extend_from_slice(frame);
    }

    /// Adds bytes in frames of at most [`DATA_CHUNK_BYTES`].
    pub(super) fn push_chunks(&mut self, kind: FrameKind, bytes: &[u8]) {
        for chunk in bytes.chunks(DATA_CHUNK_BYTES) {
            self.bytes.extend_from_slice(&Header { kind, len: chunk.len() }.emit());
            self.bytes.extend_from_slice(chunk);
        }
    }

    /// Adds a frame whose payload is what `read` puts into the room that it is given; none when that is nothing.
    pub(super) fn fill<E>(
        &mut self,
        kind: FrameKind,
        read: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        self.bytes.drain(..self.sent);
        self.sent = 0;
        let start = self.bytes.len();
        let payload = start + HEADER_BYTES;
        self.bytes.resize(payload + DATA_CHUNK_BYTES, 0);
        let result = read(&mut self.bytes[payload..]);
        let len = *result.as_ref().unwrap_or(&0);
        if len > 0 {
            self.bytes[start..payload].copy_from_slice(&Header { kind, len }.emit());
            self.bytes.truncate(payload + len);
        } else {
            self.bytes.truncate(start);
        }
        result
    }
}
