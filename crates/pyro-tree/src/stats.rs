//! What happened.

use crate::limits::MAX_SKIPPED_TOLD;

/// What was moved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreeStats {
    /// Members, directories included and those left out excluded.
    pub entry_count: u64,
    /// Bytes of file contents, holes not counted.
    pub bytes_written: u64,
    /// Entries that were left out.
    pub skipped_count: u64,
    /// The first of these, at most [`MAX_SKIPPED_TOLD`].
    pub skipped: Vec<Skipped>,
    /// What the archive is an archive of; `None` when it is empty.
    pub root: Option<Root>,
}

/// An entry that was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its path below the root.
    pub path: Vec<u8>,
    /// Why.
    pub reason: SkipReason,
}

/// Why an entry was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// A socket lives in its process alone.
    Socket,
    /// A device node means the hardware of one machine.
    Device,
    /// A named pipe would hang who reads the tree.
    Fifo,
    /// A symbolic link that may lead out of the tree.
    LinkOutside {
        /// Where it leads.
        target: Vec<u8>,
    },
    /// Another name of something that was left out.
    NameOfSkipped,
}

/// What an archive is an archive of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// A directory tree, whose root the archive names.
    Directory,
    /// One entry that is no directory.
    Single {
        /// Its name.
        name: Vec<u8>,
        /// What it is.
        kind: SingleKind,
    },
    /// Members without a common root that would be among them.
    Loose,
}

/// What a single entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SingleKind {
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// Anything else.
    Other,
}

impl TreeStats {
    pub(crate) fn skip(&mut self, path: &[u8], reason: SkipReason) {
        self.skipped_count += 1;
        if self.skipped.len() < MAX_SKIPPED_TOLD {
            let path = path.strip_prefix(b"./").unwrap_or(path).to_vec();
            self.skipped.push(Skipped { path, reason });
        }
    }

    /// Learns from a member's path, cleaned or `.`, what the archive is of.
    pub(crate) fn see_root(&mut self, path: &[u8], kind: &crate::pax::Kind) {
        use crate::pax::Kind;
        let path = if path == b"." { b"" } else { path };
        let single = |kind| Root::Single { name: path.to_vec(), kind };
        self.root = Some(match (&self.root, kind) {
            (Some(Root::Directory), _) => return,
            (None, Kind::Directory) if path.is_empty() => Root::Directory,
            (None, kind) if !path.contains(&b'/') => match kind {
                Kind::File(_) => single(SingleKind::File),
                Kind::Symlink(_) => single(SingleKind::Symlink),
                Kind::Directory | Kind::HardLink(_) => Root::Loose,
                Kind::Fifo | Kind::Device => single(SingleKind::Other),
            },
            _ => Root::Loose,
        });
    }
}
