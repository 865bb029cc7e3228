//! Directories read without opening what is in them. Memory is bounded by the names of the directories on
//! the way down.

use std::io::Write as _;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use pyro_agent::wire::{FileFacts, FileKind, GuestPath, Listed, emit_entry};
use rustix::fs::{FileType, Mode, OFlags, RawDir};
use rustix::io::Errno;

use crate::connection::{Connection, DataWriter};
use crate::limits::{MAX_WALK_NAME_BYTES, READ_DIRECTORY_BYTES};
use crate::paths::{FileError, On as _, Root, Spot, facts_at};
use pyro_tree::limits::MAX_TREE_DEPTH;

#[cfg(test)]
mod tests;

/// The names in a directory, sorted by their bytes, to be taken one by one.
#[derive(Debug, Default)]
pub(crate) struct Names {
    bytes: Vec<u8>,
    places: Vec<(u32, u32, FileType)>,
    taken: usize,
}

impl Names {
    /// Reads a directory, from its start if it was opened afresh. `limit` bounds the names' bytes.
    pub(crate) fn read(
        directory: BorrowedFd<'_>,
        buffer: &mut [MaybeUninit<u8>],
        limit: usize,
    ) -> rustix::io::Result<Self> {
        let mut names = Self::default();
        let mut entries = RawDir::new(directory, buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            if names.bytes.len() + name.len() > limit {
                return Err(Errno::NOBUFS);
            }
            let start = names.bytes.len();
            names.bytes.extend_from_slice(name);
            let place = |at| u32::try_from(at).expect("the limit is far below 4 GiB");
            names.places.push((place(start), place(names.bytes.len()), entry.file_type()));
        }
        let bytes = &names.bytes;
        let name = |(start, end, _): &(u32, u32, FileType)| &bytes[*start as usize..*end as usize];
        names.places.sort_unstable_by_key(name);
        // A directory that changes while it is read may show a name twice.
        names.places.dedup_by(|a, b| name(a) == name(b));
        Ok(names)
    }

    /// The next name.
    pub(crate) fn take(&mut self) -> Option<&[u8]> {
        self.take_with_type().map(|(name, _)| name)
    }

    /// The next name and what it was when the directory was read; some file systems do not say.
    pub(crate) fn take_with_type(&mut self) -> Option<(&[u8], FileType)> {
        let (start, end, file_type) = *self.places.get(self.taken)?;
        self.taken += 1;
        Some((&self.bytes[start as usize..end as usize], file_type))
    }

    fn held_bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// Scratch space for [`Names::read`].
pub(crate) fn directory_buffer() -> Box<[MaybeUninit<u8>]> {
    Box::new_uninit_slice(READ_DIRECTORY_BYTES)
}

/// Opens a directory by its name in another, itself not followed.
pub(crate) fn open_below(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// How far a listing goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// The directory's own entries.
    One,
    /// Everything below it on the same file system.
    All,
}

struct Level {
    directory: OwnedFd,
    names: Names,
    /// Bytes of the path up to here.
    prefix: usize,
}

/// A walk in progress.
struct Walker<'a> {
    top: &'a Spot,
    levels: Vec<Level>,
    path: Vec<u8>,
    device: u64,
    held_bytes: usize,
    buffer: Box<[MaybeUninit<u8>]>,
    scratch: Vec<u8>,
}

impl<'a> Walker<'a> {
    fn new(directory: OwnedFd, top: &'a Spot) -> Result<Self, FileError> {
        let device = rustix::fs::fstat(&directory).on(top)?.st_dev;
        let mut walker = Self {
            top,
            levels: Vec::new(),
            path: Vec::new(),
            device,
            held_bytes: 0,
            buffer: directory_buffer(),
            scratch: Vec::new(),
        };
        walker.enter(directory)?;
        Ok(walker)
    }

    fn spot(&self) -> Spot {
        spot_of(self.top, &self.path)
    }

