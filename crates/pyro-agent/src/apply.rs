//! A transaction of the host: received whole, checked, then applied.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

use pyro_agent::wire::{
    Applied, Change, ChangeAction, ChangeItem, Expected, FileKind, GuestPath, MAX_BATCH, MAX_BATCH_BYTES,
};
use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use sha2::{Digest as _, Sha256};

use crate::connection::Connection;
use crate::files::{dress, open_regular, write_all};
use crate::paths::{FileError, On as _, Root, Spot, facts, kind};
use crate::records::Records;
use crate::staging::{Stage, Staging};
use crate::transaction::{Attributes, Transaction};
use pyro_tree::limits::COPY_BYTES;

#[cfg(test)]
mod tests;

/// A change with its path checked and its content, if any, staged under `staged`.
struct Step {
    spot: Spot,
    expected: Expected,
    action: ChangeAction,
    staged: Vec<u8>,
}

/// Receives a transaction and applies it.
pub(crate) fn apply(
    connection: &mut Connection,
    staging: &Staging,
    root: &GuestPath,
    prune: bool,
) -> Result<Applied, FileError> {
    let root = Root::open(root)?;
    let stage = staging.create().on(&root.spot())?;
    let mut transaction = Transaction::new(&root, &stage)?;
    let mut applied = Applied::default();
    let steps = receive(connection, &root, &stage, &mut applied)?;
    for step in &steps {
        check(&root, step)?;
    }
    // What is removed makes room for what is written: a file may become a directory, and the reverse.
    let removals: Vec<&Step> =
        steps.iter().filter(|step| matches!(step.action, ChangeAction::Remove)).collect();
    for step in &removals {
        transaction.take(&step.spot)?;
        applied.removed_count += 1;
    }
    let mut run = Run { root: &root, stage: &stage, transaction: &mut transaction, removals: &removals };
    for step in &steps {
        match &step.action {
            ChangeAction::Remove => {}
            ChangeAction::Write { mode } => {
                run.write(step, *mode)?;
                applied.written_count += 1;
            }
            ChangeAction::Symlink { target } => {
                run.symlink(step, target)?;
                applied.written_count += 1;
            }
            ChangeAction::Chmod { mode } => {
                run.chmod(step, *mode)?;
                applied.chmod_count += 1;
            }
        }
    }
    if prune {
        run.prune_all(None)?;
    }
    transaction.commit();
    Ok(applied)
}

/// Receives all changes, with their contents in the stage.
fn receive(
    connection: &mut Connection,
    root: &Root,
    stage: &Stage,
    applied: &mut Applied,
) -> Result<Vec<Step>, FileError> {
    let bad = |text: &str| FileError::BadStream(text.to_owned());
    let mut records = Records::new(connection);
    let mut steps: Vec<Step> = Vec::new();
    let mut paths = BTreeSet::new();
    let mut open: Option<OwnedFd> = None;
    let mut total = 0;
    while let Some(item) = records.next(ChangeItem::parse)? {
        match (item, &open) {
            (ChangeItem::Change(change), None) => {
                total += change.path.len();
                if let ChangeAction::Symlink { target } = &change.action {
                    total += target.len();
                }
                if steps.len() >= MAX_BATCH || total > MAX_BATCH_BYTES {
                    return Err(bad("the transaction has too many changes, or too long paths"));
                }
                let step = step(root, change, steps.len())?;
                if !paths.insert(step.spot.relative().to_vec()) {
                    return Err(FileError::refused("path is changed twice", &step.spot));
                }
                if let ChangeAction::Write { .. } = step.action {
                    open = Some(create(stage, &step)?);
                }
                steps.push(step);
            }
            (ChangeItem::Chunk(bytes), Some(file)) => {
                applied.bytes_written += bytes.len() as u64;
                let spot = &steps.last().expect("an open file has its step").spot;
                write_all(file.as_fd(), &bytes).on(spot)?;
            }
            (ChangeItem::End, Some(_)) => open = None,
            (ChangeItem::Change(_), Some(_)) => return Err(bad("a change came inside a file's content")),
            (ChangeItem::Chunk(_) | ChangeItem::End, None) => return Err(bad("content came without a file")),
        }
    }
    if open.is_some() {
        return Err(bad("the last file's content has no end"));
    }
    Ok(steps)
}

fn step(root: &Root, change: Change, index: usize) -> Result<Step, FileError> {
    let spot = root.relative(&change.path)?;
    let staged = format!("new-{index}").into_bytes();
    Ok(Step { spot, expected: change.expected, action: change.action, staged })
}

fn create(stage: &Stage, step: &Step) -> Result<OwnedFd, FileError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(stage.directory(), &step.staged[..], flags, Mode::from_raw_mode(0o600)).on(&step.spot)
}

