//! Work on deltas of machines that do not run.
//!
//! An unsealed delta is locked during the work. The lock belongs to the open file description, so the file
//! must be opened for the work alone: a duplicate of a descriptor that a machine has would share its lock.

use std::fs::File;

use super::format::{self, CLUSTER_BYTES, Header, LayerId, State, Table};
use super::layers::{Delta, OpenError};
use super::overlay::{check_empty, create_delta as create_in, lock};
use super::reader::write_sparse;
use super::storage::{Storage, read_all, write_all};
use crate::device::iov::{Source, Target};

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
    /// What it holds of the disk, in whole clusters.
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
        allocated_bytes: table.present() * CLUSTER_BYTES,
    })
}

/// What a delta holds of the disk, in whole clusters: what counts against a disk's limit.
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
    out.set_len(format::clusters_offset(merged.size_bytes) + merged.size_bytes)?;
    write_all(out, &Source::from_slice(&merged.emit()), 0)?;
    let mut table = Table::new(merged.size_bytes);
    let mut cluster_bytes = vec![0; CLUSTER_BYTES as usize];
    for cluster in 0..format::clusters(merged.size_bytes) {
        let (state, from) = match child.table.get(cluster) {
            State::FallsThrough => (parent.table.get(cluster), &parent),
            state => (state, &child),
        };
        if state == State::Present {
            let at = cluster * CLUSTER_BYTES;
            // The parent's disk may be smaller, and its last cluster short.
            let len = (from.size_bytes - at).min(CLUSTER_BYTES) as usize;
            let bytes = &mut cluster_bytes[..len];
            read_all(&from.storage, &mut Target::from_slice(bytes), from.place(at))?;
            write_sparse(out, bytes, format::clusters_offset(merged.size_bytes) + at)?;
        }
        table.set(cluster, state);
    }
    out.sync()?;
    for (at, bytes) in table.dirty_runs() {
        write_all(out, &Source::from_slice(bytes), at)?;
    }
    out.sync()?;
    let sealed = Header { sealed: true, ..merged };
    write_all(out, &Source::from_slice(&sealed.emit()), 0)?;
    out.sync()?;
    out.unlock()?;
    Ok(sealed.id)
}

fn load_sealed<S: Storage>(delta: S) -> Result<(Delta<S>, Header), OpenError> {
    let (header, table) = format::load(&delta)?;
    if !header.sealed {
        return Err(OpenError::NotSealed);
    }
    Ok((Delta { storage: delta, table, size_bytes: header.size_bytes }, header))
}
