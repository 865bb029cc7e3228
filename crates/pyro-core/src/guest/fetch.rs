//! The contents of many files in one connection.

use super::{Download, Piece, check, lie};
use crate::exec::{AgentError, AgentStream};
use pyro_agent::wire::{
    self, DATA_CHUNK_BYTES, Failure, FailureCode, FetchItem, FileFacts, FileKind, FrameKind, GuestPath,
    MAX_BATCH, MAX_BATCH_BYTES, Operation, RecordCutter, emit_path,
};
use std::collections::VecDeque;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

/// What was found at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchedKind {
    /// Nothing, or it lies behind a symbolic link.
    Absent,
    /// A regular file and its content, at most `max_bytes`.
    File(FileFacts, Vec<u8>),
    /// A regular file over `max_bytes`.
    TooLarge(FileFacts),
    /// Anything else; a link's target is in its facts.
    Other(FileFacts),
}

/// One path's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedFile {
    /// As it was asked for.
    pub path: Vec<u8>,
    /// What is there.
    pub found: FetchedKind,
}

/// Files as they come, in the order in which they were asked for. One is in memory at a time.
pub struct FilesOut {
    download: Download,
    cutter: RecordCutter,
    paths: VecDeque<Vec<u8>>,
    max_bytes: u64,
    open: Option<(FileFacts, Vec<u8>)>,
    done: bool,
}

#[derive(serde::Deserialize)]
struct Done {}

impl FilesOut {
    /// The next file; `None` after the last. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<FetchedFile>, AgentError> {
        loop {
            let record = self.cutter.next_record().map_err(|error| lie(error.to_string()))?;
            if let Some(body) = record {
                let item = FetchItem::parse(body).map_err(|error| lie(error.to_string()))?;
                let Some(found) = self.take(item)? else { continue };
                let path = self.paths.pop_front().ok_or_else(|| lie("a file came that nobody asked for"))?;
                return Ok(Some(FetchedFile { path, found }));
            }
            if self.done {
                return Ok(None);
            }
            match self.download.next::<Done>().await? {
                Piece::Data(bytes) => self.cutter.feed(&bytes),
                Piece::Reply(Done {})
                    if self.cutter.is_empty() && self.paths.is_empty() && self.open.is_none() =>
                {
                    self.done = true;
                }
                Piece::Reply(Done {}) => return Err(lie("not all files came that were asked for")),
            }
        }
    }

    /// Takes an item; gives what a path's last one completes.
    fn take(&mut self, item: FetchItem) -> Result<Option<FetchedKind>, AgentError> {
        let regular = |facts: &FileFacts| facts.kind == FileKind::File;
        match (item, &mut self.open) {
            (FetchItem::Absent, None) => Ok(Some(FetchedKind::Absent)),
            (FetchItem::TooLarge(facts), None) if regular(&facts) => Ok(Some(FetchedKind::TooLarge(facts))),
            (FetchItem::Bare(facts), None) if !regular(&facts) => Ok(Some(FetchedKind::Other(facts))),
            (FetchItem::Content(facts), None) if regular(&facts) && !self.paths.is_empty() => {
                self.open = Some((facts, Vec::new()));
                Ok(None)
            }
            (FetchItem::Chunk(bytes), Some((_, content))) => {
                if (content.len() + bytes.len()) as u64 > self.max_bytes {
                    return Err(lie("more of a file came than was asked for"));
                }
                content.extend_from_slice(&bytes);
                Ok(None)
            }
            (FetchItem::End, Some(_)) => Ok(self.open.take().map(|(mut facts, content)| {
                // It may have shrunk while it was read; what came is what there is.
                facts.size_bytes = content.len() as u64;
                FetchedKind::File(facts, content)
            })),
            _ => Err(lie("a file's pieces came out of order")),
        }
    }
}

/// Asks for the files at `paths`, which are relative to the directory at the absolute path `root`. Contents
/// of more than `max_bytes` stay in the guest. At most [`MAX_BATCH`] paths go at a time.
pub async fn files_out(
    stream: UnixStream,
    root: &GuestPath,
    paths: Vec<Vec<u8>>,
    max_bytes: u64,
) -> Result<FilesOut, AgentError> {
    let total: usize = paths.iter().map(Vec::len).sum();
    if paths.len() > MAX_BATCH || total > MAX_BATCH_BYTES {
        let message = format!("{} paths of {total} bytes are too many for one request", paths.len());
        return Err(AgentError::Refused(Failure { code: FailureCode::BadRequest, message }));
    }
    for path in &paths {
        check::relative_path(path).map_err(|error| {
            AgentError::Refused(Failure { code: FailureCode::BadRequest, message: error.to_string() })
        })?;
    }
    let mut stream = AgentStream::new(stream);
    stream.request(Operation::FilesOut { root: root.clone(), max_bytes }).await?;
    let sent = send_paths(&mut stream, &paths).await;
    let download = Download { stream, ended: false };
    let mut files = FilesOut {
        download,
        cutter: RecordCutter::new(),
        paths: paths.into(),
        max_bytes,
        open: None,
        done: false,
    };
    match sent {
        Ok(()) => Ok(files),
        // It has closed; why it did may be there to be read.
        Err(error) => match files.next().await {
            Err(refusal @ AgentError::Refused(_)) => Err(refusal),
            _ => Err(error),
        },
    }
}

/// The agent reads all paths before it sends anything, so nobody waits for the other.
async fn send_paths(stream: &mut AgentStream, paths: &[Vec<u8>]) -> Result<(), AgentError> {
    let mut records = Vec::new();
    for path in paths {
        emit_path(path, &mut records);
        if records.len() >= DATA_CHUNK_BYTES {
            stream.writer.write_all(&wire::emit_frame(FrameKind::Data, &records)).await?;
            records.clear();
        }
    }
    if !records.is_empty() {
        stream.writer.write_all(&wire::emit_frame(FrameKind::Data, &records)).await?;
    }
    Ok(stream.writer.write_all(&wire::emit_frame(FrameKind::Data, &[])).await?)
}
