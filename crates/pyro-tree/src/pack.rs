//! A directory tree as an archive. Memory is bounded by depth and by the table of hard links.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::pax::{Content, Extent, Kind, MAX_EXTENTS, Member, Time, Writer};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use crate::error::{At as _, refused};
use crate::limits::{COPY_BYTES, MAX_HARD_LINKS, MAX_TREE_DEPTH};
use crate::{Fidelity, Mounts, PackOptions, RootLink, SkipReason, TreeError, TreeStats, xattrs};

/// Writes the tree at `root`: the members `.`, `./a`, `./a/b` and so on. What is no directory becomes the only
/// member, under its name.
pub fn pack(root: &Path, stream: &mut impl Write, options: &PackOptions) -> Result<TreeStats, TreeError> {
    let path = root.as_os_str().as_bytes();
    let follow = match options.root_link {
        RootLink::Keep => AtFlags::SYMLINK_NOFOLLOW,
        RootLink::Follow => AtFlags::empty(),
    };
    let found = rustix::fs::statat(rustix::fs::CWD, root, follow).at(path)?;
    let mut packer = Packer {
        writer: Writer::new(stream),
        stats: TreeStats::default(),
        links: HashMap::new(),
        device: found.st_dev,
        options,
        buffer: vec![0; COPY_BYTES],
    };
    if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
        let no_follow = if follow.is_empty() { OFlags::empty() } else { OFlags::NOFOLLOW };
        let root = open_directory(rustix::fs::CWD, path, no_follow).at(path)?;
        let stat = rustix::fs::fstat(&root).at(path)?;
        packer.device = stat.st_dev;
        let attributes = xattrs::read(root.as_fd(), options.fidelity).at(path)?;
        packer.start(member(b".".to_vec(), Kind::Directory, &stat, attributes))?;
        packer.walk(root)?;
    } else {
        packer.add_single(root, follow)?;
    }
    packer.writer.finish()?;
    Ok(packer.stats)
}

struct Packer<'a, W> {
    writer: Writer<W>,
    stats: TreeStats,
    /// Paths of files that have more names to come, by device and inode.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// The root's file system.
    device: u64,
    options: &'a PackOptions,
    buffer: Vec<u8>,
}

/// A directory being read, and its path with a slash at the end.
struct Level {
    entries: Dir,
    prefix: Vec<u8>,
}

fn level(directory: OwnedFd, prefix: Vec<u8>) -> Result<Level, TreeError> {
    let entries = Dir::new(directory).at(&prefix)?;
    Ok(Level { entries, prefix })
}

