//! Which entries of a tree are not as they were.
//!
//! Metadata decide wherever they can. An inode whose number, change time, size, modification time and mode are
//! the earlier ones has not been written since: unlike the modification time, the change time cannot be set by
//! `touch`. Whatever does not agree in all of them is a suspicion, which contents confirm or clear. Times are as
//! coarse as the kernel's tick, so the newest entries of the baseline are always suspected: they may have been
//! written again within the tick that ended with the baseline.
//!
//! A guest that writes its disk behind the kernel's back can deceive this, about its own tree only.

use std::collections::{BTreeMap, BTreeSet};

use crate::baseline::{BaselineTree, DiskError};
use crate::entry::{Entry, EntryKind};
use crate::limits::{MAX_TREE_ENTRIES, MAX_TREE_NAME_BYTES, RACY_WINDOW_NS};
use crate::name::{check_path, shown};

/// How an entry differs from the baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is new.
    Added,
    /// Its content, target or mode is another.
    Modified,
    /// It is gone.
    Deleted,
    /// It is something else: a link that was a file, a directory that was a link.
    TypeChanged,
}

/// What differs; the present kind, or the earlier one of what is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArtifactType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, pipe or socket.
    Other,
}

/// How sure a difference is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// Metadata show it.
    Proven,
    /// Only equal contents can clear it.
    Suspected,
}

/// One path that differs, or may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Relative to the tree's root.
    pub path: Vec<u8>,
    /// How.
    pub status: Status,
    /// What.
    pub artifact_type: ArtifactType,
    /// The earlier state, if there was one.
    pub old: Option<State>,
    /// The present state, if there is one.
    pub new: Option<State>,
    /// Whether a patch of it, or certainty about it, needs the contents of regular files on either side.
    pub needs_content: bool,
    /// Whether contents must still decide.
    pub certainty: Certainty,
}

impl Difference {
    /// What is left of a suspicion when contents have been compared: nothing, if they are the same.
    #[must_use]
    pub fn settle(mut self, contents_are_equal: bool) -> Option<Self> {
        if self.certainty == Certainty::Suspected && contents_are_equal {
            return None;
        }
        self.certainty = Certainty::Proven;
        Some(self)
    }
}

/// One side of a difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits (`0o7777`).
    pub mode: u32,
    /// Bytes of content.
    pub size: u64,
    /// A link's target.
    pub link_target: Vec<u8>,
    mtime_ns: i128,
    ctime_ns: Option<i128>,
    ino: Option<u64>,
}

impl State {
    fn split(entry: Entry) -> (Vec<u8>, Self) {
        let Entry { path, kind, mode, size, mtime_ns, ctime_ns, ino, link_target } = entry;
        (path, Self { kind, mode, size, link_target, mtime_ns, ctime_ns, ino })
    }
}

/// Why trees cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// The baseline cannot be read.
    #[error("failed to read the baseline")]
    Baseline(#[from] DiskError),
    /// The present tree has too many entries or too long names.
    #[error("the workspace holds more than can be compared: {what} (at most {most})")]
    Limit {
        /// Of what.
        what: &'static str,
        /// The limit.
        most: usize,
    },
    /// The present tree names a path that cannot be.
    #[error("the workspace lists an impossible path: {path}: {reason}")]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The present tree names a path twice.
    #[error("the workspace lists a path twice: {path}")]
    Twice {
        /// The path.
        path: String,
    },
}

/// A comparison under way: the baseline is held, the present entries pass by in any order.
pub struct Comparison {
    baseline: BTreeMap<Vec<u8>, Known>,
    newest_ns: i128,
    differences: BTreeMap<Vec<u8>, Difference>,
    /// Directories without an earlier state in which something is now.
    filled: BTreeSet<Vec<u8>>,
    seen: usize,
    name_bytes: usize,
}

struct Known {
    state: State,
    seen: bool,
    has_children: bool,
}

impl Comparison {
    /// Reads the baseline's metadata below `root`.
    ///
    /// # Errors
    ///
    /// What [`BaselineTree::walk`] does not give, and limits.
    pub fn open(baseline: &dyn BaselineTree, root: &[u8]) -> Result<Self, CompareError> {
        let mut known: BTreeMap<Vec<u8>, Known> = BTreeMap::new();
        let mut newest_ns = i128::MIN;
        let mut name_bytes = 0;
        baseline.walk(root, &mut |entry| {
            let (path, state) = State::split(entry);
            name_bytes += path.len() + state.link_target.len();
            if known.len() == MAX_TREE_ENTRIES {
                return Err(DiskError::Limit { what: "entries", most: MAX_TREE_ENTRIES as u64 });
            }
            if name_bytes > MAX_TREE_NAME_BYTES {
                return Err(DiskError::Limit { what: "bytes of names", most: MAX_TREE_NAME_BYTES as u64 });
            }
            if state.kind != EntryKind::Directory {
                newest_ns = newest_ns.max(state.ctime_ns.unwrap_or(i128::MIN));
            }
            if let Some(parent) = parent(&path).and_then(|parent| known.get_mut(parent)) {
                parent.has_children = true;
            }
            known.insert(path, Known { state, seen: false, has_children: false });
            Ok(())
        })?;
        Ok(Self {
            baseline: known,
            newest_ns,
            differences: BTreeMap::new(),
            filled: BTreeSet::new(),
            seen: 0,
            name_bytes: 0,
        })
    }

