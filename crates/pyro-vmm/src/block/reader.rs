//! Disks of machines that do not run: read in place, or written out as one image.

use std::fs::File;
use std::io;
use std::ops::Range;

use super::layers::{Layers, OpenError};
use super::storage::{Storage, write_all};
use crate::device::iov::{Source, Target};

/// What an export reads at once.
const EXPORT_CHUNK_BYTES: u64 = 1 << 20;
/// Blocks of zeroes of this size become holes of an export; the unit in which file systems have holes.
const EXPORT_BLOCK_BYTES: usize = 4096;

/// A disk to read from: a base with deltas. Nothing is written, not even to an unsealed delta.
pub struct DiskReader<S = File> {
    layers: Layers<S>,
}

impl<S: Storage> DiskReader<S> {
    /// Stacks `deltas`, bottom first, on `base`. The last may be unsealed; it then stays locked against
    /// writers as long as this lives, and [`OpenError::Busy`] tells that it is written now.
    ///
    /// The lock belongs to the open file description: open the file for this reader alone.
    pub fn open(base: S, deltas: Vec<S>) -> Result<Self, OpenError> {
        let mut layers = Layers::raw(base)?;
        let last = deltas.len().saturating_sub(1);
        for (number, delta) in deltas.into_iter().enumerate() {
            layers = if number == last { layers.push_top(delta)? } else { layers.push(delta)? };
        }
        Ok(DiskReader { layers })
    }

    /// The disk's size.
    pub fn size_bytes(&self) -> u64 {
        self.layers.size_bytes()
    }

    /// Fills `buf` from `offset` on. Fails with `UnexpectedEof` where the disk has an end before.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match offset.checked_add(buf.len() as u64) {
            Some(end) if end <= self.size_bytes() => self.layers.read(&mut Target::from_slice(buf), offset),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// The first range from `offset` on that may hold anything but zeroes; everything before it reads as
    /// zeroes. `None` when only zeroes follow. The next call goes on at the range's end, where another range
    /// may follow at once.
    pub fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.layers.next_data(offset)
    }
}

/// Writes the whole disk to `out` as a sparse raw image, whose old contents are lost; durable when this
/// returns. `progress` hears how far into the disk the work has come. Returns how many bytes were written,
/// holes not counted.
pub fn export_raw(reader: &DiskReader, out: &File, progress: impl FnMut(u64)) -> io::Result<u64> {
    let written = export(reader, out, progress)?;
    out.sync_all()?;
    Ok(written)
}

pub(super) fn export<S: Storage>(
    reader: &DiskReader<S>,
    out: &impl Storage,
    mut progress: impl FnMut(u64),
) -> io::Result<u64> {
    out.set_len(0)?;
    out.set_len(reader.size_bytes())?;
    let mut buf = vec![0; EXPORT_CHUNK_BYTES as usize];
    let (mut at, mut written) = (0, 0);
    while let Some(data) = reader.next_data(at)? {
        at = data.start;
        while at < data.end {
            let chunk = &mut buf[..(data.end - at).min(EXPORT_CHUNK_BYTES) as usize];
            reader.read_at(chunk, at)?;
            written += write_sparse(out, chunk, at)?;
            at += chunk.len() as u64;
            progress(at);
        }
    }
    progress(reader.size_bytes());
    Ok(written)
}

/// Writes what is not zero, in runs of blocks, to a place that is a hole. Returns how much that was.
pub(super) fn write_sparse(out: &impl Storage, bytes: &[u8], at: u64) -> io::Result<u64> {
    let (mut start, mut written) = (0, 0);
    while start < bytes.len() {
        let block_end = |from: usize| bytes.len().min(from + EXPORT_BLOCK_BYTES);
        if is_zero(&bytes[start..block_end(start)]) {
            start = block_end(start);
            continue;
        }
        let mut end = block_end(start);
        while end < bytes.len() && !is_zero(&bytes[end..block_end(end)]) {
            end = block_end(end);
        }
        write_all(out, &Source::from_slice(&bytes[start..end]), at + start as u64)?;
        written += (end - start) as u64;
        start = end;
    }
    Ok(written)
}

fn is_zero(bytes: &[u8]) -> bool {
    let words = bytes.chunks_exact(8);
    let rest = words.remainder();
    words.into_iter().all(|word| word == [0; 8]) && rest.iter().all(|byte| *byte == 0)
}
