//! Records that the host sends, one after the other.

use pyro_agent::wire::{FrameKind, RecordCutter, RecordError};

use crate::connection::Connection;
use crate::paths::FileError;

/// The `Data` frames of a connection as records, up to the empty frame.
pub(crate) struct Records<'a> {
    connection: &'a mut Connection,
    cutter: RecordCutter,
}

impl<'a> Records<'a> {
    pub(crate) fn new(connection: &'a mut Connection) -> Self {
        Self { connection, cutter: RecordCutter::new() }
    }

    /// The next record as `parse` reads it; `None` at the end.
    pub(crate) fn next<T>(
        &mut self,
        parse: impl FnOnce(&[u8]) -> Result<T, RecordError>,
    ) -> Result<Option<T>, FileError> {
        let bad = |error: RecordError| FileError::BadStream(error.to_string());
        loop {
            if let Some(body) = self.cutter.next_record().map_err(bad)? {
                return parse(body).map(Some).map_err(bad);
            }
            match self.connection.receive().map_err(FileError::Host)? {
                Some((FrameKind::Data, chunk)) if !chunk.is_empty() => self.cutter.feed(&chunk),
                Some((FrameKind::Data, _)) if self.cutter.is_empty() => return Ok(None),
                Some((FrameKind::Data, _)) => {
                    return Err(FileError::BadStream("the stream ends inside a record".to_owned()));
                }
                Some((other, _)) => {
                    return Err(FileError::BadStream(format!("{other:?} frame inside a transfer")));
                }
                None => return Err(FileError::Host(std::io::ErrorKind::ConnectionAborted.into())),
            }
        }
    }
}
