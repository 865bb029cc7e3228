//! What is told about files, as JSON.

use serde::{Deserialize, Serialize};

use super::GuestPath;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum FileKind {
    /// A regular file.
    File = 1,
    /// A directory.
    Directory = 2,
    /// A symbolic link.
    Symlink = 3,
    /// A named pipe.
    Fifo = 4,
    /// A socket.
    Socket = 5,
    /// A block or character device.
    Device = 6,
}

impl FileKind {
    /// Its number in records, or `None`.
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        use FileKind::*;
        [File, Directory, Symlink, Fifo, Socket, Device].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// A moment of a file, since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileTime {
    /// Whole seconds, before the epoch negative.
    pub seconds: i64,
    /// Nanoseconds on top, under a billion.
    pub nanos: u32,
}

/// The metadata of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFacts {
    /// What it is.
    pub kind: FileKind,
    /// Bytes of a regular file's content or of a link's target; otherwise 0.
    pub size_bytes: u64,
    /// Permission bits, with set-id and sticky, at most `0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When its content changed.
    pub mtime: FileTime,
    /// When its inode changed.
    pub ctime: FileTime,
    /// Inode number.
    pub ino: u64,
    /// Names it has.
    pub link_count: u64,
    /// Where a symbolic link points; `None` for anything else.
    pub link_target: Option<GuestPath>,
}

/// End of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Entries sent.
    pub count: u64,
    /// Whether there are more than were asked for.
    pub truncated: bool,
}

/// End of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRead {
    /// Size of the whole file.
    pub size_bytes: u64,
    /// Its permission bits.
    pub mode: u32,
    /// Whether the file goes on after what was sent.
    pub truncated: bool,
}

/// A file was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileWritten {
    /// Bytes of its content.
    pub bytes_written: u64,
    /// Whether there was none before.
    pub created: bool,
}

/// Something was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRemoved {
    /// What it was.
    pub kind: FileKind,
    /// Names removed: 1, or all of a tree.
    pub count: u64,
}

/// A directory exists now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryMade {
    /// Whether it did not exist before.
    pub created: bool,
}

/// Something was renamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMoved {
    /// What it is.
    pub kind: FileKind,
    /// Whether something else had the name.
    pub replaced: bool,
}

/// A set of changes was applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Files written, links included.
    pub written_count: u64,
    /// Files removed.
    pub removed_count: u64,
    /// Files whose mode alone was changed.
    pub chmod_count: u64,
    /// Bytes of contents.
    pub bytes_written: u64,
}

/// The file system runs again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thawed {
    /// Whether it was thawed because its time was up, so that the host may not rely on the freeze.
    pub expired: bool,
}

/// Secrets were installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretsInstalled {
    /// How many there are now.
    pub count: u64,
}
