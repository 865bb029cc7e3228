//! Trees between the host and a guest: seeds and syncs in, exports and syncs out.
//!
//! Archives are packed and unpacked on blocking threads; a bounded channel joins each to the connection.
//! Dropping a transfer's future ends its thread, and what the thread had made on the host's disk goes with
//! it. A process that exits must wait for that by [`settle`].

mod bridge;
mod error;
mod export;
mod git;
mod seed;
#[cfg(test)]
mod tests;

use crate::exec::{AgentError, AgentStream, FrameReader, expect, parse_json};
use bridge::{ChunkReader, ChunkWriter};
use pyro_agent::wire::{self, FrameKind, Operation};
use pyro_tree::{Fidelity, TreeError, UnpackOptions};
use std::io::{self, Read};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{RwLock, mpsc, oneshot};

pub use error::TransferError;
pub(crate) use export::MadeParents;
pub use export::{Artifact, ExportReport, ExportTarget, Overwrite};
pub use pyro_tree::{Limits, LinkPolicy, SkipReason, Skipped, TreeStats};
pub use seed::{SeedFilter, SeedMode, SeedSource};

/// Chunks between a thread and its connection: enough that neither waits for every single one, and some
/// megabytes at most.
const QUEUE_CHUNKS: usize = 8;
/// Bytes that may follow an archive's end mark: writers fill up their last record.
const MAX_TRAILING_BYTES: u64 = 1 << 20;

/// Read by each thread that has something unfinished on the host's disk.
static UNFINISHED: RwLock<()> = RwLock::const_new(());

/// Waits until what dropped transfers of this process have left on the host's disk is gone. Those under way are
/// waited for as well.
pub async fn settle() {
    drop(UNFINISHED.write().await);
}

/// What a guest's tree may cost the host: more than the largest guest disk holds. Holes are allowed up to
/// what ext4 gives one file.
pub const PULL_LIMITS: Limits = Limits {
    max_entries: 20_000_000,
    max_stored_bytes: 256 << 30,
    max_apparent_bytes: 16 << 40,
    max_depth: pyro_tree::limits::MAX_TREE_DEPTH,
};

/// How a guest's tree is taken.
#[derive(Clone, Debug)]
pub struct PullOptions {
    /// Which symbolic links are made. Those left out are reported.
    pub links: LinkPolicy,
    /// How large it may be.
    pub limits: Limits,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self { links: LinkPolicy::InsideOnly, limits: PULL_LIMITS }
    }
}

/// Sends `source` to the agent as the data of `operation`, which must be one that takes a tree and answers
/// with its statistics. `progress` is told the bytes of the archive sent so far.
///
/// The statistics are those of what was read on the host. Dropping the future closes the connection.
pub async fn push(
    stream: UnixStream,
    operation: Operation,
    source: SeedSource,
    progress: impl FnMut(u64) + Send,
) -> Result<TreeStats, TransferError> {
    let mut agent = AgentStream::new(stream);
    agent.request(operation).await?;
    let (mut reader, mut writer) = agent.into_halves();
    let (chunks, queue) = mpsc::channel(QUEUE_CHUNKS);
    let seed = source.path().to_owned();
    let packing = tokio::task::spawn_blocking(move || {
        let mut stream = ChunkWriter::new(chunks);
        let stats = source.write(&mut stream)?;
        stream.finish()?;
        Ok(stats)
    });
    tokio::select! {
        biased;
        // Before the end only a refusal can come.
        early = reader.next() => return Err(early_answer(early).into()),
        sent = send_chunks(&mut writer, queue, progress) => {
            if let Err(error) = sent {
                return Err(refusal_or(&mut reader, error).await.into());
            }
        }
    }
    let stats = packing
        .await
        .map_err(|_| TransferError::Panicked)?
        .map_err(|source| TransferError::Seed { path: seed, source })?;
    let end = wire::emit_frame(FrameKind::Data, &[]);
    if let Err(error) = writer.write_all(&end).await {
        return Err(refusal_or(&mut reader, error.into()).await.into());
    }
    tree_reply(&mut reader).await?;
    Ok(stats)
}

async fn send_chunks(
    writer: &mut OwnedWriteHalf,
    mut queue: mpsc::Receiver<Vec<u8>>,
    mut progress: impl FnMut(u64),
) -> Result<(), AgentError> {
    let mut sent = 0;
    while let Some(chunk) = queue.recv().await {
        writer.write_all(&wire::emit_frame(FrameKind::Data, &chunk)).await?;
        sent += chunk.len() as u64;
        progress(sent);
    }
    Ok(())
}

fn early_answer(answer: Result<(wire::Header, Vec<u8>), AgentError>) -> AgentError {
    match answer {
        Ok((header, _)) => AgentError::Protocol(format!("{:?} came before the end of a tree", header.kind)),
        Err(error) => error,
    }
}

