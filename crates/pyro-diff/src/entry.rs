//! What a tree holds.

/// One thing in a tree, as its metadata tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the tree's root, without a leading slash.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits with set-id and sticky bits (`0o7777`).
    pub mode: u32,
    /// Bytes of content.
    pub size: u64,
    /// Last change of the content, in nanoseconds since 1970.
    pub mtime_ns: i128,
    /// Last change of the inode, where it is known.
    pub ctime_ns: Option<i128>,
    /// Number of the inode, where it is known.
    pub ino: Option<u64>,
    /// Where a symbolic link points; empty for everything else.
    pub link_target: Vec<u8>,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, pipe or socket.
    Other,
}

/// One side of a change that a patch can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// What it is.
    pub kind: SideKind,
    /// Permission bits (`0o7777`).
    pub mode: u32,
    /// The file's bytes, or the link's target.
    pub content: Vec<u8>,
}

/// What a side is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SideKind {
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A directory, device, pipe or socket: no patch reaches into it.
    Other,
}
