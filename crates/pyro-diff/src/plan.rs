//! A whole patch as the changes that carry it out.

use std::collections::BTreeSet;

use crate::apply::{ApplyError, apply};
use crate::entry::{Side, SideKind};
use crate::name::shown;
use crate::patch::{Body, FilePatch, Operation, Patch};

const LONGEST_TARGET: usize = 4095;

/// One step. Steps are to be taken in their order: removals come first, so that what takes a removed thing's
/// place finds it free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The file or link goes away.
    Remove {
        /// Where.
        path: Vec<u8>,
    },
    /// A regular file gets this content, whether it was there or not.
    Write {
        /// Where.
        path: Vec<u8>,
        /// Permission bits.
        mode: u32,
        /// All of it.
        content: Vec<u8>,
    },
    /// A regular file gets other permissions.
    Chmod {
        /// Where.
        path: Vec<u8>,
        /// Permission bits.
        mode: u32,
    },
    /// A symbolic link gets this target, whether it was there or not.
    Symlink {
        /// Where.
        path: Vec<u8>,
        /// What it points to.
        target: Vec<u8>,
    },
}

impl Change {
    /// What is changed.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        match self {
            Self::Remove { path }
            | Self::Write { path, .. }
            | Self::Chmod { path, .. }
            | Self::Symlink { path, .. } => path,
        }
    }
}

/// What to do to a tree so that it is as the patch has it. `lookup` tells what is at a path now; nothing is
/// changed here, and if one file does not fit there is no plan at all. [`Patch::paths`] are all it asks for.
///
/// # Errors
///
/// The first file that does not fit what is there.
pub fn plan(patch: &Patch, mut lookup: impl FnMut(&[u8]) -> Option<Side>) -> Result<Vec<Change>, ApplyError> {
    let freed: BTreeSet<&[u8]> = patch
        .files
        .iter()
        .filter_map(|file| match &file.operation {
            Operation::Delete => Some(file.path.as_slice()),
            Operation::Rename { from } => Some(from.as_slice()),
            Operation::Add | Operation::Modify | Operation::Copy { .. } => None,
        })
        .collect();
    let (mut removals, mut writes) = (Vec::new(), Vec::new());
    for file in &patch.files {
        let source = match &file.operation {
            Operation::Add => None,
            Operation::Modify | Operation::Delete => Some(&file.path),
            Operation::Rename { from } | Operation::Copy { from } => Some(from),
        };
        let appears = !matches!(file.operation, Operation::Modify | Operation::Delete);
        if appears && !freed.contains(file.path.as_slice()) && lookup(&file.path).is_some() {
            return Err(ApplyError::Exists { path: shown(&file.path) });
        }
        let old = match source {
            Some(path) => Some(expect_side(file, path, lookup(path))?),
            None => None,
        };
        let content = apply(file, old.as_ref().map(|side| side.content.as_slice()))?;
        match &file.operation {
            Operation::Delete => removals.push(Change::Remove { path: file.path.clone() }),
            Operation::Rename { from } => {
                removals.push(Change::Remove { path: from.clone() });
                writes.push(write(file, old.as_ref(), content)?);
            }
            Operation::Add | Operation::Modify | Operation::Copy { .. } => {
                writes.push(write(file, old.as_ref(), content)?);
            }
        }
    }
    writes.sort_by(|one, other| one.path().cmp(other.path()));
    check_collisions(&writes)?;
    // What takes a removed thing's place replaces it: a change of type, or two names that change places.
    let written: BTreeSet<&[u8]> = writes.iter().map(Change::path).collect();
    removals.retain(|removal| !written.contains(removal.path()));
    removals.extend(writes);
    Ok(removals)
}

fn expect_side(file: &FilePatch, path: &[u8], side: Option<Side>) -> Result<Side, ApplyError> {
    let side = side.ok_or_else(|| ApplyError::Missing { path: shown(path) })?;
    let name = |link: bool| if link { "a symbolic link" } else { "a regular file" };
    let link = match side.kind {
        SideKind::File => false,
        SideKind::Symlink => true,
        SideKind::Other => return Err(ApplyError::NotRegular { path: shown(path) }),
    };
    // Without a mode, a patch is of a regular file: `diff -u` follows links.
    let told = file.old_mode.or(file.new_mode).map(is_link);
    let silent = matches!(file.body, Body::None);
    match told {
        Some(expected) if expected != link => {
            Err(ApplyError::WrongType { path: shown(path), expected: name(expected), found: name(link) })
        }
        None if link && !silent => {
            Err(ApplyError::WrongType { path: shown(path), expected: name(false), found: name(true) })
        }
        _ => Ok(side),
    }
}

fn is_link(mode: u32) -> bool {
    mode & 0o170_000 == 0o120_000
}

fn write(file: &FilePatch, old: Option<&Side>, content: Vec<u8>) -> Result<Change, ApplyError> {
    let path = file.path.clone();
    let link = file.new_mode.map_or(old.is_some_and(|side| side.kind == SideKind::Symlink), is_link);
    if link {
        let possible = (1..=LONGEST_TARGET).contains(&content.len()) && !content.contains(&0);
        if !possible {
            return Err(ApplyError::Target { path: shown(&path) });
        }
        return Ok(Change::Symlink { path, target: content });
    }
    let mode = new_permissions(old, file.new_mode);
    if file.operation == Operation::Modify && file.body == Body::None {
        return Ok(Change::Chmod { path, mode });
    }
    Ok(Change::Write { path, mode, content })
}

/// A patch tells only whether a file can be executed; whoever may read it may then execute it.
fn new_permissions(old: Option<&Side>, told: Option<u32>) -> u32 {
    match (old.map(|side| side.mode), told.map(|mode| mode & 0o111 != 0)) {
        (None, Some(true)) => 0o755,
        (None, _) => 0o644,
        (Some(mode), None) => mode,
        (Some(mode), Some(true)) => {
            if mode & 0o100 != 0 {
                mode
            } else {
                mode | ((mode & 0o444) >> 2) | 0o100
            }
        }
        (Some(mode), Some(false)) => {
            if mode & 0o100 == 0 {
                mode
            } else {
                mode & !0o111
            }
        }
    }
}

fn check_collisions(writes: &[Change]) -> Result<(), ApplyError> {
    let files: BTreeSet<&[u8]> = writes.iter().map(Change::path).collect();
    for change in writes {
        let path = change.path();
        for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            if files.contains(&path[..at]) {
                return Err(ApplyError::Collision { path: shown(&path[..at]) });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
