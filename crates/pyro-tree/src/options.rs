//! What callers choose.

use std::collections::HashSet;

use crate::limits::MAX_TREE_DEPTH;

/// How [`crate::pack()`] and [`crate::repack()`] treat what they find. The default keeps everything.
#[derive(Clone, Debug, Default)]
pub struct PackOptions {
    /// How much of each entry is kept.
    pub fidelity: Fidelity,
    /// What a root that is a symbolic link stands for.
    pub root_link: RootLink,
    /// What to do with other file systems mounted below the root.
    pub mounts: Mounts,
    /// Only these entries, or all. Archives are not filtered.
    pub only: Option<Selection>,
}

/// How [`crate::unpack()`] treats what it reads. The default keeps everything and sets no limit beyond the
/// archive format's own.
#[derive(Clone, Debug, Default)]
pub struct UnpackOptions {
    /// How much of each entry is kept.
    pub fidelity: Fidelity,
    /// Which symbolic links are made.
    pub links: LinkPolicy,
    /// How large the tree may become.
    pub limits: Limits,
}

/// How much of an entry is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fidelity {
    /// Owners, set-id bits, all extended attributes and named pipes: for root moving trees within its own world.
    #[default]
    Full,
    /// What has a meaning on both sides of the border between two worlds. Packing makes root the owner of
    /// everything. Unpacking leaves the caller the owner, drops set-id bits and leaves named pipes out.
    /// Either way extended attributes are kept in the `user.` namespace alone.
    Portable,
}

/// What a root that is a symbolic link stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RootLink {
    /// Itself: the archive holds the link.
    #[default]
    Keep,
    /// What it leads to.
    Follow,
}

/// What to do with other file systems mounted below the root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mounts {
    /// Each appears as an empty directory: `/proc` and the like are no trees to keep.
    #[default]
    Skip,
    /// They are part of the tree.
    Enter,
}

/// Which symbolic links are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkPolicy {
    /// All. Making a link leads nowhere by itself; who reads the tree later follows it.
    #[default]
    All,
    /// Those that cannot lead out of the tree, however they are combined: relative, at most as many `..` as
    /// there are directories above, and all of those first. Others are left out and reported.
    InsideOnly,
}

/// How large a tree may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Members.
    pub max_entries: u64,
    /// Bytes of file contents without holes, of link targets and attributes: what the disk must hold.
    pub max_stored_bytes: u64,
    /// Bytes of file contents, holes counted: what reading all of it costs.
    pub max_apparent_bytes: u64,
    /// Directories within directories, at most [`MAX_TREE_DEPTH`].
    pub max_depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_entries: u64::MAX,
            max_stored_bytes: u64::MAX,
            max_apparent_bytes: u64::MAX,
            max_depth: MAX_TREE_DEPTH,
        }
    }
}

/// A set of entries by their path below the root, with the directories that lead to them.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    paths: HashSet<Vec<u8>>,
}

impl Selection {
    /// The entries with these paths: relative, names joined by single slashes. What does not exist is no error.
    pub fn new(paths: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let mut selection = Self::default();
        for path in paths {
            selection.insert(path);
        }
        selection
    }

    fn insert(&mut self, path: Vec<u8>) {
        let mut rest = &path[..];
        while let Some(slash) = rest.iter().rposition(|byte| *byte == b'/') {
            rest = &rest[..slash];
            if !self.paths.insert(rest.to_vec()) {
                break;
            }
        }
        self.paths.insert(path);
    }

    /// Whether an entry is selected or leads to one that is.
    pub fn contains(&self, path: &[u8]) -> bool {
        self.paths.contains(path)
    }
}
