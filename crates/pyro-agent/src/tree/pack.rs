//! A directory tree as an archive. Memory is bounded by depth and by the table of hard links.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use pyro_agent::pax::{Content, Extent, Kind, MAX_EXTENTS, Member, Time, Writer};
use pyro_agent::wire::TreeStats;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use super::{At as _, TreeError, refused, xattrs};
use crate::limits::{COPY_BYTES, MAX_HARD_LINKS, MAX_TREE_DEPTH};

/// Writes the tree at `path`; its root is the member `.`.
pub(super) fn pack(path: &str, stream: &mut impl Write) -> Result<TreeStats, TreeError> {
    let root = open_directory(rustix::fs::CWD, path.as_bytes(), OFlags::empty()).at(path.as_bytes())?;
    let stat = rustix::fs::fstat(&root).at(path.as_bytes())?;
    let mut packer = Packer {
        writer: Writer::new(stream),
        stats: TreeStats::default(),
        links: HashMap::new(),
        device: stat.st_dev,
        buffer: vec![0; COPY_BYTES],
    };
    let attributes = xattrs::read(root.as_fd()).at(path.as_bytes())?;
    packer.start(&member(b".".to_vec(), Kind::Directory, &stat, attributes))?;
    packer.walk(root)?;
    packer.writer.finish()?;
    Ok(packer.stats)
}

struct Packer<W> {
    writer: Writer<W>,
    stats: TreeStats,
    /// Paths of files that have more names to come, by device and inode.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// Other file systems below are not entered.
    device: u64,
    buffer: Vec<u8>,
}

/// A directory being read, and its path with a slash at the end.
struct Level {
    entries: Dir,
    directory: OwnedFd,
    prefix: Vec<u8>,
}

fn level(directory: OwnedFd, prefix: Vec<u8>) -> Result<Level, TreeError> {
    let entries = Dir::read_from(&directory).at(&prefix)?;
    Ok(Level { entries, directory, prefix })
}

impl<W: Write> Packer<W> {
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
            if let Some(below) = self.add(current.directory.as_fd(), name, &path)? {
                if levels.len() >= MAX_TREE_DEPTH {
                    return Err(refused(&path, "directories are nested too deep"));
                }
                levels.push(level(below, [&path[..], b"/"].concat())?);
            }
        }
        Ok(())
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
        if kind != FileType::Directory && self.add_known_link(&stat, path)? {
            return Ok(None);
        }
        match kind {
            FileType::Directory => {
                let below = match open_directory(parent, name, OFlags::NOFOLLOW) {
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                    other => other.at(path)?,
                };
                let attributes = xattrs::read(below.as_fd()).at(path)?;
                self.start(&member(path.to_vec(), Kind::Directory, &stat, attributes))?;
                return Ok((stat.st_dev == self.device).then_some(below));
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
            _ => self.stats.skipped_count += 1,
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
            self.start(&member(path.to_vec(), kind, stat, Vec::new()))?;
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
        match xattrs::read_unopened(parent, name) {
            Err(Errno::NOENT) => Ok(()),
            other => self.start(&member(path.to_vec(), kind, stat, other.at(path)?)),
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
        let attributes = xattrs::read(file.as_fd()).at(path)?;
        let content = content(&file, stat.st_size.unsigned_abs());
        let extents = content.extents.clone();
        self.start(&member(path.to_vec(), Kind::File(content), &stat, attributes))?;
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

    fn start(&mut self, member: &Member) -> Result<(), TreeError> {
        self.writer.start_member(member)?;
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
