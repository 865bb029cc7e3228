use super::{FrameError, FrameKind, HEADER_BYTES, Header};

/// Cuts a byte stream into frames.
///
/// Holds at most one incomplete frame plus what the caller feeds at a time, so a caller that empties it
/// with [`Decoder::next_frame`] before it feeds more keeps it within [`super::MAX_PAYLOAD_BYTES`] and one read.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    taken: usize,
}

impl Decoder {
    /// An empty decoder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes of the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.feed_by(|buffer| buffer.extend_from_slice(bytes));
    }

    /// Adds the bytes of the stream that `read` appends to what it is given.
    pub fn feed_by<T>(&mut self, read: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        read(&mut self.buffer)
    }

    /// The next whole frame, or `None` until more bytes are fed. After an error the stream is unusable.
    pub fn next_frame(&mut self) -> Result<Option<(FrameKind, Vec<u8>)>, FrameError> {
        let rest = &self.buffer[self.taken..];
        let Some((head, rest)) = rest.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let header = Header::parse(*head)?;
        let Some(payload) = rest.get(..header.len) else { return Ok(None) };
        let payload = payload.to_vec();
        self.taken += HEADER_BYTES + header.len;
        Ok(Some((header.kind, payload)))
    }

    /// Whether the stream may end here: no frame is incomplete.
    pub fn is_empty(&self) -> bool {
        self.taken == self.buffer.len()
    }
}
