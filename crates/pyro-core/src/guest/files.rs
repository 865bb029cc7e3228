//! Single files and directories. All paths are absolute and at or below `root`.

use super::upload::Upload;
use super::{Download, Piece, ask, lie};
use crate::exec::AgentError;
use pyro_agent::wire::{
    DirectoryMade, FileFacts, FileKind, FileMoved, FileRead, FileRemoved, FileWritten, GuestPath, Operation,
};
use tokio::net::UnixStream;

/// Metadata of `path`, which is not followed if it is a link.
pub async fn file_stat(
    stream: UnixStream,
    root: &GuestPath,
    path: &GuestPath,
) -> Result<FileFacts, AgentError> {
    let facts: FileFacts =
        ask(stream, Operation::FileStat { root: root.clone(), path: path.clone() }).await?;
    let has_target = facts.link_target.is_some();
    if facts.mode > 0o7777 || facts.mtime.nanos >= 1_000_000_000 || facts.ctime.nanos >= 1_000_000_000 {
        return Err(lie("a file's facts are out of range"));
    }
    if has_target != (facts.kind == FileKind::Symlink) {
        return Err(lie("a link's target came without a link, or the reverse"));
    }
    Ok(facts)
}

/// A file's bytes as they come.
pub struct FileReader {
    download: Download,
    left: u64,
    offset: u64,
    received: u64,
    result: Option<FileRead>,
}

impl FileReader {
    /// The next bytes; `None` at the end. Cancel safe.
    pub async fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, AgentError> {
        if self.result.is_some() {
            return Ok(None);
        }
        match self.download.next::<FileRead>().await? {
            Piece::Data(bytes) => {
                let len = bytes.len() as u64;
                self.left = self
                    .left
                    .checked_sub(len)
                    .ok_or_else(|| lie("more of a file came than was asked for"))?;
                self.received += len;
                Ok(Some(bytes))
            }
            Piece::Reply(result) => {
                if result.mode > 0o7777 {
                    return Err(lie("a file's mode is out of range"));
                }
                self.result = Some(result);
                Ok(None)
            }
        }
    }

    /// Size and mode of the whole file; known when [`FileReader::next_chunk`] has given `None`.
    pub fn result(&self) -> Option<FileRead> {
        self.result
    }

    /// All that was asked for, in memory: ask for no more than fits.
    pub async fn read_to_end(mut self) -> Result<(Vec<u8>, FileRead), AgentError> {
        let mut all = Vec::new();
        while let Some(chunk) = self.next_chunk().await? {
            all.extend_from_slice(&chunk);
        }
        let result = self.result.ok_or(AgentError::Disconnected)?;
        // A file may change while it is read, but what says to be whole must be.
        let end = self.offset.saturating_add(self.received);
        if !result.truncated && end < result.size_bytes && self.received > 0 {
            return Err(lie("a file came short and was not said to"));
        }
        Ok((all, result))
    }
}

/// Reads up to `max_bytes` of a regular file from `offset`.
pub async fn file_read(
    stream: UnixStream,
    root: &GuestPath,
    path: &GuestPath,
    offset: u64,
    max_bytes: u64,
) -> Result<FileReader, AgentError> {
    let operation = Operation::FileRead { root: root.clone(), path: path.clone(), offset, max_bytes };
    let download = Download::start(stream, operation).await?;
    Ok(FileReader { download, left: max_bytes, offset, received: 0, result: None })
}

/// Starts writing a file, which appears whole when [`Upload::finish`] succeeds. Without a `mode` an existing
/// file's is kept, and a new one gets 0644.
pub async fn file_write(
    stream: UnixStream,
    root: &GuestPath,
    path: &GuestPath,
    mode: Option<u32>,
    create_parents: bool,
) -> Result<Upload<FileWritten>, AgentError> {
    let (root, path) = (root.clone(), path.clone());
    Upload::start(stream, Operation::FileWrite { root, path, mode, create_parents }).await
}

/// Removes a file, or with `recursive` a tree.
pub async fn file_remove(
    stream: UnixStream,
    root: &GuestPath,
    path: &GuestPath,
    recursive: bool,
) -> Result<FileRemoved, AgentError> {
    ask(stream, Operation::FileRemove { root: root.clone(), path: path.clone(), recursive }).await
}

/// Makes a directory; with `parents` also those above it, and one that exists is no error.
pub async fn file_mkdir(
    stream: UnixStream,
    root: &GuestPath,
    path: &GuestPath,
    parents: bool,
) -> Result<DirectoryMade, AgentError> {
    ask(stream, Operation::FileMkdir { root: root.clone(), path: path.clone(), parents }).await
}

/// Renames; `replace` allows `to` to be taken.
pub async fn file_move(
    stream: UnixStream,
    root: &GuestPath,
    from: &GuestPath,
    to: &GuestPath,
    replace: bool,
) -> Result<FileMoved, AgentError> {
    let (root, from, to) = (root.clone(), from.clone(), to.clone());
    ask(stream, Operation::FileMove { root, from, to, replace }).await
}