    fn enter(&mut self, directory: OwnedFd) -> Result<(), FileError> {
        if self.levels.len() >= MAX_TREE_DEPTH {
            return Err(FileError::refused("directories are nested too deep", &self.spot()));
        }
        let left = MAX_WALK_NAME_BYTES - self.held_bytes;
        let names = Names::read(directory.as_fd(), &mut self.buffer, left).map_err(|error| match error {
            Errno::NOBUFS => FileError::refused("directory has too many entries", &self.spot()),
            error => FileError::os(error, &self.spot()),
        })?;
        self.held_bytes += names.held_bytes();
        self.levels.push(Level { directory, names, prefix: self.path.len() });
        Ok(())
    }

    /// The next entry and its path; what vanishes meanwhile is left out.
    fn next(&mut self, depth: Depth) -> Result<Option<(FileFacts, &[u8])>, FileError> {
        loop {
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            self.path.truncate(level.prefix);
            let Some(name) = level.names.take() else {
                self.held_bytes -= level.names.held_bytes();
                self.levels.pop();
                continue;
            };
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name);
            let parent = level.directory.as_fd();
            let (facts, device) = match facts_at(parent, name, &mut self.scratch) {
                // It became something else between two looks, or went.
                Err(Errno::NOENT | Errno::INVAL) => continue,
                other => other.on(&spot_of(self.top, &self.path))?,
            };
            if facts.kind == FileKind::Directory && depth == Depth::All && device == self.device {
                match open_below(parent, name) {
                    Ok(directory) => self.enter(directory)?,
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                    Err(error) => return Err(FileError::os(error, &self.spot())),
                }
            }
            return Ok(Some((facts, &self.path)));
        }
    }
}

fn spot_of(top: &Spot, path: &[u8]) -> Spot {
    if path.is_empty() { top.clone() } else { top.join(path) }
}

/// Sends up to `limit` entries below `directory`.
fn send_below(
    connection: &mut Connection,
    directory: OwnedFd,
    top: &Spot,
    depth: Depth,
    limit: u64,
) -> Result<Listed, FileError> {
    let mut walker = Walker::new(directory, top)?;
    let mut stream = DataWriter::new(connection);
    let mut listed = Listed { count: 0, truncated: false };
    let mut record = Vec::new();
    while let Some((facts, path)) = walker.next(depth)? {
        if listed.count >= limit {
            listed.truncated = true;
            break;
        }
        record.clear();
        emit_entry(path, &facts, &mut record);
        stream.write_all(&record).map_err(FileError::Host)?;
        listed.count += 1;
    }
    stream.finish().map_err(FileError::Host)?;
    Ok(listed)
}

/// Sends everything below the directory at `path`.
pub(crate) fn walk(connection: &mut Connection, path: &GuestPath) -> Result<Listed, FileError> {
    let root = Root::open(path)?;
    let top = root.spot();
    let directory = root.open_directory(&top)?;
    send_below(connection, directory, &top, Depth::All, u64::MAX)
}

/// Lists a directory, or the one entry that anything else is.
pub(crate) fn list(
    connection: &mut Connection,
    root: &GuestPath,
    path: &GuestPath,
    depth: Depth,
    limit: u64,
) -> Result<Listed, FileError> {
    let root = Root::open(root)?;
    let top = root.absolute(path)?;
    if top.is_root() {
        let directory = root.open_directory(&top)?;
        return send_below(connection, directory, &top, depth, limit);
    }
    let parent = root.open_parent(&top)?;
    let (facts, _) = facts_at(parent.as_fd(), top.name(), &mut Vec::new()).on(&top)?;
    if facts.kind == FileKind::Directory {
        let directory = open_below(parent.as_fd(), top.name()).on(&top)?;
        return send_below(connection, directory, &top, depth, limit);
    }
    let count = limit.min(1);
    let mut stream = DataWriter::new(connection);
    if count > 0 {
        let mut record = Vec::new();
        emit_entry(b"", &facts, &mut record);
        stream.write_all(&record).map_err(FileError::Host)?;
    }
    stream.finish().map_err(FileError::Host)?;
    Ok(Listed { count, truncated: count == 0 })
}
