//! Tar archives as a stream of members: ustar, GNU long names, PAX records, and all four sparse
//! forms (old GNU, PAX 0.0, 0.1 and 1.0).
//!
//! The reader turns claims into bounded values and never interprets a path: a [`Member`] holds the
//! bytes that the archive gave. What a path may be is decided in [`crate::flatten`].

mod emit;
mod header;
mod pax;
mod reader;
mod sparse;

pub(crate) use emit::{write_end, write_file, write_sparse_header};
pub(crate) use reader::{Source, TarReader};

/// Length of a header and unit of a member's padding.
pub(crate) const RECORD: u64 = 512;

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// Reading (or decompressing) failed.
    #[error("reading the archive at byte {at} failed")]
    Read {
        /// Offset in the uncompressed archive.
        at: u64,
        /// What the source said.
        #[source]
        source: std::io::Error,
    },
    /// The archive stops within a member.
    #[error("the archive is truncated at byte {at}")]
    Truncated {
        /// Offset in the uncompressed archive.
        at: u64,
    },
    /// A header is not a tar header.
    #[error("invalid tar header at byte {at}: {what}")]
    Header {
        /// Offset of the header.
        at: u64,
        /// The field and what is wrong with it.
        what: String,
    },
    /// An extended header does not follow its format.
    #[error("invalid extended header at byte {at}: {what}")]
    Extended {
        /// Offset of the extended header.
        at: u64,
        /// What is wrong with it.
        what: String,
    },
    /// A member's extended headers are above their bound.
    #[error("extended header of {len} bytes at byte {at}; the limit for one member is {limit}")]
    ExtendedTooLarge {
        /// Offset of the extended header.
        at: u64,
        /// Its claimed length.
        len: u64,
        /// The bound.
        limit: u64,
    },
    /// A member of a kind that a root file system cannot hold.
    #[error("unsupported archive member type: {path} (type {flag})")]
    UnsupportedType {
        /// The member.
        path: String,
        /// Its type flag, escaped.
        flag: String,
    },
    /// A sparse map that contradicts itself or its member.
    #[error("invalid sparse map of member {path}: {what}")]
    Sparse {
        /// The member.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// A member above [`crate::limits::MEMBER_LOGICAL_BYTES`].
    #[error("member {path} has {bytes} bytes; the limit is {limit}")]
    MemberTooLarge {
        /// The member.
        path: String,
        /// Its claimed logical size.
        bytes: u64,
        /// The bound.
        limit: u64,
    },
}

/// Owner, mode and time of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: i64,
    pub(crate) mtime_nanos: u32,
}

/// Where a file's bytes lie in the uncompressed archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// One run.
    Plain { at: u64, len: u64 },
    /// Runs of a file of `size` bytes, ascending and disjoint; everything else reads as zeros.
    Sparse { size: u64, segments: Box<[Segment]> },
}

impl Content {
    /// The file's size as a program would see it.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Plain { len, .. } => *len,
            Self::Sparse { size, .. } => *size,
        }
    }

    /// Where the stored bytes belong.
    pub(crate) fn segments(&self) -> Vec<Segment> {
        match self {
            Self::Plain { at, len } => vec![Segment { offset: 0, len: *len, at: *at }],
            Self::Sparse { segments, .. } => segments.to_vec(),
        }
    }
}

/// One run of a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Offset in the file.
    pub(crate) offset: u64,
    /// Length, never zero.
    pub(crate) len: u64,
    /// Offset in the uncompressed archive.
    pub(crate) at: u64,
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MemberKind {
    File(Content),
    Directory,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
}

/// One member, within bounds but with its path as claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: MemberKind,
    pub(crate) attributes: Attributes,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A path for a message: readable, on one line, and short.
pub(crate) fn shown(path: &[u8]) -> String {
    const LONGEST: usize = 300;
    let cut = &path[..path.len().min(LONGEST)];
    let mut text = cut.escape_ascii().to_string();
    if let Ok(utf8) = std::str::from_utf8(cut)
        && !utf8.chars().any(char::is_control)
    {
        text = utf8.to_owned();
    }
    if cut.len() < path.len() {
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests;
