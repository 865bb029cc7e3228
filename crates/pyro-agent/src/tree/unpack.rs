//! An archive into a directory, never outside of it. Every parent is opened beneath the root without
//! following links, so neither the archive nor a program that moves directories meanwhile can lead out.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use pyro_agent::pax::{Content, Kind, Member, Reader};
use pyro_agent::wire::TreeStats;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::{At as _, TreeError, refused, xattrs};
use crate::limits::{COPY_BYTES, MAX_TREE_DEPTH};

/// Unpacks `stream` into `path`, which is made if need be.
pub(super) fn unpack(path: &str, stream: &mut impl Read) -> Result<TreeStats, TreeError> {
    std::fs::create_dir_all(path).at(path.as_bytes())?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(path, flags, Mode::empty()).at(path.as_bytes())?;
    let mut unpacker = Unpacker {
        root,
        parent: None,
        open_directories: Vec::new(),
        stats: TreeStats::default(),
        buffer: vec![0; COPY_BYTES],
    };
    let mut reader = Reader::new(stream);
    while let Some(member) = reader.next_member()? {
        unpacker.add(&member, &mut reader)?;
    }
    unpacker.close_directories(&[])?;
    Ok(unpacker.stats)
}

struct Unpacker {
    root: OwnedFd,
    /// The parent of the last member: the next one most often has the same.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Directories whose members still come, outermost first: their owner, mode and time are set when
    /// the archive leaves them, since adding members needs the one and changes the other.
    open_directories: Vec<(Vec<u8>, Member)>,
    stats: TreeStats,
    buffer: Vec<u8>,
}

impl Unpacker {
    fn add<R: Read>(&mut self, member: &Member, reader: &mut Reader<R>) -> Result<(), TreeError> {
        let path = clean(&member.path)?;
        self.close_directories(&path)?;
        self.stats.entry_count += 1;
        if path.is_empty() {
            let Kind::Directory = member.kind else {
                return Err(refused(&member.path, "only a directory can be the root of a tree"));
            };
            self.open_directories.push((path, member.clone()));
            return Ok(());
        }
        let (parent, name) = split(&path);
        let parent = self.open_parent(parent, &member.path)?;
        let parent = parent.as_fd();
        match &member.kind {
            Kind::Directory => {
                make_directory(parent, name, &member.path)?;
                self.open_directories.push((path, member.clone()));
                return Ok(());
            }
            Kind::File(content) => {
                clear(parent, name, &member.path)?;
                return self.add_file(parent, name, member, content, reader);
            }
            Kind::Symlink(target) => {
                clear(parent, name, &member.path)?;
                rustix::fs::symlinkat(&target[..], parent, name).at(&member.path)?;
            }
            Kind::HardLink(target) => return self.add_link(parent, name, member, target),
            Kind::Fifo => {
                clear(parent, name, &member.path)?;
                rustix::fs::mknodat(parent, name, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
                    .at(&member.path)?;
            }
            Kind::Device => return Err(refused(&member.path, "device nodes are not accepted")),
        }
        finish(parent, name, member).at(&member.path)
    }

    fn add_file<R: Read>(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        member: &Member,
        content: &Content,
        reader: &mut Reader<R>,
    ) -> Result<(), TreeError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600)).at(&member.path)?;
        for extent in &content.extents {
            let (mut at, end) = (extent.offset, extent.offset + extent.len);
            while at < end {
                let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(self.buffer.len());
                let read = reader.read(&mut self.buffer[..len]).at(&member.path)?;
                let mut rest = &self.buffer[..read];
                while !rest.is_empty() {
                    let written = rustix::io::pwrite(&file, rest, at).at(&member.path)?;
                    rest = &rest[written..];
                    at += written as u64;
                }
                self.stats.bytes_written += read as u64;
            }
        }
        if content.extents.last().map_or(0, |extent| extent.offset + extent.len) < content.size {
            rustix::fs::ftruncate(&file, content.size).at(&member.path)?;
        }
        finish(parent, name, member).at(&member.path)
    }

    fn add_link(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        member: &Member,
        target: &[u8],
    ) -> Result<(), TreeError> {
        let target = clean(target)?;
        let (target_parent, target_name) = split(&target);
        if target_name.is_empty() {
            return Err(refused(&member.path, "a hard link cannot name the root"));
        }
        let from = beneath(self.root.as_fd(), target_parent)
            .map_err(|error| explain(error, &member.path, "its link target lies behind a symbolic link"))?;
        // Linking a name to itself is what it is already; clearing it first would lose it.
        let same = |name: &[u8], parent: BorrowedFd<'_>| {
            let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
            Some((stat.st_dev, stat.st_ino))
        };
        let (old, new) = (same(target_name, from.as_fd()), same(name, parent));
        if old.is_some() && old == new {
            return Ok(());
        }
        if old.is_some() {
            clear(parent, name, &member.path)?;
        }
        rustix::fs::linkat(&from, target_name, parent, name, AtFlags::empty()).at(&member.path)
    }

    /// Opens the directory `path`, making what is missing of it.
    fn open_parent(&mut self, path: &[u8], member: &[u8]) -> Result<OwnedFd, TreeError> {
        if let Some((known, parent)) = &self.parent
            && known == path
        {
            return parent.try_clone().at(member);
        }
        let opened = match beneath(self.root.as_fd(), path) {
            Err(Errno::NOENT) => self.make_parents(path, member)?,
            other => other.map_err(|error| explain(error, member, "its parent is a symbolic link"))?,
        };
        self.parent = Some((path.to_vec(), opened.try_clone().at(member)?));
        Ok(opened)
    }

    fn make_parents(&self, path: &[u8], member: &[u8]) -> Result<OwnedFd, TreeError> {
        let mut current = self.root.try_clone().at(member)?;
        for name in path.split(|byte| *byte == b'/') {
            match rustix::fs::mkdirat(&current, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error).at(member),
            }
            current = beneath(current.as_fd(), name)
                .map_err(|error| explain(error, member, "its parent is a symbolic link"))?;
        }
        Ok(current)
    }

    /// Finishes the directories that `next` does not lie in.
    fn close_directories(&mut self, next: &[u8]) -> Result<(), TreeError> {
        while let Some((path, member)) = self.open_directories.pop_if(|(path, _)| !lies_in(next, path)) {
            let (parent, name) = split(&path);
            let parent = match beneath(self.root.as_fd(), parent) {
                // Something else moved it away; then it is not ours to finish.
                Err(Errno::NOENT) => continue,
                other => {
                    other.map_err(|error| explain(error, &member.path, "its parent is a symbolic link"))?
                }
            };
            let name = if name.is_empty() { b"." } else { name };
            match finish(parent.as_fd(), name, &member) {
                Err(Errno::NOENT) => {}
                other => other.at(&member.path)?,
            }
        }
        Ok(())
    }
}

