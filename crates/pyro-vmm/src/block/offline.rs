//! Work on deltas of machines that do not run.
//!
//! An unsealed delta is locked during the work. The lock belongs to the open file description, so the file
//! must be opened for the work alone: a duplicate of a descriptor that a machine has would share its lock.

use std::fs::File;
use std::ops::Range;

use super::format::{self, BLOCK_BYTES, Header, LayerId};
use super::layers::{Delta, OpenError};
use super::overlay::{check_empty, create_delta as create_in, lock};
use super::reader::write_sparse;
use super::storage::{Storage, read_all, write_all};
use super::table::{State, Table};
use crate::device::iov::{Source, Target};

/// What a merge copies at once.
const MERGE_CHUNK_BYTES: u64 = 1 << 20;

/// What a delta says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaFacts {
    /// Its name.
    pub id: LayerId,
    /// The delta that it lies on, all zero when that is the base.
    pub parent: LayerId,
    /// The disk's size.
    pub size_bytes: u64,
    /// Whether it is complete and never changes again.
    pub sealed: bool,
    /// What it holds of the disk, in whole blocks.
    pub allocated_bytes: u64,
}

/// Reads a delta's facts. Those of one that is written right now are as of its last flush.
pub fn inspect(delta: &File) -> Result<DeltaFacts, OpenError> {
    let (header, table) = format::load(delta)?;
    Ok(DeltaFacts {
        id: header.id,
        parent: header.parent,
        size_bytes: header.size_bytes,
        sealed: header.sealed,
        allocated_bytes: table.present() * BLOCK_BYTES,
    })
}

/// What a delta holds of the disk, in whole blocks: what counts against a disk's limit.
pub fn allocated_bytes(delta: &File) -> Result<u64, OpenError> {
    Ok(inspect(delta)?.allocated_bytes)
}

/// Makes an empty unsealed delta for a disk of `size_bytes`, in the empty file `file`, on the sealed delta
/// `parent` or on the base alone. Durable when this returns, but for the file's name.
pub fn create_delta(file: &File, parent: Option<&File>, size_bytes: u64) -> Result<LayerId, OpenError> {
    create_on(file, parent, size_bytes)
}

/// Seals a delta that nobody writes, with everything that was flushed to it. One that is sealed stays as it
/// is. Durable when this returns.
pub fn seal(delta: &File) -> Result<LayerId, OpenError> {
    seal_in(delta)
}

/// Writes to the empty file `out` one sealed delta that does what sealed `child` over sealed `parent` do.
/// It lies on what `parent` lies on and has the name of `child`, so deltas above stay where they are.
/// Durable when this returns, but for the file's name: rename it over the child, then forget the parent.
pub fn merge(parent: &File, child: &File, out: &File) -> Result<LayerId, OpenError> {
    merge_into(parent, child, &out)
}

pub(super) fn create_on<S: Storage>(
    file: S,
    parent: Option<S>,
    size_bytes: u64,
) -> Result<LayerId, OpenError> {
    let parent = match parent {
        Some(parent) => {
            let (header, _) = format::load(&parent)?;
            if !header.sealed {
                return Err(OpenError::NotSealed);
            }
            if size_bytes < header.size_bytes {
                return Err(OpenError::Shrinks { size_bytes, below_bytes: header.size_bytes });
            }
            header.id
        }
        None => [0; 16],
    };
    check_empty(&file)?;
    lock(&file)?;
    let header = create_in(&file, parent, size_bytes)?;
    file.sync()?;
    file.unlock()?;
    Ok(header.id)
}

pub(super) fn seal_in<S: Storage>(delta: S) -> Result<LayerId, OpenError> {
    // Also when it is sealed: a machine that is about to seal it may still take that back.
    lock(&delta)?;
    let (header, _) = format::load(&delta)?;
    // Also what another process wrote but did not live to make durable, its seal included.
    delta.sync()?;
    if !header.sealed {
        let sealed = Header { sealed: true, ..header };
        write_all(&delta, &Source::from_slice(&sealed.emit()), 0)?;
        delta.sync()?;
    }
    delta.unlock()?;
    Ok(header.id)
}

pub(super) fn merge_into<S: Storage>(parent: S, child: S, out: &impl Storage) -> Result<LayerId, OpenError> {
    let (parent, parent_header) = load_sealed(parent)?;
    let (child, header) = load_sealed(child)?;
    if header.parent != parent_header.id {
        return Err(OpenError::WrongParent);
    }
    check_empty(out)?;
    lock(out)?;
    let merged = Header { parent: parent_header.parent, sealed: false, ..header };
    out.set_len(format::blocks_offset(merged.size_bytes) + merged.size_bytes)?;
    write_all(out, &Source::from_slice(&merged.emit()), 0)?;
    let mut table = Table::new(merged.size_bytes);
    let (mut block, blocks) = (0, format::blocks(merged.size_bytes));
    while block < blocks {
        let (mut state, mut end) = child.table.run(block..blocks);
        let mut from = &child;
        if state == State::FallsThrough {
            (state, end) = parent.table.run(block..end);
            from = &parent;
        }
        if state == State::Present {
            copy_sparse(from, block * BLOCK_BYTES..end * BLOCK_BYTES, out, merged.size_bytes)?;
        }
        table.set(block..end, state);
        block = end;
    }
    out.sync()?;
    for (at, pages) in table.changed_runs() {
        write_all(out, &pages, at)?;
    }
    out.sync()?;
    let sealed = Header { sealed: true, ..merged };
    write_all(out, &Source::from_slice(&sealed.emit()), 0)?;
    out.sync()?;
    out.unlock()?;
    Ok(sealed.id)
}

/// Copies present blocks of `from` to the delta of a disk of `size_bytes`, where there are holes.
fn copy_sparse<S: Storage>(
    from: &Delta<S>,
    mut range: Range<u64>,
    out: &impl Storage,
    size_bytes: u64,
) -> Result<(), OpenError> {
    // Its disk may be the smaller one, and the last block short.
    range.end = range.end.min(from.size_bytes);
    let mut room = vec![0; (range.end - range.start).min(MERGE_CHUNK_BYTES) as usize];
    while range.start < range.end {
        let bytes = &mut room[..(range.end - range.start).min(MERGE_CHUNK_BYTES) as usize];
        read_all(&from.storage, &mut Target::from_slice(bytes), from.place(range.start))?;
        write_sparse(out, bytes, format::blocks_offset(size_bytes) + range.start)?;
        range.start += bytes.len() as u64;
    }
    Ok(())
}

fn load_sealed<S: Storage>(delta: S) -> Result<(Delta<S>, Header), OpenError> {
    let (header, table) = format::load(&delta)?;
    if !header.sealed {
        return Err(OpenError::NotSealed);
    }
    Ok((Delta { storage: delta, table, size_bytes: header.size_bytes }, header))
}
