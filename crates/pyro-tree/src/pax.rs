//! Trees as POSIX.1-2001 pax archives, streamed: a [`Reader`] and a [`Writer`] that hold one member at a time.
//!
//! Kept: raw path bytes, kinds, permission bits, numeric owners, times to the nanosecond, hard and symbolic
//! links, extended attributes (`SCHILY.xattr.*`), holes (GNU sparse format 1.0). The reader also takes what
//! GNU tar and the `tar` crate write by default: long names (`L`, `K`), base-256 numbers, sparse `S`.
//!
//! Nothing here touches files, and no path is judged: who unpacks must confine what it does.

mod header;
mod reader;
mod records;
#[cfg(test)]
mod tests;
mod writer;

pub use reader::{ReadError, Reader};
pub use writer::{WriteError, Writer};

/// The unit in which archives are laid out.
pub const BLOCK_BYTES: usize = 512;
/// The longest path or link target: the kernel's own `PATH_MAX`.
pub const MAX_PATH_BYTES: usize = 4096;
/// The largest extended header of one member: all extended attributes that ext4 can hold, and two paths.
pub const MAX_RECORDS_BYTES: usize = 256 << 10;
/// The most data extents of a sparse file. A writer joins extents before it exceeds this; a reader refuses.
pub const MAX_EXTENTS: usize = 8192;

/// One member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Path as stored, without judgement: it may be absolute or hold `..`.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-id and sticky, at most `0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last modification.
    pub mtime: Time,
    /// Extended attributes, name and value.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Kinds of members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file; its stored bytes follow.
    File(Content),
    /// A directory.
    Directory,
    /// A symbolic link to this target.
    Symlink(Vec<u8>),
    /// Another name of the earlier member with this path.
    HardLink(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A character or block device, of which no more is told.
    Device,
}

/// The shape of a file's contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Length of the file.
    pub size: u64,
    /// Where its stored bytes go, in order and without overlap; all else is holes. GNU tar reads runs of
    /// whole blocks only (the last may be shorter), which is what file systems give.
    pub extents: Vec<Extent>,
}

/// A run of stored bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Position in the file.
    pub offset: u64,
    /// Length of the run.
    pub len: u64,
}

impl Content {
    /// Contents without holes.
    pub fn solid(size: u64) -> Self {
        let extents = if size == 0 { Vec::new() } else { vec![Extent { offset: 0, len: size }] };
        Self { size, extents }
    }

    /// Bytes that the archive stores.
    pub fn stored_bytes(&self) -> u64 {
        self.extents.iter().map(|extent| extent.len).sum()
    }

    fn is_solid(&self) -> bool {
        self.stored_bytes() == self.size
    }

    /// Whether the extents are in order, within the file, and few enough.
    fn is_sound(&self) -> bool {
        let mut at = 0u64;
        self.size <= i64::MAX as u64
            && self.extents.len() <= MAX_EXTENTS
            && self.extents.iter().all(|extent| {
                let sound = extent.offset >= at
                    && extent.offset.checked_add(extent.len).is_some_and(|end| end <= self.size);
                at = extent.offset.saturating_add(extent.len);
                sound
            })
    }
}

/// A point in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// Seconds since the Unix epoch, rounded down.
    pub seconds: i64,
    /// Nanoseconds after that, under a billion.
    pub nanos: u32,
}

/// Whether a file that starts with these bytes can be an archive: its first block is a header or an end mark.
pub fn is_archive(start: &[u8]) -> bool {
    start
        .first_chunk::<BLOCK_BYTES>()
        .is_some_and(|block| block.iter().all(|byte| *byte == 0) || header::Header::parse(block).is_ok())
}

/// Drives everything that reads archives here, for fuzzing.
pub fn fuzz_archive(bytes: &[u8]) {
    use std::io::Read as _;
    let mut reader = Reader::new(bytes);
    let mut buffer = [0; 4096];
    while let Ok(Some(_)) = reader.next_member() {
        while matches!(reader.read(&mut buffer), Ok(1..)) {}
    }
}
