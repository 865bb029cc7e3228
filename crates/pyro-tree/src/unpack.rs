//! An archive into a directory, never outside of it. Every parent is opened beneath the root without
//! following links, so neither the archive nor a program that moves directories meanwhile can lead out.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::rc::Rc;

use crate::pax::{Content, Kind, Member, ReadError, Reader};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::error::{At as _, lossy, refused};
use crate::limits::{COPY_BYTES, MAX_TREE_DEPTH};
use crate::path::{clean, split, stays_inside};
use crate::{Fidelity, LinkPolicy, SkipReason, TreeError, TreeStats, UnpackOptions, xattrs};

/// Unpacks `stream` into `root`, which is made if need be. Stops at the archive's end mark.
///
/// On an error part of the tree is there, with directories that may still lack their final modes.
pub fn unpack(root: &Path, stream: &mut impl Read, options: &UnpackOptions) -> Result<TreeStats, TreeError> {
    let path = root.as_os_str().as_bytes();
    std::fs::create_dir_all(root).at(path)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty()).at(path)?;
    let mut unpacker = Unpacker {
        root,
        parent: None,
        open_directories: Vec::new(),
        stats: TreeStats::default(),
        seen: Seen::default(),
        options,
        buffer: vec![0; COPY_BYTES],
    };
    let mut reader = Reader::new(stream);
    while let Some(member) = reader.next_member()? {
        unpacker.add(&member, &mut reader)?;
    }
    unpacker.close_directories(&[])?;
    Ok(unpacker.stats)
}

/// What the limits count.
#[derive(Default)]
struct Seen {
    entries: u64,
    stored_bytes: u64,
    apparent_bytes: u64,
}

fn count(total: &mut u64, more: u64, limit: u64, what: &'static str) -> Result<(), TreeError> {
    *total = total.saturating_add(more);
    if *total > limit { Err(TreeError::OverLimit { what, limit }) } else { Ok(()) }
}

struct Unpacker<'a> {
    root: OwnedFd,
    /// The parent of the last member: the next one most often has the same.
    parent: Option<(Vec<u8>, Rc<OwnedFd>)>,
    /// Directories whose members still come, outermost first: their owner, mode and time are set when
    /// the archive leaves them, since adding members needs the one and changes the other.
    open_directories: Vec<(Vec<u8>, Member)>,
    stats: TreeStats,
    seen: Seen,
    options: &'a UnpackOptions,
    buffer: Vec<u8>,
}