/// Why the agent closed the connection, if it said so before.
async fn refusal_or(reader: &mut FrameReader, error: AgentError) -> AgentError {
    match reader.next().await {
        Err(AgentError::Refused(failure)) => AgentError::Refused(failure),
        _ => error,
    }
}

async fn tree_reply(reader: &mut FrameReader) -> Result<wire::TreeStats, AgentError> {
    let (header, payload) = reader.next().await?;
    expect(header.kind, FrameKind::Reply)?;
    parse_json(&payload)
}

/// Receives what `operation`, one that sends a tree, gives, and puts it in place at `target` when it is
/// complete. `progress` is told the bytes of the archive received so far.
///
/// On any failure, and when the future is dropped, `target` is as it was before.
pub async fn pull(
    stream: UnixStream,
    operation: Operation,
    target: ExportTarget,
    options: PullOptions,
    progress: impl FnMut(u64) + Send,
) -> Result<ExportReport, TransferError> {
    let mut agent = AgentStream::new(stream);
    agent.request(operation).await?;
    let (mut reader, _writer) = agent.into_halves();
    // A refusal comes first; then nothing is made.
    let first = reader.next().await?;
    let (chunks, queue) = mpsc::channel(QUEUE_CHUNKS);
    let (confirm, confirmed) = oneshot::channel();
    let unfinished = UNFINISHED.read().await;
    let unpacking = tokio::task::spawn_blocking(move || {
        let unpacked = unpack(ChunkReader::new(queue), confirmed, &target, &options);
        drop(unfinished);
        unpacked
    });
    let received = receive_chunks(&mut reader, first, chunks, progress).await;
    let (failed, guest_skipped) = match received {
        Ok(stats) => {
            let _ = confirm.send(());
            (None, stats.skipped_count)
        }
        Err(stop) => {
            drop(confirm);
            (Some(stop), 0)
        }
    };
    let unpacked = unpacking.await.map_err(|_| TransferError::Panicked)?;
    match (failed, unpacked) {
        // The thread's own failure is why it took no more; a failed connection is why the thread failed.
        (Some(Stop::Agent(error)), _) => Err(error.into()),
        (_, Err(error)) => Err(error),
        (Some(Stop::Unpacker), Ok(_)) => Err(TransferError::Panicked),
        (None, Ok(mut report)) => {
            report.skipped_count = report.skipped_count.saturating_add(guest_skipped);
            Ok(report)
        }
    }
}

/// Why receiving ended early.
enum Stop {
    Agent(AgentError),
    Unpacker,
}

impl From<AgentError> for Stop {
    fn from(error: AgentError) -> Self {
        Self::Agent(error)
    }
}

async fn receive_chunks(
    reader: &mut FrameReader,
    first: (wire::Header, Vec<u8>),
    chunks: mpsc::Sender<Vec<u8>>,
    mut progress: impl FnMut(u64),
) -> Result<wire::TreeStats, Stop> {
    let (mut header, mut payload) = first;
    let mut received = 0;
    loop {
        expect(header.kind, FrameKind::Data)?;
        received += payload.len() as u64;
        progress(received);
        let is_end = payload.is_empty();
        chunks.send(payload).await.map_err(|_| Stop::Unpacker)?;
        if is_end {
            return Ok(tree_reply(reader).await?);
        }
        (header, payload) = reader.next().await?;
    }
}

/// The thread of a pull: everything it makes is gone when it fails.
fn unpack(
    mut stream: ChunkReader,
    confirmed: oneshot::Receiver<()>,
    target: &ExportTarget,
    options: &PullOptions,
) -> Result<ExportReport, TransferError> {
    let stage = target.stage()?;
    let unpacking =
        UnpackOptions { fidelity: Fidelity::Portable, links: options.links, limits: options.limits };
    let stats = pyro_tree::unpack(stage.path(), &mut stream, &unpacking)
        .and_then(|stats| drain(&mut stream).map(|()| stats))
        .map_err(|source| TransferError::Unpack { path: target.path().to_owned(), source })?;
    // The guest's last word, or nobody waits any more.
    confirmed.blocking_recv().map_err(|_| TransferError::Stopped)?;
    stage.commit(stats, target.overwrite(), options.links)
}

/// Reads up to the end of the transfer.
fn drain(stream: &mut ChunkReader) -> Result<(), TreeError> {
    let mut rest = stream.take(MAX_TRAILING_BYTES + 1);
    let trailing = io::copy(&mut rest, &mut io::sink()).map_err(pyro_tree::pax::ReadError::Io)?;
    if trailing > MAX_TRAILING_BYTES {
        let text = "bytes follow its end mark".to_owned();
        return Err(pyro_tree::pax::ReadError::Malformed(text).into());
    }
    Ok(())
}
