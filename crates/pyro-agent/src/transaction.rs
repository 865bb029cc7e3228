//! Several changes below a root that all happen or none: each is a rename between a stage and the root, or
//! small enough to be undone. Dropping an uncommitted transaction takes everything back.

use std::os::fd::{AsFd, BorrowedFd};

use pyro_agent::wire::FileKind;
use rustix::fs::{AtFlags, Gid, Mode, RenameFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::console::say;
use crate::paths::{FileError, On as _, Root, Spot, beneath, explain_parent, kind, split};
use crate::staging::{Stage, random_name};

/// How to take one change back.
#[derive(Debug)]
enum Undo {
    /// What is at `at` came from `staged`.
    Placed {
        staged: Vec<u8>,
        at: Spot,
    },
    /// What is at `at` and `staged` changed places.
    Exchanged {
        staged: Vec<u8>,
        at: Spot,
    },
    /// What was at `at` is at `staged`.
    Taken {
        staged: Vec<u8>,
        at: Spot,
    },
    MadeDirectory {
        at: Spot,
    },
    RemovedDirectory {
        at: Spot,
        was: Attributes,
    },
    Dressed {
        at: Spot,
        was: Attributes,
    },
}

/// What a directory or file is given back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributes {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timespec,
}

impl From<&Stat> for Attributes {
    fn from(stat: &Stat) -> Self {
        Self {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: Timespec {
                tv_sec: stat.st_mtime,
                tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or_default(),
            },
        }
    }
}

/// Changes that can still be taken back.
pub(crate) struct Transaction<'a> {
    root: &'a Root,
    stage: &'a Stage,
    undo: Vec<Undo>,
}

impl<'a> Transaction<'a> {
    /// No changes. The stage must be on the root's file system.
    pub(crate) fn new(root: &'a Root, stage: &'a Stage) -> Result<Self, FileError> {
        let top = root.spot();
        let device = |directory| rustix::fs::fstat(directory).on(&top).map(|stat| stat.st_dev);
        if device(root.directory())? != device(stage.directory())? {
            return Err(FileError::refused("workspace path is not on the root disk", &top));
        }
        Ok(Self { root, stage, undo: Vec::new() })
    }

    /// Keeps all changes.
    pub(crate) fn commit(mut self) {
        self.undo.clear();
    }

