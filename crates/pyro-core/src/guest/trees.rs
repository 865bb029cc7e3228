//! Whole trees as tar streams.

use super::upload::Upload;
use super::{Download, Piece};
use crate::exec::AgentError;
use pyro_agent::wire::{GuestPath, Operation, TreeStats};
use tokio::net::UnixStream;

/// A tree's archive as it comes. Its content is the guest's claim: whoever unpacks it must not trust it.
pub struct TreeDownload {
    download: Download,
    stats: Option<TreeStats>,
}

impl TreeDownload {
    /// The next bytes of the archive; `None` at the end. Cancel safe.
    pub async fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, AgentError> {
        if self.stats.is_some() {
            return Ok(None);
        }
        match self.download.next::<TreeStats>().await? {
            Piece::Data(bytes) => Ok(Some(bytes)),
            Piece::Reply(stats) => {
                self.stats = Some(stats);
                Ok(None)
            }
        }
    }

    /// What the guest says it sent; known when [`TreeDownload::next_chunk`] has given `None`.
    pub fn stats(&self) -> Option<TreeStats> {
        self.stats
    }
}

/// Receives the directory at an absolute path as a pax archive whose members are `.`, `./a`, ...
pub async fn tree_out(stream: UnixStream, path: &str) -> Result<TreeDownload, AgentError> {
    let download = Download::start(stream, Operation::TreeOut { path: path.to_owned() }).await?;
    Ok(TreeDownload { download, stats: None })
}

/// Sends a tar archive that is unpacked at `path` as it comes.
pub async fn tree_in(stream: UnixStream, path: &str) -> Result<Upload<TreeStats>, AgentError> {
    Upload::start(stream, Operation::TreeIn { path: path.to_owned() }).await
}

/// Sends a tar archive that is merged into `path`, at or below `root`, when it is there whole.
pub async fn sync_in(
    stream: UnixStream,
    root: &GuestPath,
    path: &GuestPath,
) -> Result<Upload<TreeStats>, AgentError> {
    Upload::start(stream, Operation::SyncIn { root: root.clone(), path: path.clone() }).await
}
