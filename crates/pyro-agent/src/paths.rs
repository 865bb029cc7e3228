//! Places below a directory that no path leads out of: every look-up is beneath the root and through no
//! symbolic link at all, so neither the host's path nor a program that moves things meanwhile can leave it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use pyro_agent::wire::{Failure, FailureCode, FileFacts, FileKind, FileTime, GuestPath};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::connection::{failure, os_failure};
use pyro_tree::limits::MAX_TREE_DEPTH;

#[cfg(test)]
mod tests;

/// Why a file operation is refused or fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("workspace path does not exist: {0}")]
    Missing(String),
    #[error("workspace path would traverse through a symlinked parent: {0}")]
    SymlinkedParent(String),
    #[error("workspace path must stay inside {root}: {path}")]
    Outside { root: String, path: String },
    #[error("{reason}: {path}")]
    Refused { reason: &'static str, path: String },
    #[error("{reason}: {path}")]
    Conflict { reason: &'static str, path: String },
    #[error("{path}: {source}")]
    Os { path: String, source: io::Error },
    #[error("{0}")]
    BadStream(String),
    #[error("the host left: {0}")]
    Host(io::Error),
}

impl FileError {
    pub(crate) fn refused(reason: &'static str, path: &Spot) -> Self {
        Self::Refused { reason, path: path.shown() }
    }

    pub(crate) fn conflict(reason: &'static str, path: &Spot) -> Self {
        Self::Conflict { reason, path: path.shown() }
    }

    pub(crate) fn os(error: impl Into<io::Error>, path: &Spot) -> Self {
        Self::Os { path: path.shown(), source: error.into() }
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        let code = match &error {
            FileError::Missing(_) => FailureCode::NotFound,
            FileError::SymlinkedParent(_)
            | FileError::Outside { .. }
            | FileError::Refused { .. }
            | FileError::BadStream(_) => FailureCode::BadRequest,
            FileError::Conflict { .. } => FailureCode::Conflict,
            FileError::Os { path, source } => return os_failure(path, source),
            FileError::Host(_) => FailureCode::Os,
        };
        failure(code, error.to_string())
    }
}

/// Names the place that an error of the kernel is about.
pub(crate) trait On<T> {
    fn on(self, path: &Spot) -> Result<T, FileError>;
}

impl<T> On<T> for rustix::io::Result<T> {
    fn on(self, path: &Spot) -> Result<T, FileError> {
        self.map_err(|error| match error {
            Errno::NOENT => FileError::Missing(path.shown()),
            error => FileError::os(error, path),
        })
    }
}

/// A checked path below a root: names joined by single slashes, without `.` and `..`; empty for the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    relative: Vec<u8>,
    /// The root's own path without a slash at its end, for messages.
    root: Vec<u8>,
}

impl Spot {
    pub(crate) fn relative(&self) -> &[u8] {
        &self.relative
    }

    pub(crate) fn is_root(&self) -> bool {
        self.relative.is_empty()
    }

    /// The last name; empty for the root.
    pub(crate) fn name(&self) -> &[u8] {
        split(&self.relative).1
    }

    /// What it lies in; the root for the root.
    pub(crate) fn parent(&self) -> Self {
        Self { relative: split(&self.relative).0.to_vec(), root: self.root.clone() }
    }

    /// A name in it.
    pub(crate) fn join(&self, name: &[u8]) -> Self {
        let relative = match self.is_root() {
            true => name.to_vec(),
            false => [&self.relative, &b"/"[..], name].concat(),
        };
        Self { relative, root: self.root.clone() }
    }

    /// The absolute path for people.
    pub(crate) fn shown(&self) -> String {
        let path = match (self.is_root(), self.root.is_empty()) {
            (true, true) => b"/".to_vec(),
            (true, false) => self.root.clone(),
            (false, _) => [&self.root, &b"/"[..], &self.relative].concat(),
        };
        String::from_utf8_lossy(&path).into_owned()
    }
}

/// An open directory that operations stay in.
#[derive(Debug)]
pub(crate) struct Root {
    directory: OwnedFd,
    path: Vec<u8>,
}

impl Root {
    /// Opens the directory at an absolute path. Its own path may hold links: the host chose it.
    pub(crate) fn open(path: &GuestPath) -> Result<Self, FileError> {
        let shown = path.to_string();
        let refused = |reason| FileError::Refused { reason, path: shown.clone() };
        if !path.as_bytes().starts_with(b"/") {
            return Err(refused("workspace path must be absolute"));
        }
        let names = names(path.as_bytes()).map_err(refused)?;
        let path = names.iter().flat_map(|name| [b"/", *name]).collect::<Vec<_>>().concat();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = if path.is_empty() { &b"/"[..] } else { &path };
        match rustix::fs::open(opened, flags, Mode::empty()) {
            Ok(directory) => Ok(Self { directory, path }),
            Err(Errno::NOENT) => Err(FileError::Missing(shown)),
            Err(Errno::NOTDIR) => Err(refused("workspace path is not a directory")),
            Err(error) => Err(FileError::Os { path: shown, source: error.into() }),
        }
    }

    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// The root itself.
    pub(crate) fn spot(&self) -> Spot {
        Spot { relative: Vec::new(), root: self.path.clone() }
    }