    /// Moves what is at `staged` (a path in the stage) to `at`, in place of anything but a directory. Both
    /// parents are open: `source` and `target`.
    pub(crate) fn place(
        &mut self,
        source: BorrowedFd<'_>,
        staged: &[u8],
        target: BorrowedFd<'_>,
        at: &Spot,
    ) -> Result<(), FileError> {
        let (from, to) = (split(staged).1, at.name());
        let rename = |flags| rustix::fs::renameat_with(source, from, target, to, flags);
        match rename(RenameFlags::NOREPLACE) {
            Ok(()) => self.undo.push(Undo::Placed { staged: staged.to_vec(), at: at.clone() }),
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(target, to, AtFlags::SYMLINK_NOFOLLOW).on(at)?;
                if kind(stat.st_mode) == FileKind::Directory {
                    return Err(FileError::conflict("file conflicts with existing directory", at));
                }
                self.swap(source, staged, target, at).map_err(|error| unplaced(error, at))?;
            }
            Err(error) => return Err(unplaced(error, at)),
        }
        Ok(())
    }

    /// The same where it is known that something is there, and that it is no directory.
    pub(crate) fn exchange(
        &mut self,
        source: BorrowedFd<'_>,
        staged: &[u8],
        target: BorrowedFd<'_>,
        at: &Spot,
    ) -> Result<(), FileError> {
        match self.swap(source, staged, target, at) {
            Ok(()) => Ok(()),
            // Somebody removed it a moment ago.
            Err(Errno::NOENT) => self.place(source, staged, target, at),
            Err(error) => Err(unplaced(error, at)),
        }
    }

    fn swap(
        &mut self,
        source: BorrowedFd<'_>,
        staged: &[u8],
        target: BorrowedFd<'_>,
        at: &Spot,
    ) -> rustix::io::Result<()> {
        let flags = RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(source, split(staged).1, target, at.name(), flags)?;
        self.undo.push(Undo::Exchanged { staged: staged.to_vec(), at: at.clone() });
        Ok(())
    }

    /// Moves what is at `at`, anything but a directory, into the stage.
    pub(crate) fn take(&mut self, at: &Spot) -> Result<(), FileError> {
        let parent = self.root.open_parent(at)?;
        let staged = random_name("taken-").on(at)?.into_bytes();
        let flags = RenameFlags::NOREPLACE;
        rustix::fs::renameat_with(&parent, at.name(), self.stage.directory(), &staged[..], flags).on(at)?;
        self.undo.push(Undo::Taken { staged, at: at.clone() });
        Ok(())
    }

    /// Makes the missing directories above `at`.
    pub(crate) fn make_parents(&mut self, at: &Spot) -> Result<(), FileError> {
        for made in crate::files::make_parents(self.root, at)? {
            self.undo.push(Undo::MadeDirectory { at: made });
        }
        Ok(())
    }

    /// Removes a directory if it is empty, and tells whether it was.
    pub(crate) fn remove_if_empty(&mut self, at: &Spot) -> Result<bool, FileError> {
        let parent = self.root.open_parent(at)?;
        let stat = rustix::fs::statat(&parent, at.name(), AtFlags::SYMLINK_NOFOLLOW).on(at)?;
        match rustix::fs::unlinkat(&parent, at.name(), AtFlags::REMOVEDIR) {
            Ok(()) => {
                self.undo.push(Undo::RemovedDirectory { at: at.clone(), was: Attributes::from(&stat) });
                Ok(true)
            }
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR | Errno::BUSY) => Ok(false),
            Err(error) => Err(FileError::os(error, at)),
        }
    }

    /// Sets mode, owner and time of what is at `at`, which must not be a link.
    pub(crate) fn dress(&mut self, at: &Spot, new: Attributes) -> Result<(), FileError> {
        let stat = self.root.stat(at)?;
        self.undo.push(Undo::Dressed { at: at.clone(), was: Attributes::from(&stat) });
        set_attributes(self.root, at, new)
    }

    fn take_back(&self, undo: &Undo) -> Result<(), FileError> {
        match undo {
            Undo::Placed { staged, at } => self.unplace(at, staged, RenameFlags::NOREPLACE),
            Undo::Exchanged { staged, at } => self.unplace(at, staged, RenameFlags::EXCHANGE),
            Undo::Taken { staged, at } => {
                let parent = self.root.open_parent(at)?;
                rustix::fs::renameat(self.stage.directory(), &staged[..], &parent, at.name()).on(at)
            }
            Undo::MadeDirectory { at } => {
                let parent = self.root.open_parent(at)?;
                rustix::fs::unlinkat(&parent, at.name(), AtFlags::REMOVEDIR).on(at)
            }
            Undo::RemovedDirectory { at, was } => {
                let parent = self.root.open_parent(at)?;
                rustix::fs::mkdirat(&parent, at.name(), Mode::from_raw_mode(0o700)).on(at)?;
                set_attributes(self.root, at, *was)
            }
            Undo::Dressed { at, was } => set_attributes(self.root, at, *was),
        }
    }

    fn unplace(&self, at: &Spot, staged: &[u8], flags: RenameFlags) -> Result<(), FileError> {
        let parent = self.root.open_parent(at)?;
        let (above, name) = split(staged);
        let source = beneath(self.stage.directory(), above).map_err(|error| explain_parent(error, at))?;
        rustix::fs::renameat_with(&parent, at.name(), &source, name, flags).on(at)
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        while let Some(undo) = self.undo.pop() {
            if let Err(error) = self.take_back(&undo) {
                say(&format!("warning: a change could not be taken back: {error}"));
            }
        }
    }
}

fn unplaced(error: Errno, at: &Spot) -> FileError {
    match error {
        Errno::XDEV => FileError::refused("workspace path is not on the root disk", at),
        error => FileError::os(error, at),
    }
}

/// Mode, owner and time of a directory or regular file.
fn set_attributes(root: &Root, at: &Spot, new: Attributes) -> Result<(), FileError> {
    let node = match at.is_root() {
        true => root.open_directory(at)?,
        false => {
            let parent = root.open_parent(at)?;
            let stat = rustix::fs::statat(&parent, at.name(), AtFlags::SYMLINK_NOFOLLOW).on(at)?;
            match kind(stat.st_mode) {
                FileKind::Directory => crate::walk::open_below(parent.as_fd(), at.name()).on(at)?,
                FileKind::File => crate::files::open_regular(root, at)?.0,
                _ => return Err(FileError::refused("workspace patch only supports regular files", at)),
            }
        }
    };
    let stat = rustix::fs::fstat(&node).on(at)?;
    if (stat.st_uid, stat.st_gid) != (new.uid, new.gid) {
        rustix::fs::fchown(&node, Some(Uid::from_raw(new.uid)), Some(Gid::from_raw(new.gid))).on(at)?;
    }
    rustix::fs::fchmod(&node, Mode::from_raw_mode(new.mode)).on(at)?;
    let access = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    let times = Timestamps { last_access: access, last_modification: new.mtime };
    rustix::fs::futimens(&node, &times).on(at)
}
