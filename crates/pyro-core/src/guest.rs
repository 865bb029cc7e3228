//! Everything but commands that the host does in a guest: files, walks, transactions, secrets, and the frozen
//! moment of a snapshot; whole trees are in [`transfer`](crate::transfer). Each function runs one operation over
//! a fresh connection to the agent; what the guest sends is bounded and checked before it is believed.
//!
//! Dropping a future or a value of this module ends its connection, and the agent then undoes what was not
//! finished.

mod apply;
mod check;
mod control;
mod fetch;
mod files;
mod listing;
#[cfg(test)]
mod tests;
mod upload;

pub use apply::{Transaction, apply};
pub use control::{
    Frozen, await_ready, freeze, install_authorities, install_secrets, metrics, set_clock, usage,
};
pub use fetch::{FetchedFile, FetchedKind, FilesOut, files_out};
pub use files::{FileReader, file_mkdir, file_move, file_read, file_remove, file_stat, file_write};
pub use listing::{Entries, file_list, walk};
pub use pyro_agent::wire::{
    Applied, Change, ChangeAction, DirectoryMade, Entry, Expected, FileFacts, FileKind, FileMoved, FileRead,
    FileRemoved, FileTime, FileWritten, GuestPath, Listed, Metrics, Probe, Readied, SecretItem,
    SecretsInstalled, Thawed, Usage,
};
pub use upload::Upload;

use crate::exec::{AgentError, AgentStream, parse_json};
use pyro_agent::wire::{FrameKind, Operation};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

/// An operation without data: a request and its reply.
async fn ask<T: DeserializeOwned>(stream: UnixStream, operation: Operation) -> Result<T, AgentError> {
    let mut stream = AgentStream::new(stream);
    stream.request(operation).await?;
    stream.expect_json(FrameKind::Reply).await
}

/// What comes next of an operation that sends data.
enum Piece<T> {
    Data(Vec<u8>),
    Reply(T),
}

/// Receives the data and the reply of an operation.
struct Download {
    stream: AgentStream,
    /// Whether the empty frame that ends the data has come.
    ended: bool,
}

impl Download {
    async fn start(stream: UnixStream, operation: Operation) -> Result<Self, AgentError> {
        let mut stream = AgentStream::new(stream);
        stream.request(operation).await?;
        Ok(Self { stream, ended: false })
    }

    /// The next piece. Cancel safe.
    async fn next<T: DeserializeOwned>(&mut self) -> Result<Piece<T>, AgentError> {
        loop {
            let (header, payload) = self.stream.reader.next().await?;
            match (header.kind, self.ended) {
                (FrameKind::Data, false) if payload.is_empty() => self.ended = true,
                (FrameKind::Data, false) => return Ok(Piece::Data(payload)),
                (FrameKind::Reply, true) => return Ok(Piece::Reply(parse_json(&payload)?)),
                (kind, _) => return Err(lie(format!("{kind:?} came during a transfer"))),
            }
        }
    }
}

/// The guest sent what no agent sends.
fn lie(text: impl Into<String>) -> AgentError {
    AgentError::Protocol(text.into())
}
