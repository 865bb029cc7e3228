//! Paths on the image: links lead around in it, never out of it.

use super::Ext4;
use super::inode::{Inode, ROOT};
use crate::baseline::{DiskError, ReadAt};
use crate::entry::{Entry, EntryKind};
use crate::limits::{MAX_LINKS, MAX_PATH_BYTES};
use crate::name::shown;

/// How far down a listing goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What is in the directory itself.
    Children,
    /// Everything below it.
    All,
}

/// What to do with a link at the end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastLink {
    Follow,
    Keep,
}

impl<R: ReadAt> Ext4<R> {
    /// What is in the directory at `path`, at most `most` entries, in the order of paths; of anything else, itself.
    /// Links are followed to reach it. The entries' paths start with `path`, without its leading slash.
    ///
    /// # Errors
    ///
    /// Missing and broken paths, damage, and more than `most` entries.
    pub fn list(&self, path: &[u8], depth: Depth, most: usize) -> Result<Vec<Entry>, DiskError> {
        let inode = self.resolve(path, LastLink::Follow)?;
        let name = parts(path).collect::<Vec<_>>().join(&b'/');
        if inode.kind != EntryKind::Directory {
            return Ok(vec![self.entry(name, &inode)?]);
        }
        let mut entries = Vec::new();
        self.walk_from(&inode, &name, depth, &mut |entry| {
            if entries.len() == most {
                return Err(DiskError::Limit { what: "entries", most: most as u64 });
            }
            entries.push(entry);
            Ok(())
        })?;
        entries.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(entries)
    }

    /// The content of the regular file at `path`, links followed.
    ///
    /// # Errors
    ///
    /// Missing and broken paths, damage, and files of more than `most` bytes.
    pub fn read(&self, path: &[u8], most: u64) -> Result<Vec<u8>, DiskError> {
        self.read_inode(&self.resolve(path, LastLink::Follow)?, path, most)
    }

    /// The first bytes of the regular file at `path`, at most `most`, and its size; links are followed.
    ///
    /// # Errors
    ///
    /// Missing and broken paths, and damage.
    pub fn read_prefix(&self, path: &[u8], most: u64) -> Result<(Vec<u8>, u64), DiskError> {
        let inode = self.resolve(path, LastLink::Follow)?;
        Ok((self.read_start(&inode, path, most.min(inode.size))?, inode.size))
    }

    /// Fills `buf` from the regular file at `path`, from `offset` on; a link there is not followed.
    ///
    /// # Errors
    ///
    /// Missing and broken paths, damage, and a range beyond the file's end.
    pub fn read_range(&self, path: &[u8], offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let inode = self.resolve(path, LastLink::Keep)?;
        if inode.kind != EntryKind::File {
            return Err(DiskError::NotRegular { path: shown(path) });
        }
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > inode.size) {
            return Err(DiskError::damaged("a file ends early"));
        }
        inode.check_readable()?;
        self.read_content(&inode, offset, buf)
    }

    /// What is at `path`; a link there is not followed.
    ///
    /// # Errors
    ///
    /// Missing and broken paths, and damage.
    pub fn stat(&self, path: &[u8]) -> Result<Entry, DiskError> {
        let inode = self.resolve(path, LastLink::Keep)?;
        self.entry(parts(path).collect::<Vec<_>>().join(&b'/'), &inode)
    }

    pub(super) fn read_inode(&self, inode: &Inode, path: &[u8], most: u64) -> Result<Vec<u8>, DiskError> {
        if inode.kind != EntryKind::File {
            return Err(DiskError::NotRegular { path: shown(path) });
        }
        if inode.size > most {
            return Err(DiskError::TooLarge { path: shown(path), size: inode.size, most });
        }
        self.read_start(inode, path, inode.size)
    }

    fn read_start(&self, inode: &Inode, path: &[u8], size: u64) -> Result<Vec<u8>, DiskError> {
        if inode.kind != EntryKind::File {
            return Err(DiskError::NotRegular { path: shown(path) });
        }
        inode.check_readable()?;
        let bytes = usize::try_from(size).map_err(|_| DiskError::damaged("a file is too large"))?;
        let mut content = Vec::new();
        content
            .try_reserve_exact(bytes)
            .map_err(|_| DiskError::Limit { what: "bytes of memory for a file", most: size })?;
        content.resize(bytes, 0);
        self.read_content(inode, 0, &mut content)?;
        Ok(content)
    }

    pub(super) fn resolve(&self, path: &[u8], last: LastLink) -> Result<Inode, DiskError> {
        let mut left: Vec<Vec<u8>> = parts(path).map(<[u8]>::to_vec).collect();
        left.reverse();
        let mut above: Vec<Inode> = Vec::new();
        let mut here = self.inode(ROOT)?;
        let (mut links, mut bytes) = (0, path.len());
        while let Some(part) = left.pop() {
            if here.kind != EntryKind::Directory {
                return Err(DiskError::NotDirectory { path: shown(path) });
            }
            if part == b".." {
                here = above.pop().unwrap_or(here);
                continue;
            }
            let number = self.child(&here, &part)?.ok_or_else(|| DiskError::not_found(path))?;
            let found = self.inode(number)?;
            if found.kind == EntryKind::Symlink && (last == LastLink::Follow || !left.is_empty()) {
                let target = self.link_target(&found)?;
                (links, bytes) = (links + 1, bytes + target.len());
                if links > MAX_LINKS || bytes > MAX_LINKS * MAX_PATH_BYTES {
                    return Err(DiskError::Links { path: shown(path) });
                }
                if target.starts_with(b"/") {
                    above.clear();
                    here = self.inode(ROOT)?;
                }
                let mut parts: Vec<_> = parts(&target).map(<[u8]>::to_vec).collect();
                parts.reverse();
                left.extend(parts);
                continue;
            }
            above.push(std::mem::replace(&mut here, found));
        }
        Ok(here)
    }
}

/// The parts of a path that lead somewhere.
fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".")
}
