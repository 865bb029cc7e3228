//! Inodes.

use super::Ext4;
use super::bytes::{le16, le32};
use crate::baseline::{DiskError, ReadAt};
use crate::entry::{Entry, EntryKind};

pub(super) const ROOT: u32 = 2;

const FLAG_EXTENTS: u32 = 0x8_0000;
const FLAG_ENCRYPTED: u32 = 0x800;
const FLAG_INLINE: u32 = 0x1000_0000;
/// Shorter targets lie in the inode itself.
const FIRST_LONG_TARGET: u64 = 60;
const LONGEST_TARGET: u64 = 4095;

#[derive(Clone, Debug)]
pub(super) struct Inode {
    pub(super) number: u32,
    pub(super) kind: EntryKind,
    pub(super) size: u64,
    /// Roots of the block map, or a short link's target.
    pub(super) roots: [u8; 60],
    mode: u16,
    flags: u32,
    mtime_ns: i128,
    ctime_ns: i128,
}

impl Inode {
    fn parse(number: u32, bytes: &[u8]) -> Result<Self, DiskError> {
        let mode = le16(bytes, 0);
        let kind = match mode & 0xf000 {
            0x8000 => EntryKind::File,
            0x4000 => EntryKind::Directory,
            0xa000 => EntryKind::Symlink,
            0x1000 | 0x2000 | 0x6000 | 0xc000 => EntryKind::Other,
            _ => return Err(DiskError::damaged(format!("inode {number} is of no kind"))),
        };
        let extra_size = if bytes.len() > 128 { usize::from(le16(bytes, 0x80)) } else { 0 };
        let extra = |at: usize| if at + 4 <= 128 + extra_size { le32(bytes, at) } else { 0 };
        let mut roots = [0; 60];
        roots.copy_from_slice(
            bytes.get(0x28..0x28 + 60).ok_or_else(|| DiskError::damaged("an inode is cut"))?,
        );
        Ok(Self {
            number,
            kind,
            size: u64::from(le32(bytes, 0x4)) | u64::from(le32(bytes, 0x6c)) << 32,
            roots,
            mode,
            flags: le32(bytes, 0x20),
            mtime_ns: time_ns(le32(bytes, 0x10), extra(0x88)),
            ctime_ns: time_ns(le32(bytes, 0xc), extra(0x84)),
        })
    }

    pub(super) fn has_extents(&self) -> bool {
        self.flags & FLAG_EXTENTS != 0
    }

    /// Content that no block holds as it is.
    pub(super) fn check_readable(&self) -> Result<(), DiskError> {
        let feature = if self.flags & FLAG_ENCRYPTED != 0 {
            "encryption"
        } else if self.flags & FLAG_INLINE != 0 {
            "inline data"
        } else {
            return Ok(());
        };
        Err(DiskError::Unsupported { feature: feature.into() })
    }
}

/// Seconds of 32 bits with a sign, two more bits and the nanoseconds in `extra`.
fn time_ns(seconds: u32, extra: u32) -> i128 {
    let seconds = i128::from(seconds.cast_signed()) + (i128::from(extra & 3) << 32);
    seconds * 1_000_000_000 + i128::from(extra >> 2)
}

impl<R: ReadAt> Ext4<R> {
    pub(super) fn inode(&self, number: u32) -> Result<Inode, DiskError> {
        let superblock = &self.superblock;
        if number == 0 || number > superblock.inodes {
            return Err(DiskError::damaged(format!("there is no inode {number}")));
        }
        let group = u64::from((number - 1) / superblock.inodes_per_group);
        let (block, offset) = superblock.descriptor_place(group);
        let descriptors = self.block(block)?;
        let descriptor = descriptors.get(offset..).unwrap_or_default();
        let high = if superblock.is_wide() { u64::from(le32(descriptor, 0x28)) } else { 0 };
        let table = u64::from(le32(descriptor, 0x8)) | high << 32;
        let within = u64::from((number - 1) % superblock.inodes_per_group) * superblock.inode_size as u64;
        let size = self.block_size() as u64;
        let block = table
            .checked_add(within / size)
            .ok_or_else(|| DiskError::damaged("an inode table is beyond the end"))?;
        let bytes = self.block(block)?;
        let start = usize::try_from(within % size).expect("blocks are small");
        Inode::parse(number, bytes.get(start..start + superblock.inode_size).unwrap_or_default())
    }

    pub(super) fn link_target(&self, inode: &Inode) -> Result<Vec<u8>, DiskError> {
        if inode.size == 0 || inode.size > LONGEST_TARGET {
            return Err(DiskError::damaged(format!(
                "link {} has a target of {} bytes",
                inode.number, inode.size
            )));
        }
        inode.check_readable()?;
        let mut target = vec![0; usize::try_from(inode.size).expect("targets are short")];
        if inode.size < FIRST_LONG_TARGET {
            let length = target.len();
            target.copy_from_slice(&inode.roots[..length]);
        } else {
            self.read_content(inode, 0, &mut target)?;
        }
        if target.contains(&0) {
            return Err(DiskError::damaged(format!("link {} has a NUL byte in its target", inode.number)));
        }
        Ok(target)
    }

    pub(super) fn entry(&self, path: Vec<u8>, inode: &Inode) -> Result<Entry, DiskError> {
        let link_target =
            if inode.kind == EntryKind::Symlink { self.link_target(inode)? } else { Vec::new() };
        Ok(Entry {
            path,
            kind: inode.kind,
            mode: u32::from(inode.mode & 0o7777),
            size: inode.size,
            mtime_ns: inode.mtime_ns,
            ctime_ns: Some(inode.ctime_ns),
            ino: Some(u64::from(inode.number)),
            link_target,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_reach_before_1970_and_after_2038() {
        assert_eq!(time_ns(u32::MAX, 0), -1_000_000_000);
        assert_eq!(time_ns(0x8000_0000, 1), 0x8000_0000_i128 * 1_000_000_000);
        assert_eq!(time_ns(1, 5 << 2), 1_000_000_005);
    }
}