/// Whether `path` is inside of `directory`. Nothing lies in anything when the archive has ended: the end is
/// told by an empty path, which the root member has as well, and it comes first or is harmless.
fn lies_in(path: &[u8], directory: &[u8]) -> bool {
    !path.is_empty()
        && (directory.is_empty() || path.strip_prefix(directory).is_some_and(|rest| rest.starts_with(b"/")))
}

/// The components joined by single slashes, without `.`; refuses what could lead out.
fn clean(path: &[u8]) -> Result<Vec<u8>, TreeError> {
    if path.starts_with(b"/") {
        return Err(refused(path, "absolute paths are not accepted"));
    }
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err(refused(path, "paths with `..` are not accepted")),
            name => names.push(name),
        }
    }
    if names.len() > MAX_TREE_DEPTH {
        return Err(refused(path, "directories are nested too deep"));
    }
    Ok(names.join(&b'/'))
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// Opens a directory beneath another one, through no link at all.
fn beneath(root: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            // A rename raced with the look-up; the kernel asks to try again.
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
}

fn explain(error: Errno, member: &[u8], link: &'static str) -> TreeError {
    match error {
        Errno::LOOP | Errno::XDEV => refused(member, link),
        error => TreeError::File { path: super::lossy(member), source: error.into() },
    }
}

/// Removes what has the name: anything but a directory that is not empty.
fn clear(parent: BorrowedFd<'_>, name: &[u8], member: &[u8]) -> Result<(), TreeError> {
    let removed = match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR),
        other => other,
    };
    match removed {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::NOTEMPTY) => Err(refused(member, "a directory with contents is in its place")),
        Err(error) => Err(error).at(member),
    }
}

fn make_directory(parent: BorrowedFd<'_>, name: &[u8], member: &[u8]) -> Result<(), TreeError> {
    let make = || rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700));
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
    match stat.map(|stat| FileType::from_raw_mode(stat.st_mode)) {
        Ok(FileType::Directory) => Ok(()),
        Ok(_) => {
            clear(parent, name, member)?;
            make().at(member)
        }
        Err(_) => make().at(member),
    }
}

/// Owner, mode, attributes and time, in the order in which none undoes another.
fn finish(parent: BorrowedFd<'_>, name: &[u8], member: &Member) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(member.uid), Gid::from_raw(member.gid));
    rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if !matches!(member.kind, Kind::Symlink(_)) {
        // The name is one that this archive has just made; a link put in its place meanwhile is refused.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let node = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        if FileType::from_raw_mode(rustix::fs::fstat(&node)?.st_mode) == FileType::Symlink {
            return Err(Errno::LOOP);
        }
        let by_descriptor = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&node));
        rustix::fs::chmod(by_descriptor, Mode::from_raw_mode(member.mode & 0o7777))?;
    }
    xattrs::write(parent, name, &member.xattrs)?;
    let time = Timespec { tv_sec: member.mtime.seconds, tv_nsec: i64::from(member.mtime.nanos) };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
}