impl Unpacker<'_> {
    fn add<R: Read>(&mut self, member: &Member, reader: &mut Reader<R>) -> Result<(), TreeError> {
        let path = clean(&member.path, self.options.limits.max_depth.min(MAX_TREE_DEPTH))?;
        self.count(member)?;
        self.stats.see_root(&path, &member.kind);
        self.close_directories(&path)?;
        if let Some(reason) = self.skips(&path, member) {
            self.stats.skip(&path, reason);
            return Ok(());
        }
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
            Kind::File(content) => return self.add_file(parent, name, member, content, reader),
            Kind::Symlink(target) => {
                clear(parent, name, &member.path)?;
                rustix::fs::symlinkat(&target[..], parent, name).at(&member.path)?;
            }
            Kind::HardLink(target) => return self.add_link(parent, &path, member, target),
            Kind::Fifo => {
                clear(parent, name, &member.path)?;
                rustix::fs::mknodat(parent, name, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
                    .at(&member.path)?;
            }
            Kind::Device => return Err(refused(&member.path, "device nodes are not accepted")),
        }
        self.finish(parent, name, member).at(&member.path)
    }

    /// Adds a member to what the limits count.
    fn count(&mut self, member: &Member) -> Result<(), TreeError> {
        let limits = &self.options.limits;
        count(&mut self.seen.entries, 1, limits.max_entries, "entries")?;
        let attributes: usize = member.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        let (stored, apparent) = match &member.kind {
            Kind::File(content) => (content.stored_bytes(), content.size),
            Kind::Symlink(target) => (target.len() as u64, 0),
            Kind::Directory | Kind::HardLink(_) | Kind::Fifo | Kind::Device => (0, 0),
        };
        let stored = stored.saturating_add(attributes as u64);
        count(&mut self.seen.stored_bytes, stored, limits.max_stored_bytes, "bytes of contents")?;
        let apparent_what = "bytes in its files, holes included";
        count(&mut self.seen.apparent_bytes, apparent, limits.max_apparent_bytes, apparent_what)
    }

    /// Why a member is left out, if that shows without looking at the disk.
    fn skips(&self, path: &[u8], member: &Member) -> Option<SkipReason> {
        match &member.kind {
            Kind::Fifo if self.options.fidelity == Fidelity::Portable => Some(SkipReason::Fifo),
            Kind::Symlink(target) => self.skips_link(path, target),
            Kind::File(_) | Kind::Directory | Kind::HardLink(_) | Kind::Fifo | Kind::Device => None,
        }
    }

    fn skips_link(&self, path: &[u8], target: &[u8]) -> Option<SkipReason> {
        let skipped = match self.options.links {
            LinkPolicy::All => false,
            LinkPolicy::InsideOnly => !stays_inside(path, target),
        };
        skipped.then(|| SkipReason::LinkOutside { target: target.to_vec() })
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
        // With its final permissions most often nothing is left to change. What its owner may not write takes
        // no attributes, so a file that has some gets them before.
        let mode = if member.xattrs.is_empty() { member.mode & 0o777 } else { 0o600 };
        let create = || rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(mode));
        let file = match create() {
            Err(Errno::EXIST) => {
                clear(parent, name, &member.path)?;
                create()
            }
            other => other,
        };
        let file = file.at(&member.path)?;
        for extent in &content.extents {
            let (mut at, end) = (extent.offset, extent.offset + extent.len);
            while at < end {
                let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(self.buffer.len());
                let read = reader.read(&mut self.buffer[..len]).map_err(ReadError::of_contents)?;
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
        self.finish_file(&file, member).at(&member.path)
    }

    fn add_link(
        &mut self,
        parent: BorrowedFd<'_>,
        path: &[u8],
        member: &Member,
        target: &[u8],
    ) -> Result<(), TreeError> {
        let (_, name) = split(path);
        let target = clean(target, MAX_TREE_DEPTH)?;
        let (target_parent, target_name) = split(&target);
        if target_name.is_empty() {
            return Err(refused(&member.path, "a hard link cannot name the root"));
        }
        let from = match beneath(self.root.as_fd(), target_parent) {
            Err(Errno::NOENT) if self.stats.skipped_count > 0 => return self.leave_out(path),
            other => {
                other.map_err(|e| explain(e, &member.path, "its link target lies behind a symbolic link"))?
            }
        };
        let node = |parent: BorrowedFd<'_>, name: &[u8]| {
            let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
            Some((stat.st_dev, stat.st_ino, FileType::from_raw_mode(stat.st_mode)))
        };
        let Some(old) = node(from.as_fd(), target_name) else {
            if self.stats.skipped_count > 0 {
                return self.leave_out(path);
            }
            return Err(Errno::NOENT).at(&member.path);
        };
        // Linking a name to itself is what it is already; clearing it first would lose it.
        if Some(old) == node(parent, name) {
            return Ok(());
        }
        // A relative link under a second name leads elsewhere.
        if old.2 == FileType::Symlink && self.options.links != LinkPolicy::All {
            let leads_to = rustix::fs::readlinkat(&from, target_name, Vec::new()).at(&member.path)?;
            if let Some(reason) = self.skips_link(path, leads_to.as_bytes()) {
                self.stats.entry_count -= 1;
                self.stats.skip(path, reason);
                return Ok(());
            }
        }
        clear(parent, name, &member.path)?;
        rustix::fs::linkat(&from, target_name, parent, name, AtFlags::empty()).at(&member.path)
    }

    /// Counts a member as left out that already counts as made.
    fn leave_out(&mut self, path: &[u8]) -> Result<(), TreeError> {
        self.stats.entry_count -= 1;
        self.stats.skip(path, SkipReason::NameOfSkipped);
        Ok(())
    }

    /// Opens the directory `path`, making what is missing of it.
    fn open_parent(&mut self, path: &[u8], member: &[u8]) -> Result<Rc<OwnedFd>, TreeError> {
        if let Some((known, parent)) = &self.parent
            && known == path
        {
            return Ok(Rc::clone(parent));
        }
        let opened = match beneath(self.root.as_fd(), path) {
            Err(Errno::NOENT) => self.make_parents(path, member)?,
            other => other.map_err(|error| explain(error, member, "its parent is a symbolic link"))?,
        };
        let opened = Rc::new(opened);
        self.parent = Some((path.to_vec(), Rc::clone(&opened)));
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
            match self.finish(parent.as_fd(), name, &member) {
                Err(Errno::NOENT) => {}
                other => other.at(&member.path)?,
            }
        }
        Ok(())
    }

    /// Owner, mode, attributes and time of what has a name, in the order in which none undoes another.
    fn finish(&self, parent: BorrowedFd<'_>, name: &[u8], member: &Member) -> rustix::io::Result<()> {
        let is_link = matches!(member.kind, Kind::Symlink(_));
        let set_mode = |mode| if is_link { Ok(()) } else { change_mode(parent, name, mode) };
        match self.options.fidelity {
            Fidelity::Full => {
                let (uid, gid) = owner(member);
                rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
                set_mode(member.mode & FULL_MODE)?;
                xattrs::write(parent, name, &member.xattrs, Fidelity::Full)?;
            }
            // What its owner may not write takes no attributes either, so these come before the mode.
            Fidelity::Portable => {
                xattrs::write(parent, name, &member.xattrs, Fidelity::Portable)?;
                set_mode(member.mode & PORTABLE_MODE)?;
            }
        }
        rustix::fs::utimensat(parent, name, &times(member), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// The same for an open file, in half as many calls: files are most of every tree. What is right already is
    /// not set again, since each setting is a transaction of the file system.
    fn finish_file(&self, file: &OwnedFd, member: &Member) -> rustix::io::Result<()> {
        let stat = rustix::fs::fstat(file)?;
        let set_mode = |mode: u32| match stat.st_mode & 0o7777 == mode {
            true => Ok(()),
            false => rustix::fs::fchmod(file, Mode::from_raw_mode(mode)),
        };
        match self.options.fidelity {
            Fidelity::Full => {
                if (stat.st_uid, stat.st_gid) != (member.uid, member.gid) {
                    let (uid, gid) = owner(member);
                    rustix::fs::fchown(file, uid, gid)?;
                }
                set_mode(member.mode & FULL_MODE)?;
                xattrs::write_open(file.as_fd(), &member.xattrs, Fidelity::Full)?;
            }
            Fidelity::Portable => {
                xattrs::write_open(file.as_fd(), &member.xattrs, Fidelity::Portable)?;
                set_mode(member.mode & PORTABLE_MODE)?;
            }
        }
        rustix::fs::futimens(file, &times(member))
    }
}

/// Permissions with set-id bits and sticky.
const FULL_MODE: u32 = 0o7777;
/// The same without set-id bits.
const PORTABLE_MODE: u32 = 0o1777;

fn owner(member: &Member) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(member.uid)), Some(Gid::from_raw(member.gid)))
}

fn times(member: &Member) -> Timestamps {
    let time = Timespec { tv_sec: member.mtime.seconds, tv_nsec: i64::from(member.mtime.nanos) };
    Timestamps { last_access: time, last_modification: time }
}

/// Whether `path` is inside of `directory`. Nothing lies in anything when the archive has ended: the end is
/// told by an empty path, which the root member has as well, and it comes first or is harmless.
fn lies_in(path: &[u8], directory: &[u8]) -> bool {
    !path.is_empty()
        && (directory.is_empty() || path.strip_prefix(directory).is_some_and(|rest| rest.starts_with(b"/")))
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
        error => TreeError::File { path: lossy(member), source: error.into() },
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

fn change_mode(parent: BorrowedFd<'_>, name: &[u8], mode: u32) -> rustix::io::Result<()> {
    // The name is one that this archive has just made; a link put in its place meanwhile is refused.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&node)?.st_mode) == FileType::Symlink {
        return Err(Errno::LOOP);
    }
    let by_descriptor = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&node));
    rustix::fs::chmod(by_descriptor, Mode::from_raw_mode(mode))
}
