//! Single files and directories for the host.

use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};

use pyro_agent::wire::{DirectoryMade, FileFacts, FileKind, FileMoved, FileRead, FileRemoved, GuestPath};
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::connection::{Connection, DataWriter};
use crate::paths::{FileError, On as _, Root, Spot, facts, facts_at, kind};
use pyro_tree::limits::COPY_BYTES;

mod remove;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use remove::remove_tree;
pub(crate) use write::{dress, write, write_all};

/// Metadata of one file.
pub(crate) fn stat(root: &GuestPath, path: &GuestPath) -> Result<FileFacts, FileError> {
    let root = Root::open(root)?;
    let spot = root.absolute(path)?;
    if spot.is_root() {
        return Ok(facts(&root.stat(&spot)?));
    }
    let parent = root.open_parent(&spot)?;
    Ok(facts_at(parent.as_fd(), spot.name(), &mut Vec::new()).on(&spot)?.0)
}

/// Opens a regular file, which a link to one is not.
pub(crate) fn open_regular(root: &Root, spot: &Spot) -> Result<(OwnedFd, rustix::fs::Stat), FileError> {
    let other = || FileError::refused("workspace file read only supports regular files", spot);
    if spot.is_root() {
        return Err(other());
    }
    let parent = root.open_parent(spot)?;
    // A pipe must not be waited for.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(&parent, spot.name(), flags, Mode::empty()) {
        // A link; a socket or a device without a driver.
        Err(Errno::LOOP | Errno::NXIO | Errno::NODEV) => return Err(other()),
        other => other.on(spot)?,
    };
    let stat = rustix::fs::fstat(&file).on(spot)?;
    if kind(stat.st_mode) != FileKind::File {
        return Err(other());
    }
    Ok((file, stat))
}

/// Sends a part of a file.
pub(crate) fn read(
    connection: &mut Connection,
    root: &GuestPath,
    path: &GuestPath,
    offset: u64,
    max_bytes: u64,
) -> Result<FileRead, FileError> {
    let root = Root::open(root)?;
    let spot = root.absolute(path)?;
    let (file, stat) = open_regular(&root, &spot)?;
    let mut stream = DataWriter::new(connection);
    let mut buffer = vec![0; COPY_BYTES];
    let (mut at, end) = (offset, offset.saturating_add(max_bytes));
    while at < end {
        let room = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let len = match rustix::io::pread(&file, &mut buffer[..room], at) {
            // An offset beyond what the file system can address is beyond the end.
            Ok(0) | Err(Errno::INVAL) => break,
            other => other.on(&spot)?,
        };
        stream.write_all(&buffer[..len]).map_err(FileError::Host)?;
        at += len as u64;
    }
    stream.finish().map_err(FileError::Host)?;
    let size_bytes = stat.st_size.unsigned_abs();
    Ok(FileRead { size_bytes, mode: stat.st_mode & 0o7777, truncated: at < size_bytes })
}

/// Removes a file, or a tree if `recursive`.
pub(crate) fn remove(root: &GuestPath, path: &GuestPath, recursive: bool) -> Result<FileRemoved, FileError> {
    let root = Root::open(root)?;
    let spot = root.absolute(path)?;
    let parent = root.open_parent(&spot)?;
    let stat = rustix::fs::statat(&parent, spot.name(), AtFlags::SYMLINK_NOFOLLOW).on(&spot)?;
    let kind = kind(stat.st_mode);
    if kind == FileKind::Directory && !recursive {
        return Err(FileError::refused("workspace file delete does not support directories", &spot));
    }
    let count = remove_tree(parent.as_fd(), spot.name()).on(&spot)?;
    Ok(FileRemoved { kind, count })
}

/// Makes a directory, and with `parents` those above it.
pub(crate) fn make_directory(
    root: &GuestPath,
    path: &GuestPath,
    parents: bool,
) -> Result<DirectoryMade, FileError> {
    let root = Root::open(root)?;
    let spot = root.absolute(path)?;
    if !spot.is_root() {
        let made = match parents {
            true => make_parents(&root, &spot)?,
            false => Vec::new(),
        };
        let result = make_one(&root, &spot);
        if let Ok(true) = result {
            return Ok(DirectoryMade { created: true });
        }
        remove_made(&root, made);
        result?;
    }
    if !parents {
        return Err(FileError::conflict("workspace path exists already", &spot));
    }
    if kind(root.stat(&spot)?.st_mode) != FileKind::Directory {
        return Err(FileError::conflict("directory conflicts with existing path", &spot));
    }
    Ok(DirectoryMade { created: false })
}

/// Makes one directory; false when the name is taken.
fn make_one(root: &Root, spot: &Spot) -> Result<bool, FileError> {
    let parent = root.open_parent(spot).map_err(|error| match error {
        FileError::Missing(_) => FileError::Missing(spot.parent().shown()),
        other => other,
    })?;
    match rustix::fs::mkdirat(&parent, spot.name(), Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => Ok(false),
        other => other.on(spot).map(|()| true),
    }
}

/// Makes what is missing above `spot`; gives what it made, outermost first. On failure nothing stays.
pub(crate) fn make_parents(root: &Root, spot: &Spot) -> Result<Vec<Spot>, FileError> {
    let mut missing = Vec::new();
    let mut at = spot.clone();
    while !at.is_root() {
        match root.open_parent(&at) {
            Ok(_) => break,
            Err(FileError::Missing(_)) => at = at.parent(),
            Err(error) => return Err(error),
        }
        missing.push(at.clone());
    }
    let mut made = Vec::new();
    for directory in missing.into_iter().rev() {
        match make_one(root, &directory) {
            Ok(true) => made.push(directory),
            // Somebody else made it.
            Ok(false) => {}
            Err(error) => {
                remove_made(root, made);
                return Err(error);
            }
        }
    }
    Ok(made)
}

/// Takes directories away that [`make_parents`] made, as far as they are empty.
pub(crate) fn remove_made(root: &Root, made: Vec<Spot>) {
    for directory in made.into_iter().rev() {
        if let Ok(parent) = root.open_parent(&directory) {
            let _ = rustix::fs::unlinkat(&parent, directory.name(), AtFlags::REMOVEDIR);
        }
    }
}

/// Renames.
pub(crate) fn rename(
    root: &GuestPath,
    from: &GuestPath,
    to: &GuestPath,
    replace: bool,
) -> Result<FileMoved, FileError> {
    let root = Root::open(root)?;
    let (from, to) = (root.absolute(from)?, root.absolute(to)?);
    let (old_parent, new_parent) = (root.open_parent(&from)?, root.open_parent(&to)?);
    let old = rustix::fs::statat(&old_parent, from.name(), AtFlags::SYMLINK_NOFOLLOW).on(&from)?;
    let new = root.stat_if_any(&to)?;
    let flags = if replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
    let moved = rustix::fs::renameat_with(&old_parent, from.name(), &new_parent, to.name(), flags);
    moved.map_err(|error| match error {
        Errno::EXIST => FileError::conflict("workspace path exists already", &to),
        Errno::NOTEMPTY => FileError::conflict("a directory with contents is in its place", &to),
        Errno::ISDIR | Errno::NOTDIR => {
            FileError::conflict("a directory and something else cannot replace each other", &to)
        }
        Errno::INVAL => FileError::refused("a directory cannot be moved into itself", &to),
        Errno::NOENT => FileError::Missing(from.shown()),
        error => FileError::os(error, &to),
    })?;
    Ok(FileMoved { kind: kind(old.st_mode), replaced: new.is_some() })
}
