//! A file from the host, put in place in one step when it is complete.

use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use pyro_agent::wire::{FileKind, FileWritten, GuestPath};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use super::{make_parents, remove_made};
use crate::connection::{Connection, DataReader};
use crate::paths::{FileError, On as _, Root, Spot, kind};
use crate::staging::random_name;
use pyro_tree::limits::COPY_BYTES;

/// Permission bits of a new file.
pub(crate) const NEW_FILE_MODE: u32 = 0o644;

/// Receives a file into `path`.
pub(crate) fn write(
    connection: &mut Connection,
    root: &GuestPath,
    path: &GuestPath,
    mode: Option<u32>,
    create_parents: bool,
) -> Result<FileWritten, FileError> {
    let root = Root::open(root)?;
    let spot = root.absolute(path)?;
    if mode.is_some_and(|mode| mode > 0o7777) {
        return Err(FileError::refused("mode must be at most 0o7777", &spot));
    }
    let existing = existing_file(&root, &spot)?;
    let nearest = match root.open_parent(&spot) {
        Err(FileError::Missing(_)) if create_parents => nearest_directory(&root, &spot)?,
        other => other?,
    };
    let temporary = Temporary::create(nearest.as_fd()).on(&spot)?;
    let bytes_written = receive(connection, temporary.file(), &spot)?;
    dress(temporary.file(), existing.as_ref(), mode).on(&spot)?;
    let made = if create_parents { make_parents(&root, &spot)? } else { Vec::new() };
    let placed = root.open_parent(&spot).and_then(|parent| {
        // What it is now, since receiving took its time.
        existing_file(&root, &spot)?;
        temporary.place(parent.as_fd(), spot.name()).on(&spot)
    });
    if let Err(error) = placed {
        remove_made(&root, made);
        return Err(error);
    }
    Ok(FileWritten { bytes_written, created: existing.is_none() })
}

/// The regular file at `spot`, if there is any; something else there is refused.
fn existing_file(root: &Root, spot: &Spot) -> Result<Option<Stat>, FileError> {
    let existing = root.stat_if_any(spot)?;
    match &existing {
        Some(stat) if kind(stat.st_mode) != FileKind::File => {
            Err(FileError::refused("workspace file write only supports regular file targets", spot))
        }
        _ => Ok(existing),
    }
}

/// The innermost directory above `spot` that exists.
fn nearest_directory(root: &Root, spot: &Spot) -> Result<OwnedFd, FileError> {
    let mut at = spot.parent();
    loop {
        match root.open_directory(&at) {
            Err(FileError::Missing(_)) if !at.is_root() => at = at.parent(),
            other => return other,
        }
    }
}

fn receive(connection: &mut Connection, file: BorrowedFd<'_>, spot: &Spot) -> Result<u64, FileError> {
    let mut stream = DataReader::new(connection);
    let mut buffer = vec![0; COPY_BYTES];
    let mut total = 0;
    loop {
        let len = stream.read(&mut buffer).map_err(FileError::Host)?;
        if len == 0 {
            return Ok(total);
        }
        write_all(file, &buffer[..len]).on(spot)?;
        total += len as u64;
    }
}

/// Writes all of it.
pub(crate) fn write_all(file: BorrowedFd<'_>, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(len) => bytes = &bytes[len..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Gives a new file the owner and mode of the one that it replaces, or its own mode.
pub(crate) fn dress(
    file: BorrowedFd<'_>,
    existing: Option<&Stat>,
    mode: Option<u32>,
) -> rustix::io::Result<()> {
    if let Some(stat) = existing {
        rustix::fs::fchown(file, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    }
    // After the owner, whose change takes set-id bits away.
    let kept = existing.map(|stat| stat.st_mode & 0o7777);
    rustix::fs::fchmod(file, Mode::from_raw_mode(mode.or(kept).unwrap_or(NEW_FILE_MODE)))
}

/// A file on its way: without a name where the file system can do that, so that not even a crash leaves
/// it behind; else under a name that goes when this is dropped.
struct Temporary {
    file: OwnedFd,
    named: Option<(OwnedFd, String)>,
}

impl Temporary {
    fn create(directory: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        let mode = Mode::from_raw_mode(0o600);
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        match rustix::fs::openat(directory, ".", flags | OFlags::TMPFILE, mode) {
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {}
            other => return Ok(Self { file: other?, named: None }),
        }
        let name = random_name(".pyro-write-")?;
        let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(directory, &name[..], flags, mode)?;
        let directory = rustix::io::fcntl_dupfd_cloexec(directory, 0)?;
        Ok(Self { file, named: Some((directory, name)) })
    }

    fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Gives the file its name, in place of another file.
    fn place(mut self, parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
        if let Some((directory, temporary)) = self.named.take() {
            let placed = rustix::fs::renameat(&directory, &temporary[..], parent, name);
            if placed.is_err() {
                self.named = Some((directory, temporary));
            }
            return placed;
        }
        // A link cannot replace a name; a rename can.
        let temporary = random_name(".pyro-write-")?;
        let source = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        rustix::fs::linkat(rustix::fs::CWD, source, parent, &temporary[..], AtFlags::SYMLINK_FOLLOW)?;
        let placed = rustix::fs::renameat(parent, &temporary[..], parent, name);
        if placed.is_err() {
            let _ = rustix::fs::unlinkat(parent, &temporary[..], AtFlags::empty());
        }
        placed
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some((directory, name)) = &self.named {
            let _ = rustix::fs::unlinkat(directory, &name[..], AtFlags::empty());
        }
    }
}