    /// Takes the next present entry.
    ///
    /// # Errors
    ///
    /// Paths that cannot be or come twice, and limits.
    pub fn observe(&mut self, entry: Entry) -> Result<(), CompareError> {
        if let Err(reason) = check_path(&entry.path) {
            return Err(CompareError::Path { path: shown(&entry.path), reason });
        }
        self.seen += 1;
        if self.seen > MAX_TREE_ENTRIES {
            return Err(CompareError::Limit { what: "entries", most: MAX_TREE_ENTRIES });
        }
        if let Some(parent) = parent(&entry.path) {
            let directory =
                self.baseline.get(parent).is_some_and(|known| known.state.kind == EntryKind::Directory);
            if !directory && !self.filled.contains(parent) {
                self.keep(parent.len())?;
                self.filled.insert(parent.to_vec());
            }
        }
        let (path, new) = State::split(entry);
        let difference = match self.baseline.get_mut(&path) {
            Some(known) if known.seen => return Err(CompareError::Twice { path: shown(&path) }),
            Some(known) => {
                known.seen = true;
                let racy = known.state.ctime_ns.is_some_and(|ctime| ctime >= self.newest_ns - RACY_WINDOW_NS);
                compare(&path, &known.state, new, racy)
            }
            None if self.differences.contains_key(&path) => {
                return Err(CompareError::Twice { path: shown(&path) });
            }
            None => Some(difference(path.clone(), None, Some(new), Certainty::Proven)),
        };
        if let Some(difference) = difference {
            self.keep(path.len() + difference.new.as_ref().map_or(0, |new| new.link_target.len()))?;
            self.differences.insert(path, difference);
        }
        Ok(())
    }

    /// Everything that differs or may, in the order of paths. Directories that are new or gone are told only if
    /// they are empty; the others follow from what they hold.
    #[must_use]
    pub fn finish(self) -> Vec<Difference> {
        let Self { baseline, mut differences, filled, .. } = self;
        differences.retain(|path, difference| {
            !(difference.status == Status::Added
                && difference.artifact_type == ArtifactType::Directory
                && filled.contains(path))
        });
        for (path, known) in baseline {
            let implied = known.state.kind == EntryKind::Directory && known.has_children;
            if !known.seen && !implied {
                let gone = difference(path.clone(), Some(known.state), None, Certainty::Proven);
                differences.insert(path, gone);
            }
        }
        differences.into_values().collect()
    }

    fn keep(&mut self, bytes: usize) -> Result<(), CompareError> {
        self.name_bytes += bytes;
        if self.name_bytes > MAX_TREE_NAME_BYTES {
            return Err(CompareError::Limit { what: "bytes of names", most: MAX_TREE_NAME_BYTES });
        }
        Ok(())
    }
}

fn parent(path: &[u8]) -> Option<&[u8]> {
    path.iter().rposition(|byte| *byte == b'/').map(|at| &path[..at])
}

fn compare(path: &[u8], old: &State, new: State, racy: bool) -> Option<Difference> {
    let differs = |new, certainty| Some(difference(path.to_vec(), Some(old.clone()), Some(new), certainty));
    if old.kind != new.kind || old.mode != new.mode && new.kind != EntryKind::Symlink {
        return differs(new, Certainty::Proven);
    }
    match new.kind {
        EntryKind::Directory | EntryKind::Other => None,
        EntryKind::Symlink if old.link_target == new.link_target => None,
        EntryKind::Symlink => differs(new, Certainty::Proven),
        EntryKind::File if old.size != new.size => differs(new, Certainty::Proven),
        EntryKind::File if old.size == 0 => None,
        EntryKind::File => {
            let untouched = !racy
                && old.mtime_ns == new.mtime_ns
                && old.ctime_ns.is_some()
                && old.ctime_ns == new.ctime_ns
                && old.ino.is_some()
                && old.ino == new.ino;
            if untouched { None } else { differs(new, Certainty::Suspected) }
        }
    }
}

fn difference(path: Vec<u8>, old: Option<State>, new: Option<State>, certainty: Certainty) -> Difference {
    let status = match (&old, &new) {
        (None, _) => Status::Added,
        (_, None) => Status::Deleted,
        (Some(old), Some(new)) if old.kind != new.kind => Status::TypeChanged,
        _ => Status::Modified,
    };
    let kind = new.as_ref().or(old.as_ref()).map_or(EntryKind::Other, |state| state.kind);
    let artifact_type = match kind {
        EntryKind::File => ArtifactType::File,
        EntryKind::Directory => ArtifactType::Directory,
        EntryKind::Symlink => ArtifactType::Symlink,
        EntryKind::Other => ArtifactType::Other,
    };
    let has_content = |state: &Option<State>| {
        state.as_ref().is_some_and(|state| state.kind == EntryKind::File && state.size > 0)
    };
    let needs_content = has_content(&old) || has_content(&new);
    Difference { path, status, artifact_type, old, new, needs_content, certainty }
}

#[cfg(test)]
mod tests;