impl<W: Write> Packer<'_, W> {
    fn walk(&mut self, root: OwnedFd) -> Result<(), TreeError> {
        let mut levels = vec![level(root, b"./".to_vec())?];
        while let Some(current) = levels.last_mut() {
            let Some(entry) = current.entries.read() else {
                levels.pop();
                continue;
            };
            let entry = entry.at(&current.prefix)?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let path = [&current.prefix[..], name].concat();
            if self.options.only.as_ref().is_some_and(|only| !only.contains(&path[2..])) {
                continue;
            }
            let parent = current.entries.fd().at(&current.prefix)?;
            // Files are most of every tree, and opening one tells all about it.
            if entry.file_type() == FileType::RegularFile {
                self.add_file(parent, name, &path)?;
            } else if let Some(below) = self.add(parent, name, &path)? {
                if levels.len() >= MAX_TREE_DEPTH {
                    return Err(refused(&path, "directories are nested too deep"));
                }
                levels.push(level(below, [&path[..], b"/"].concat())?);
            }
        }
        Ok(())
    }

    fn add_single(&mut self, root: &Path, follow: AtFlags) -> Result<(), TreeError> {
        let resolved;
        let shown = root.as_os_str().as_bytes();
        let root = if follow.is_empty() {
            resolved = root.canonicalize().at(shown)?;
            &resolved
        } else {
            root
        };
        let name = root.file_name().ok_or_else(|| refused(shown, "it changed while it was read"))?;
        let parent = root.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = rustix::fs::open(parent, flags, Mode::empty()).at(shown)?;
        self.add(parent.as_fd(), name.as_bytes(), name.as_bytes())?;
        match (self.stats.entry_count, self.stats.skipped_count) {
            (1.., _) => Ok(()),
            (0, 0) => Err(Errno::NOENT).at(shown),
            (0, _) => Err(refused(shown, "sockets and device nodes are not kept")),
        }
    }

    /// Adds one entry; gives a directory to descend into. What vanishes meanwhile is left out.
    fn add(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
    ) -> Result<Option<OwnedFd>, TreeError> {
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.at(path)?,
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_looked_up_here = !matches!(kind, FileType::Directory | FileType::RegularFile);
        if is_looked_up_here && self.add_known_link(&stat, path)? {
            return Ok(None);
        }
        match kind {
            FileType::Directory => {
                let below = match open_directory(parent, name, OFlags::NOFOLLOW) {
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                    other => other.at(path)?,
                };
                let attributes = xattrs::read(below.as_fd(), self.options.fidelity).at(path)?;
                self.start(member(path.to_vec(), Kind::Directory, &stat, attributes))?;
                let enters = stat.st_dev == self.device || self.options.mounts == Mounts::Enter;
                return Ok(enters.then_some(below));
            }
            FileType::RegularFile => self.add_file(parent, name, path)?,
            FileType::Symlink => match rustix::fs::readlinkat(parent, name, Vec::new()) {
                Err(Errno::NOENT | Errno::INVAL) => {}
                other => {
                    let target = other.at(path)?.into_bytes();
                    self.add_unopened(parent, name, path, Kind::Symlink(target), &stat)?;
                }
            },
            FileType::Fifo => self.add_unopened(parent, name, path, Kind::Fifo, &stat)?,
            FileType::Socket => self.stats.skip(path, SkipReason::Socket),
            _ => self.stats.skip(path, SkipReason::Device),
        }
        Ok(None)
    }

    /// Whether this is another name of something already sent, which it then becomes; else remembers it.
    fn add_known_link(&mut self, stat: &Stat, path: &[u8]) -> Result<bool, TreeError> {
        if stat.st_nlink < 2 {
            return Ok(false);
        }
        if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
            let kind = Kind::HardLink(first.clone());
            self.start(member(path.to_vec(), kind, stat, Vec::new()))?;
            return Ok(true);
        }
        let kept = matches!(
            FileType::from_raw_mode(stat.st_mode),
            FileType::RegularFile | FileType::Symlink | FileType::Fifo
        );
        if kept && self.links.len() < MAX_HARD_LINKS {
            self.links.insert((stat.st_dev, stat.st_ino), path.to_vec());
        }
        Ok(false)
    }

    fn add_unopened(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        kind: Kind,
        stat: &Stat,
    ) -> Result<(), TreeError> {
        match xattrs::read_unopened(parent, name, self.options.fidelity) {
            Err(Errno::NOENT) => Ok(()),
            other => self.start(member(path.to_vec(), kind, stat, other.at(path)?)),
        }
    }

    fn add_file(&mut self, parent: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<(), TreeError> {
        // What was a file a moment ago may be a pipe now, which must not block.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
            Err(Errno::NOENT | Errno::LOOP) => return Ok(()),
            other => other.at(path)?,
        };
        let stat = rustix::fs::fstat(&file).at(path)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        if self.add_known_link(&stat, path)? {
            return Ok(());
        }
        let attributes = xattrs::read(file.as_fd(), self.options.fidelity).at(path)?;
        let size = stat.st_size.unsigned_abs();
        // As many blocks as its length needs: asking for holes would be three calls for nothing.
        let is_full = stat.st_blocks.unsigned_abs().saturating_mul(512) >= size;
        let content = if is_full { Content::solid(size) } else { content(&file, size) };
        let extents = content.extents.clone();
        self.start(member(path.to_vec(), Kind::File(content), &stat, attributes))?;
        for extent in extents {
            self.copy(&file, extent, path)?;
        }
        Ok(())
    }

    fn copy(&mut self, file: &OwnedFd, extent: Extent, path: &[u8]) -> Result<(), TreeError> {
        let (mut at, end) = (extent.offset, extent.offset + extent.len);
        while at < end {
            let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(self.buffer.len());
            let read = rustix::io::pread(file, &mut self.buffer[..len], at).at(path)?;
            if read == 0 {
                // The file shrank: what is missing reads as zeros, so that later extents keep their place.
                self.buffer[..len].fill(0);
            }
            let len = if read == 0 { len } else { read };
            self.writer.write_content(&self.buffer[..len])?;
            self.stats.bytes_written += len as u64;
            at += len as u64;
        }
        Ok(())
    }

    fn start(&mut self, mut member: Member) -> Result<(), TreeError> {
        if self.options.fidelity == Fidelity::Portable {
            (member.uid, member.gid) = (0, 0);
        }
        self.stats.see_root(member.path.strip_prefix(b"./").unwrap_or(&member.path), &member.kind);
        self.writer.start_member(&member)?;
        self.stats.entry_count += 1;
        Ok(())
    }
}

/// Where a file has data. A file system without the question, or a file too fragmented, is all data.
fn content(file: &OwnedFd, size: u64) -> Content {
    let mut extents: Vec<Extent> = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start.min(size),
            // Holes to the end.
            Err(Errno::NXIO) => break,
            Err(_) => return Content::solid(size),
        };
        let Ok(end) = rustix::fs::seek(file, SeekFrom::Hole(start)) else { return Content::solid(size) };
        let end = end.min(size);
        if end <= start {
            break;
        }
        let full = extents.len() >= MAX_EXTENTS - 1;
        match extents.last_mut() {
            // The last place takes all the rest; the archive's map needs one for its own end.
            Some(last) if full => last.len = end - last.offset,
            _ => extents.push(Extent { offset: start, len: end - start }),
        }
        at = end;
    }
    Content { size, extents }
}

fn open_directory<'a>(parent: BorrowedFd<'a>, name: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn member(path: Vec<u8>, kind: Kind, stat: &Stat, xattrs: Vec<xattrs::Attribute>) -> Member {
    Member {
        path,
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Time { seconds: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) },
        xattrs,
    }
}