    /// Checks an absolute path, which must lie at or below the root.
    pub(crate) fn absolute(&self, path: &GuestPath) -> Result<Spot, FileError> {
        let refused = |reason| FileError::Refused { reason, path: path.to_string() };
        let bytes = path.as_bytes();
        match bytes.first() {
            None => return Err(refused("workspace path must not be empty")),
            Some(b'/') => {}
            Some(_) => return Err(refused("workspace path must be absolute")),
        }
        let all = names(bytes).map_err(refused)?;
        let root: Vec<&[u8]> = self.path.split(|byte| *byte == b'/').skip(1).collect();
        let below = all
            .strip_prefix(&root[..])
            .ok_or_else(|| FileError::Outside { root: self.spot().shown(), path: path.to_string() })?;
        Ok(Spot { relative: below.join(&b'/'), root: self.path.clone() })
    }

    /// Checks a path relative to the root, not the root itself.
    pub(crate) fn relative(&self, path: &[u8]) -> Result<Spot, FileError> {
        let refused =
            |reason| FileError::Refused { reason, path: String::from_utf8_lossy(path).into_owned() };
        if path.starts_with(b"/") {
            return Err(refused("path must be relative"));
        }
        let names = names(path).map_err(refused)?;
        if names.is_empty() {
            return Err(refused("workspace path must not be empty"));
        }
        Ok(Spot { relative: names.join(&b'/'), root: self.path.clone() })
    }

    /// Opens a directory.
    pub(crate) fn open_directory(&self, spot: &Spot) -> Result<OwnedFd, FileError> {
        beneath(self.directory.as_fd(), spot.relative()).map_err(|error| explain_parent(error, spot))
    }

    /// Opens what `spot` lies in. The root has no parent, and is refused.
    pub(crate) fn open_parent(&self, spot: &Spot) -> Result<OwnedFd, FileError> {
        if spot.is_root() {
            return Err(FileError::refused("the workspace's root cannot be changed", spot));
        }
        beneath(self.directory.as_fd(), split(spot.relative()).0).map_err(|error| explain_parent(error, spot))
    }

    /// Metadata of what is at `spot`, itself not followed.
    pub(crate) fn stat(&self, spot: &Spot) -> Result<Stat, FileError> {
        if spot.is_root() {
            return rustix::fs::fstat(&self.directory).on(spot);
        }
        let parent = self.open_parent(spot)?;
        rustix::fs::statat(&parent, spot.name(), AtFlags::SYMLINK_NOFOLLOW).on(spot)
    }

    /// The same, or `None` when there is nothing, or no parent.
    pub(crate) fn stat_if_any(&self, spot: &Spot) -> Result<Option<Stat>, FileError> {
        match self.stat(spot) {
            Ok(stat) => Ok(Some(stat)),
            Err(FileError::Missing(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The names of a path.
fn names(path: &[u8]) -> Result<Vec<&[u8]>, &'static str> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err("workspace path must not hold `..`"),
            name if name.contains(&0) => return Err("workspace path must not hold a zero byte"),
            name => names.push(name),
        }
    }
    if names.len() > MAX_TREE_DEPTH {
        return Err("workspace path is nested too deep");
    }
    Ok(names)
}

/// Parent and last name.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// Opens a directory beneath another one, through no link at all.
pub(crate) fn beneath(root: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    // Without O_NOFOLLOW, with which a link at the end would be told as "not a directory".
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            // A rename raced with the look-up; the kernel asks to try again.
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
}

pub(crate) fn explain_parent(error: Errno, spot: &Spot) -> FileError {
    match error {
        Errno::LOOP | Errno::XDEV => FileError::SymlinkedParent(spot.shown()),
        Errno::NOENT => FileError::Missing(spot.shown()),
        Errno::NOTDIR => FileError::refused("workspace path leads through something but a directory", spot),
        error => FileError::os(error, spot),
    }
}

/// The kind of file that a mode tells.
pub(crate) fn kind(mode: u32) -> FileKind {
    match FileType::from_raw_mode(mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        _ => FileKind::Device,
    }
}

/// What the host is told of a file; a link's target must be read apart.
pub(crate) fn facts(stat: &Stat) -> FileFacts {
    let nanos = |nanos: u64| u32::try_from(nanos).unwrap_or(0).min(999_999_999);
    let kind = kind(stat.st_mode);
    FileFacts {
        kind,
        size_bytes: match kind {
            FileKind::File | FileKind::Symlink => stat.st_size.unsigned_abs(),
            _ => 0,
        },
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: FileTime { seconds: stat.st_mtime, nanos: nanos(stat.st_mtime_nsec) },
        ctime: FileTime { seconds: stat.st_ctime, nanos: nanos(stat.st_ctime_nsec) },
        ino: stat.st_ino,
        link_count: stat.st_nlink,
        link_target: None,
    }
}

/// The same of a name in an open directory, with a link's target; `buffer` is scratch space.
pub(crate) fn facts_at(
    parent: BorrowedFd<'_>,
    name: &[u8],
    buffer: &mut Vec<u8>,
) -> rustix::io::Result<(FileFacts, u64)> {
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mut facts = facts(&stat);
    if facts.kind == FileKind::Symlink {
        let target = rustix::fs::readlinkat(parent, name, std::mem::take(buffer))?;
        facts.link_target = Some(GuestPath::new(target.as_bytes()));
        *buffer = target.into_bytes();
        buffer.clear();
    }
    Ok((facts, stat.st_dev))
}
