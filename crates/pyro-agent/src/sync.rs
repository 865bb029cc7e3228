//! A tree from the host, merged into a directory only when it has arrived whole.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use pyro_agent::wire::{Failure, FileKind, GuestPath, TreeStats};
use rustix::fs::{AtFlags, FileType, Timespec};
use rustix::io::Errno;
use rustix::time::ClockId;

use crate::connection::Connection;
use crate::limits::MAX_WALK_NAME_BYTES;
use crate::paths::{FileError, On as _, Root, Spot, kind};
use crate::staging::{Stage, Staging};
use crate::transaction::{Attributes, Transaction};
use crate::tree;
use crate::walk::{Names, directory_buffer, open_below};
use pyro_tree::limits::MAX_TREE_DEPTH;

#[cfg(test)]
mod tests;

/// Where in the stage the tree is unpacked.
const TREE: &[u8] = b"tree";

/// Receives a tree and merges it into `path`. The stage that it gives back holds what was replaced: its removal
/// takes its time, for which nobody needs to wait.
pub(crate) fn receive(
    connection: &mut Connection,
    staging: &Staging,
    root: &GuestPath,
    path: &GuestPath,
) -> Result<(TreeStats, Stage), Failure> {
    let root = Root::open(root)?;
    let target = root.absolute(path)?;
    // Refused before the host has sent all of it.
    check_target(&root, &target)?;
    let stage = staging.create().on(&target)?;
    let started = clock();
    let unpacked = stage.path().join("tree");
    let unpacked = unpacked.to_str().expect("a stage's path is made of ASCII");
    let stats = tree::receive(connection, unpacked)?;
    merge(&root, &target, &stage, started)?;
    Ok((stats, stage))
}

/// The clock that the kernel stamps files with, which is a tick behind the other one.
fn clock() -> Timespec {
    rustix::time::clock_gettime(ClockId::RealtimeCoarse)
}

fn check_target(root: &Root, target: &Spot) -> Result<(), FileError> {
    match root.stat_if_any(target)? {
        Some(stat) if kind(stat.st_mode) != FileKind::Directory => {
            Err(FileError::conflict("directory conflicts with existing path", target))
        }
        _ => Ok(()),
    }
}

fn merge(root: &Root, target: &Spot, stage: &Stage, started: Timespec) -> Result<(), FileError> {
    let mut transaction = Transaction::new(root, stage)?;
    check_target(root, target)?;
    if root.stat_if_any(target)?.is_none() {
        transaction.make_parents(target)?;
        let parent = root.open_parent(target)?;
        transaction.place(stage.directory(), TREE, parent.as_fd(), target)?;
    } else {
        let mut merger = Merger {
            root,
            target,
            stage,
            started,
            transaction: &mut transaction,
            buffer: directory_buffer(),
        };
        merger.run(Pass::Check)?;
        merger.run(Pass::Apply)?;
    }
    transaction.commit();
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    /// Look for conflicts; change nothing.
    Check,
    /// Move everything to its place.
    Apply,
}

/// What is in the place of an entry of the stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meets {
    Nothing,
    /// A directory, which the entry is as well.
    Directory,
    /// Something that it replaces.
    Other,
}

/// A directory that exists on both sides.
struct Level {
    staged: OwnedFd,
    staged_path: Vec<u8>,
    existing: OwnedFd,
    spot: Spot,
    names: Names,
    /// As unpacked, before anything is moved out.
    unpacked: Attributes,
}

struct Merger<'a, 'b> {
    root: &'a Root,
    target: &'a Spot,
    stage: &'a Stage,
    started: Timespec,
    transaction: &'a mut Transaction<'b>,
    buffer: Box<[MaybeUninit<u8>]>,
}

impl Merger<'_, '_> {
    /// Goes through the directories that exist on both sides; a subtree that is new moves as one.
    fn run(&mut self, pass: Pass) -> Result<(), FileError> {
        let staged = open_below(self.stage.directory(), TREE).on(self.target)?;
        let existing = self.root.open_directory(self.target)?;
        let mut levels = vec![self.level(staged, TREE.to_vec(), existing, self.target.clone())?];
        while let Some(level) = levels.last_mut() {
            let next = level.names.take_with_type();
            let Some((name, file_type)) = next.map(|(name, file_type)| (name.to_vec(), file_type)) else {
                let done = levels.pop().expect("the loop's condition");
                if pass == Pass::Apply {
                    self.dress(&done)?;
                }
                continue;
            };
            let spot = level.spot.join(&name);
            let staged_path = [&level.staged_path[..], b"/", &name].concat();
            let meets = self.meets(level, &name, file_type, &spot)?;
            if meets == Meets::Directory {
                let staged = open_below(level.staged.as_fd(), &name).on(&spot)?;
                let existing = open_below(level.existing.as_fd(), &name).on(&spot)?;
                let below = self.level(staged, staged_path, existing, spot)?;
                levels.push(below);
                if levels.len() > MAX_TREE_DEPTH {
                    return Err(FileError::refused("directories are nested too deep", self.target));
                }
            } else if pass == Pass::Apply {
                let (staged, existing) = (level.staged.as_fd(), level.existing.as_fd());
                match meets {
                    Meets::Nothing => self.transaction.place(staged, &staged_path, existing, &spot)?,
                    _ => self.transaction.exchange(staged, &staged_path, existing, &spot)?,
                }
            }
        }
        Ok(())
    }

    fn level(
        &mut self,
        staged: OwnedFd,
        staged_path: Vec<u8>,
        existing: OwnedFd,
        spot: Spot,
    ) -> Result<Level, FileError> {
        let names = Names::read(staged.as_fd(), &mut self.buffer, MAX_WALK_NAME_BYTES).on(&spot)?;
        let unpacked = Attributes::from(&rustix::fs::fstat(&staged).on(&spot)?);
        Ok(Level { staged, staged_path, existing, spot, names, unpacked })
    }

    /// What an entry of the stage meets. A directory on one side alone is a conflict.
    fn meets(
        &self,
        level: &Level,
        name: &[u8],
        file_type: FileType,
        spot: &Spot,
    ) -> Result<Meets, FileError> {
        let look = |directory: &OwnedFd| rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
        let existing = match look(&level.existing) {
            Err(Errno::NOENT) => return Ok(Meets::Nothing),
            other => kind(other.on(spot)?.st_mode),
        };
        let staged = match file_type {
            FileType::Unknown => kind(look(&level.staged).on(spot)?.st_mode),
            known => kind(known.as_raw_mode()),
        };
        match (staged, existing) {
            (FileKind::Directory, FileKind::Directory) => Ok(Meets::Directory),
            (FileKind::Directory, _) => {
                Err(FileError::conflict("directory conflicts with existing path", spot))
            }
            (FileKind::Symlink, FileKind::Directory) => {
                Err(FileError::conflict("symlink conflicts with existing path", spot))
            }
            (_, FileKind::Directory) => Err(FileError::conflict("file conflicts with existing path", spot)),
            _ => Ok(Meets::Other),
        }
    }

    /// Gives an existing directory the attributes that the archive told. One that the archive did not name
    /// was made while it was unpacked, and is told by its age.
    fn dress(&mut self, level: &Level) -> Result<(), FileError> {
        let (made, started) = (level.unpacked.mtime, self.started);
        if (made.tv_sec, made.tv_nsec) >= (started.tv_sec, started.tv_nsec) {
            return Ok(());
        }
        self.transaction.dress(&level.spot, level.unpacked)
    }
}