/// Whether the condition holds and the action fits what is there.
fn check(root: &Root, step: &Step) -> Result<(), FileError> {
    let spot = &step.spot;
    let changed = || FileError::conflict("workspace path has changed meanwhile", spot);
    let found = match root.stat_if_any(spot) {
        // A file above is removed by this very transaction, or the write itself will fail.
        Err(FileError::Refused { .. }) => None,
        other => other?,
    };
    match (step.expected, &found) {
        (Expected::Any, _) | (Expected::Absent, None) => {}
        (Expected::Absent, Some(_)) => {
            return Err(FileError::conflict("workspace path exists already", spot));
        }
        (_, None) => return Err(FileError::Missing(spot.shown())),
        (Expected::Content(sha256), Some(stat)) => {
            if content_hash(root, spot, stat)? != Some(sha256) {
                return Err(changed());
            }
        }
        (Expected::Unchanged { size_bytes, mtime }, Some(stat)) => {
            let now = facts(stat);
            if (now.size_bytes, now.mtime) != (size_bytes, mtime) {
                return Err(changed());
            }
        }
    }
    let found = found.map(|stat| kind(stat.st_mode));
    match (&step.action, found) {
        (
            ChangeAction::Remove,
            Some(FileKind::File | FileKind::Symlink | FileKind::Fifo | FileKind::Socket),
        )
        | (ChangeAction::Chmod { .. }, Some(FileKind::File)) => Ok(()),
        (ChangeAction::Remove | ChangeAction::Chmod { .. }, None) => Err(FileError::Missing(spot.shown())),
        (ChangeAction::Remove | ChangeAction::Chmod { .. }, Some(_)) => {
            Err(FileError::refused("workspace patch only supports regular files", spot))
        }
        // A directory may be gone when its turn comes.
        (ChangeAction::Write { .. } | ChangeAction::Symlink { .. }, _) => Ok(()),
    }
}

/// The hash of a regular file's content or of a link's target.
fn content_hash(root: &Root, spot: &Spot, stat: &Stat) -> Result<Option<[u8; 32]>, FileError> {
    let mut hasher = Sha256::new();
    match kind(stat.st_mode) {
        FileKind::Symlink => {
            let parent = root.open_parent(spot)?;
            let target = rustix::fs::readlinkat(&parent, spot.name(), Vec::new()).on(spot)?;
            hasher.update(target.as_bytes());
        }
        FileKind::File => {
            let (file, _) = open_regular(root, spot)?;
            let mut buffer = vec![0; COPY_BYTES];
            loop {
                match rustix::io::read(&file, &mut buffer[..]).on(spot)? {
                    0 => break,
                    len => hasher.update(&buffer[..len]),
                }
            }
        }
        _ => return Ok(None),
    }
    Ok(Some(hasher.finalize().into()))
}

/// The applying half.
struct Run<'a, 'b> {
    root: &'a Root,
    stage: &'a Stage,
    transaction: &'a mut Transaction<'b>,
    removals: &'a [&'a Step],
}

impl Run<'_, '_> {
    fn write(&mut self, step: &Step, mode: Option<u32>) -> Result<(), FileError> {
        let existing = self.make_room(&step.spot)?;
        let existing = existing.filter(|stat| kind(stat.st_mode) == FileKind::File);
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let staged = rustix::fs::openat(self.stage.directory(), &step.staged[..], flags, Mode::empty());
        dress(staged.on(&step.spot)?.as_fd(), existing.as_ref(), mode).on(&step.spot)?;
        self.place(step)
    }

    fn symlink(&mut self, step: &Step, target: &[u8]) -> Result<(), FileError> {
        self.make_room(&step.spot)?;
        rustix::fs::symlinkat(target, self.stage.directory(), &step.staged[..]).on(&step.spot)?;
        self.place(step)
    }

    fn chmod(&mut self, step: &Step, mode: u32) -> Result<(), FileError> {
        let was = Attributes::from(&self.root.stat(&step.spot)?);
        self.transaction.dress(&step.spot, Attributes { mode, ..was })
    }

    fn place(&mut self, step: &Step) -> Result<(), FileError> {
        let parent = self.root.open_parent(&step.spot)?;
        self.transaction.place(self.stage.directory(), &step.staged, parent.as_fd(), &step.spot)
    }

    /// Makes the parents, and gives what the file will replace. A directory that the removals have emptied
    /// goes; anything but a file or link is refused.
    fn make_room(&mut self, spot: &Spot) -> Result<Option<Stat>, FileError> {
        self.transaction.make_parents(spot)?;
        let parent = self.root.open_parent(spot)?;
        let mut found = rustix::fs::statat(&parent, spot.name(), AtFlags::SYMLINK_NOFOLLOW).ok();
        if found.is_some_and(|stat| kind(stat.st_mode) == FileKind::Directory) {
            self.prune_all(Some(spot))?;
            found = rustix::fs::statat(&parent, spot.name(), AtFlags::SYMLINK_NOFOLLOW).ok();
        }
        match found.map(|stat| kind(stat.st_mode)) {
            None | Some(FileKind::File | FileKind::Symlink) => Ok(found),
            Some(_) => Err(FileError::conflict("workspace patch only supports regular files", spot)),
        }
    }

    /// Removes directories that removals have left empty: all of them, or those at and below one place.
    fn prune_all(&mut self, within: Option<&Spot>) -> Result<(), FileError> {
        let removals = self.removals;
        for step in removals {
            let mut at = step.spot.parent();
            while !at.is_root() && within.is_none_or(|within| is_within(&at, within)) {
                match self.transaction.remove_if_empty(&at) {
                    Ok(true) | Err(FileError::Missing(_)) => at = at.parent(),
                    Ok(false) => break,
                    // Something above it is no directory any more.
                    Err(FileError::Refused { .. } | FileError::SymlinkedParent(_)) => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

fn is_within(path: &Spot, directory: &Spot) -> bool {
    path.relative()
        .strip_prefix(directory.relative())
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}
