//! Which blocks hold a file's content.

use super::Ext4;
use super::bytes::{le16, le32};
use super::inode::Inode;
use crate::baseline::{DiskError, ReadAt};

const EXTENT_MAGIC: u16 = 0xf30a;
const DEEPEST: u16 = 5;
const ENTRY: usize = 12;
/// A longer extent has space but no content yet.
const LONGEST_WRITTEN: u32 = 32768;
const DIRECT: u64 = 12;

/// Consecutive blocks of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Where they are; a hole is nowhere.
    pub(super) start: Option<u64>,
    /// How many, one at least.
    pub(super) count: u64,
}

impl<R: ReadAt> Ext4<R> {
    /// Fills `buf` with a file's bytes from `offset` on. The caller keeps within the file's size.
    pub(super) fn read_content(&self, inode: &Inode, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let size = self.block_size();
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let skip = usize::try_from(at % size as u64).expect("blocks are small");
            let run = self.run(inode, at / size as u64)?;
            let left = buf.len() - done;
            let within = run.count.saturating_mul(size as u64).saturating_sub(skip as u64);
            let length = usize::try_from(within).unwrap_or(left).min(left);
            let part = &mut buf[done..done + length];
            match run.start {
                None => part.fill(0),
                Some(start) if skip == 0 && length >= size => {
                    let whole = length - length % size;
                    self.read_blocks(start, &mut part[..whole])?;
                    done += whole;
                    continue;
                }
                Some(start) => {
                    let block = self.block(start)?;
                    let length = length.min(size - skip);
                    part[..length].copy_from_slice(&block[skip..skip + length]);
                    done += length;
                    continue;
                }
            }
            done += length;
        }
        Ok(())
    }

    /// The blocks from a file's block `logical` on.
    pub(super) fn run(&self, inode: &Inode, logical: u64) -> Result<Run, DiskError> {
        let Ok(logical) = u32::try_from(logical) else {
            return Err(DiskError::damaged(format!("inode {} is too large", inode.number)));
        };
        if inode.has_extents() {
            return self.extent_run(inode, logical);
        }
        let block = self.mapped_block(inode, u64::from(logical))?;
        Ok(Run { start: (block != 0).then_some(block), count: 1 })
    }

    fn extent_run(&self, inode: &Inode, logical: u32) -> Result<Run, DiskError> {
        let damaged = || DiskError::damaged(format!("inode {} has a broken extent tree", inode.number));
        let mut node: std::borrow::Cow<'_, [u8]> = inode.roots.as_slice().into();
        // The first block that is not this node's.
        let mut end = u64::from(u32::MAX) + 1;
        let mut depth = None;
        loop {
            let (count, level) = (usize::from(le16(&node, 2)), le16(&node, 6));
            let fits = (count + 1) * ENTRY <= node.len();
            let steps_down = depth.is_none_or(|above: u16| Some(level) == above.checked_sub(1));
            if le16(&node, 0) != EXTENT_MAGIC || !fits || level > DEEPEST || !steps_down {
                return Err(damaged());
            }
            let entry = |index: usize| &node[(index + 1) * ENTRY..(index + 2) * ENTRY];
            let first = |index: usize| le32(entry(index), 0);
            let after = (0..count).find(|index| first(*index) > logical).unwrap_or(count);
            if after < count {
                end = end.min(u64::from(first(after)));
            }
            let hole = Run { start: None, count: end - u64::from(logical) };
            let Some(index) = after.checked_sub(1) else { return Ok(hole) };
            let found = entry(index);
            if level > 0 {
                let child = u64::from(le32(found, 4)) | u64::from(le16(found, 8)) << 32;
                depth = Some(level);
                node = self.block(child)?.to_vec().into();
                continue;
            }
            let (length, written) = match u32::from(le16(found, 4)) {
                length if length > LONGEST_WRITTEN => (length - LONGEST_WRITTEN, false),
                length => (length, true),
            };
            let skipped = logical - first(index);
            if skipped >= length {
                return Ok(hole);
            }
            let count = u64::from(length - skipped).min(hole.count);
            let start = u64::from(le32(found, 8)) | u64::from(le16(found, 6)) << 32;
            return Ok(Run { start: written.then_some(start + u64::from(skipped)), count });
        }
    }

    /// The block that the older, indirect map names; zero for a hole.
    fn mapped_block(&self, inode: &Inode, logical: u64) -> Result<u64, DiskError> {
        let root = |index: u64| u64::from(le32(&inode.roots, index as usize * 4));
        if logical < DIRECT {
            return Ok(root(logical));
        }
        let fan = self.block_size() as u64 / 4;
        let mut rest = logical - DIRECT;
        for level in 1..=3_u32 {
            let reach = fan.pow(level);
            if rest >= reach {
                rest -= reach;
                continue;
            }
            let mut block = root(DIRECT + u64::from(level) - 1);
            for below in (0..level).rev() {
                if block == 0 {
                    return Ok(0);
                }
                let index = rest / fan.pow(below) % fan;
                block = u64::from(le32(&self.block(block)?, index as usize * 4));
            }
            return Ok(block);
        }
        Err(DiskError::damaged(format!("inode {} is too large", inode.number)))
    }
}
