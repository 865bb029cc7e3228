//! Many changes that all happen or none.

use super::upload::Upload;
use crate::exec::AgentError;
use pyro_agent::wire::{
    Applied, Change, ChangeAction, ChangeItem, DATA_CHUNK_BYTES, Expected, GuestPath, Operation,
};
use tokio::net::UnixStream;

/// Changes on their way to the guest, where nothing happens before [`Transaction::commit`]. Paths are
/// relative to the transaction's root, and each may be named once.
pub struct Transaction {
    upload: Upload<Applied>,
}

impl Transaction {
    /// Writes a regular file. Without a `mode` an existing file's is kept, and a new one gets 0644.
    pub async fn write(
        &mut self,
        path: &[u8],
        expected: Expected,
        mode: Option<u32>,
        content: &[u8],
    ) -> Result<(), AgentError> {
        self.change(path, expected, ChangeAction::Write { mode }).await?;
        for chunk in content.chunks(DATA_CHUNK_BYTES) {
            self.item(&ChangeItem::Chunk(chunk.to_vec())).await?;
        }
        self.item(&ChangeItem::End).await
    }

    /// Removes a file or link.
    pub async fn remove(&mut self, path: &[u8], expected: Expected) -> Result<(), AgentError> {
        self.change(path, expected, ChangeAction::Remove).await
    }

    /// Changes a regular file's permission bits.
    pub async fn chmod(&mut self, path: &[u8], expected: Expected, mode: u32) -> Result<(), AgentError> {
        self.change(path, expected, ChangeAction::Chmod { mode }).await
    }

    /// Makes a symbolic link, in place of a file or link if there is one.
    pub async fn symlink(
        &mut self,
        path: &[u8],
        expected: Expected,
        target: &[u8],
    ) -> Result<(), AgentError> {
        self.change(path, expected, ChangeAction::Symlink { target: target.to_vec() }).await
    }

    /// Lets the guest check all conditions and apply all changes. On an error it has changed nothing.
    pub async fn commit(self) -> Result<Applied, AgentError> {
        self.upload.finish().await
    }

    async fn change(
        &mut self,
        path: &[u8],
        expected: Expected,
        action: ChangeAction,
    ) -> Result<(), AgentError> {
        self.item(&ChangeItem::Change(Change { path: path.to_vec(), expected, action })).await
    }

    async fn item(&mut self, item: &ChangeItem) -> Result<(), AgentError> {
        let mut record = Vec::new();
        item.emit(&mut record);
        self.upload.send(&record).await
    }
}

/// Starts a transaction below the directory at the absolute path `root`. With `prune`, directories that it
/// leaves empty go, too.
pub async fn apply(stream: UnixStream, root: &GuestPath, prune: bool) -> Result<Transaction, AgentError> {
    Ok(Transaction { upload: Upload::start(stream, Operation::Apply { root: root.clone(), prune }).await? })
}
