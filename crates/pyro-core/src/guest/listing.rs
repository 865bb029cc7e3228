//! Entries of directories as they come.

use super::{Download, Piece, check, lie};
use crate::exec::AgentError;
use pyro_agent::wire::{Entry, GuestPath, Listed, Operation, RecordCutter};
use std::cmp::Ordering;
use tokio::net::UnixStream;

/// A stream of entries, strictly in the order of a walk: siblings sorted by their bytes, a directory before
/// what is in it. So no path comes twice.
pub struct Entries {
    download: Download,
    cutter: RecordCutter,
    limit: u64,
    recursive: bool,
    count: u64,
    /// The path of the entry before.
    last: Option<Vec<u8>>,
    result: Option<Listed>,
}

impl Entries {
    async fn start(
        stream: UnixStream,
        operation: Operation,
        limit: u64,
        recursive: bool,
    ) -> Result<Self, AgentError> {
        let download = Download::start(stream, operation).await?;
        let cutter = RecordCutter::new();
        Ok(Self { download, cutter, limit, recursive, count: 0, last: None, result: None })
    }

    /// The next entry; `None` at the end. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Entry>, AgentError> {
        loop {
            let record = self.cutter.next_record().map_err(|error| lie(error.to_string()))?;
            if let Some(body) = record {
                let entry = Entry::parse(body).map_err(|error| lie(error.to_string()))?;
                self.check(&entry)?;
                return Ok(Some(entry));
            }
            if self.result.is_some() {
                return Ok(None);
            }
            match self.download.next::<Listed>().await? {
                Piece::Data(bytes) => self.cutter.feed(&bytes),
                Piece::Reply(result) if self.cutter.is_empty() && result.count == self.count => {
                    self.result = Some(result);
                }
                Piece::Reply(result) => {
                    let text = format!("{} entries were announced, {} came", result.count, self.count);
                    return Err(lie(text));
                }
            }
        }
    }

    /// How many there were, and whether there are more; known when [`Entries::next`] has given `None`.
    pub fn result(&self) -> Option<Listed> {
        self.result
    }

    /// All of them in memory; more than `max_entries` are an error.
    pub async fn collect(mut self, max_entries: usize) -> Result<(Vec<Entry>, Listed), AgentError> {
        let mut all = Vec::new();
        while let Some(entry) = self.next().await? {
            if all.len() >= max_entries {
                return Err(lie(format!("more than {max_entries} entries came")));
            }
            all.push(entry);
        }
        let result = self.result.ok_or(AgentError::Disconnected)?;
        Ok((all, result))
    }

    fn check(&mut self, entry: &Entry) -> Result<(), AgentError> {
        if self.count >= self.limit {
            return Err(lie("more entries came than were asked for"));
        }
        self.count += 1;
        let first = self.last.is_none();
        // A listing of anything but a directory is that thing alone, without a path.
        if !(entry.path.is_empty() && first) {
            check::relative_path(&entry.path)?;
            if !self.recursive && entry.path.contains(&b'/') {
                return Err(lie("an entry of a directory below came"));
            }
        }
        if let Some(last) = &self.last
            && (last.is_empty() || check::walk_order(last, &entry.path) != Ordering::Less)
        {
            let shown = entry.path[..entry.path.len().min(200)].escape_ascii();
            return Err(lie(format!("entry \"{shown}\" came out of order")));
        }
        let last = self.last.get_or_insert_default();
        last.clear();
        last.extend_from_slice(&entry.path);
        Ok(())
    }
}

/// Lists up to `limit` entries below `path`, whose paths are relative to it. Anything but a directory is one
/// entry with an empty path.
pub async fn file_list(
    stream: UnixStream,
    root: &GuestPath,
    path: &GuestPath,
    recursive: bool,
    limit: u64,
) -> Result<Entries, AgentError> {
    let operation = Operation::FileList { root: root.clone(), path: path.clone(), recursive, limit };
    Entries::start(stream, operation, limit, recursive).await
}

/// Metadata of everything below the directory at the absolute `path`; more than `max_entries` are an error.
pub async fn walk(stream: UnixStream, path: &GuestPath, max_entries: u64) -> Result<Entries, AgentError> {
    Entries::start(stream, Operation::Walk { path: path.clone() }, max_entries, true).await
}
