//! Where the earlier state of a tree is read from.

use std::io;

use crate::entry::Entry;
use crate::name::shown;

/// Reads a disk, or a stack of layers that looks like one.
pub trait ReadAt {
    /// Fills `buf` with the bytes from `offset` on.
    ///
    /// # Errors
    ///
    /// What cannot be read, an offset beyond the end included.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}

impl<T: ReadAt + ?Sized> ReadAt for Box<T> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_at(buf, offset)
    }
}

impl ReadAt for std::fs::File {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self, buf, offset)
    }
}

impl ReadAt for Vec<u8> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).ok();
        let part = start.and_then(|start| self.get(start..start.checked_add(buf.len())?));
        buf.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// The earlier state of a tree: what a comparison is against.
pub trait BaselineTree {
    /// Tells every entry below `root` (a path on the disk), each before those below it, `root` itself not.
    /// Paths are relative to `root`. A missing `root` holds nothing.
    ///
    /// # Errors
    ///
    /// What cannot be read, or is more than the limits allow.
    fn walk(
        &self,
        root: &[u8],
        visit: &mut dyn FnMut(Entry) -> Result<(), DiskError>,
    ) -> Result<(), DiskError>;

    /// The content of the regular file at `path` on the disk, following no link in its last part.
    ///
    /// # Errors
    ///
    /// Also if it has more than `most` bytes.
    fn read_file(&self, path: &[u8], most: u64) -> Result<Vec<u8>, DiskError>;
}

/// Why something cannot be read from a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The disk itself cannot be read.
    #[error("failed to read {bytes} bytes of the workspace disk at offset {offset}")]
    Read {
        /// Where.
        offset: u64,
        /// How many.
        bytes: usize,
        /// Why.
        source: io::Error,
    },
    /// There is no ext4 file system on it.
    #[error("the workspace disk holds no ext4 file system: {reason}")]
    NotExt4 {
        /// What gives it away.
        reason: String,
    },
    /// The file system uses something that is not read here.
    #[error("the workspace disk uses an ext4 feature that is not supported: {feature}")]
    Unsupported {
        /// Which.
        feature: String,
    },
    /// The file system contradicts itself.
    #[error("the file system of the workspace disk is damaged: {reason}")]
    Damaged {
        /// How.
        reason: String,
    },
    /// A limit that only a hostile or absurd disk reaches.
    #[error("the workspace disk holds more than is read: {what} (at most {most})")]
    Limit {
        /// Of what.
        what: &'static str,
        /// The limit.
        most: u64,
    },
    /// Nothing is at this path.
    #[error("workspace disk path does not exist: {path}")]
    NotFound {
        /// The path.
        path: String,
    },
    /// A part of the path is no directory.
    #[error("workspace disk path is not a directory: {path}")]
    NotDirectory {
        /// The path.
        path: String,
    },
    /// Only regular files can be read.
    #[error("workspace disk read only supports regular files: {path}")]
    NotRegular {
        /// The path.
        path: String,
    },
    /// The file has more bytes than were asked for.
    #[error("workspace disk file {path} has {size} bytes, more than the {most} allowed")]
    TooLarge {
        /// The path.
        path: String,
        /// Its size.
        size: u64,
        /// The limit.
        most: u64,
    },
    /// Links lead to links without end.
    #[error("workspace disk path has too many symbolic links: {path}")]
    Links {
        /// The path.
        path: String,
    },
}

impl DiskError {
    pub(crate) fn damaged(reason: impl Into<String>) -> Self {
        Self::Damaged { reason: reason.into() }
    }

    pub(crate) fn not_found(path: &[u8]) -> Self {
        Self::NotFound { path: shown(path) }
    }
}
