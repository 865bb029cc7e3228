//! The journal of a file system that was not unmounted: committed blocks that are not in their places yet.
//!
//! Nothing is written; a table tells where the newest committed copy of a block is. Transactions count once
//! their commit block is there, which the kernel writes only after all the rest has reached the disk.

use std::collections::HashMap;

use super::Ext4;
use super::bytes::{be16, be32};
use super::inode::Inode;
use crate::baseline::{DiskError, ReadAt};
use crate::limits::{MAX_JOURNAL_BLOCKS, MAX_REVOKED_BLOCKS};

const MAGIC: u32 = 0xc03b_3998;
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const SUPERBLOCK_V2: u32 = 4;
const REVOKE: u32 = 5;

const INCOMPAT_REVOKE: u32 = 0x1;
const INCOMPAT_64BIT: u32 = 0x2;
const INCOMPAT_CSUM_V2: u32 = 0x8;
const INCOMPAT_CSUM_V3: u32 = 0x10;
const INCOMPAT_READ: u32 = INCOMPAT_REVOKE | INCOMPAT_64BIT | INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3;

const TAG_ESCAPED: u32 = 0x1;
const TAG_SAME_UUID: u32 = 0x2;
const TAG_LAST: u32 = 0x8;
const HEADER: usize = 12;
const UUID: usize = 16;
/// What checksums take at the end of descriptor and revoke blocks.
const TAIL: usize = 4;

/// Where the newest copies of blocks are.
#[derive(Default)]
pub(super) struct Replayed(HashMap<u64, Copy>);

/// A block's copy in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Copy {
    pub(super) block: u64,
    /// Its first bytes looked like the journal's own magic number and were blanked.
    escaped: bool,
}

impl Replayed {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get(&self, number: u64) -> Option<Copy> {
        self.0.get(&number).copied()
    }
}

impl Copy {
    pub(super) fn unescape(self, block: &mut [u8]) {
        if self.escaped {
            block[..4].copy_from_slice(&MAGIC.to_be_bytes());
        }
    }
}

/// Reads the journal of `disk`, which must not have been replayed.
pub(super) fn replay<R: ReadAt>(disk: &Ext4<R>) -> Result<Replayed, DiskError> {
    let inode = disk.inode(disk.superblock.journal_inode)?;
    let first = read_log(disk, &inode, 0)?;
    let features = if be32(&first, 4) == SUPERBLOCK_V2 { be32(&first, 0x28) } else { 0 };
    let log = Log {
        inode,
        first: be32(&first, 0x14),
        end: be32(&first, 0x10),
        features,
        tag_size: tag_size(features),
    };
    let (start, sequence) = (be32(&first, 0x1c), be32(&first, 0x18));
    if be32(&first, 0) != MAGIC || be32(&first, 0xc) as usize != disk.block_size() {
        return Err(DiskError::damaged("the journal has no beginning"));
    }
    if start == 0 {
        return Ok(Replayed::default());
    }
    if features & !INCOMPAT_READ != 0 {
        return Err(DiskError::Unsupported { feature: format!("journal features {features:#x}") });
    }
    if log.first == 0
        || log.first >= log.end
        || log.end > MAX_JOURNAL_BLOCKS
        || !(log.first..log.end).contains(&start)
    {
        return Err(DiskError::damaged("the journal has impossible bounds"));
    }
    let mut scan = Scan { log, at: start, steps: 0, copies: Vec::new(), revoked: HashMap::new() };
    scan.run(disk, sequence)?;
    Ok(scan.finish())
}

struct Log {
    inode: Inode,
    first: u32,
    end: u32,
    features: u32,
    tag_size: usize,
}

/// What the committed transactions hold, in their order.
struct Scan {
    log: Log,
    at: u32,
    steps: u32,
    copies: Vec<(u64, u32, Copy)>,
    /// Blocks with the last transaction whose copies, and those before, count no more.
    revoked: HashMap<u64, u32>,
}

impl Scan {
    fn run<R: ReadAt>(&mut self, disk: &Ext4<R>, mut sequence: u32) -> Result<(), DiskError> {
        let mut pending = Vec::new();
        let mut revokes = Vec::new();
        while self.steps < self.log.end {
            let block = read_log(disk, &self.log.inode, self.at)?;
            if be32(&block, 0) != MAGIC || be32(&block, 8) != sequence {
                break;
            }
            self.advance();
            match be32(&block, 4) {
                DESCRIPTOR => self.take_tags(disk, &block, sequence, &mut pending)?,
                REVOKE => {
                    self.take_revokes(&block, &mut revokes);
                    if revokes.len() + self.revoked.len() > MAX_REVOKED_BLOCKS {
                        let most = MAX_REVOKED_BLOCKS as u64;
                        return Err(DiskError::Limit { what: "revoked blocks in the journal", most });
                    }
                }
                COMMIT => {
                    self.copies.append(&mut pending);
                    for number in revokes.drain(..) {
                        self.revoked.insert(number, sequence);
                    }
                    sequence = sequence.wrapping_add(1);
                }
                _ => break,
            }
        }
        Ok(())
    }

    fn advance(&mut self) {
        self.steps += 1;
        self.at = if self.at + 1 >= self.log.end { self.log.first } else { self.at + 1 };
    }

    fn take_tags<R: ReadAt>(
        &mut self,
        disk: &Ext4<R>,
        block: &[u8],
        sequence: u32,
        pending: &mut Vec<(u64, u32, Copy)>,
    ) -> Result<(), DiskError> {
        let mut at = HEADER;
        while at + self.log.tag_size <= block.len() - TAIL && self.steps < self.log.end {
            let tag = &block[at..];
            let (low, flags, high) = if self.log.features & INCOMPAT_CSUM_V3 != 0 {
                (be32(tag, 0), be32(tag, 4), be32(tag, 8))
            } else {
                (be32(tag, 0), u32::from(be16(tag, 6)), be32(tag, 8))
            };
            let high = if self.log.features & INCOMPAT_64BIT != 0 { u64::from(high) } else { 0 };
            let run = disk.run(&self.log.inode, u64::from(self.at))?;
            let start = run.start.ok_or_else(|| DiskError::damaged("the journal has a hole"))?;
            let copy = Copy { block: start, escaped: flags & TAG_ESCAPED != 0 };
            if start >= disk.superblock.blocks {
                return Err(DiskError::damaged("the journal is beyond the end"));
            }
            pending.push((u64::from(low) | high << 32, sequence, copy));
            self.advance();
            at += self.log.tag_size + if flags & TAG_SAME_UUID == 0 { UUID } else { 0 };
            if flags & TAG_LAST != 0 {
                break;
            }
        }
        Ok(())
    }

    fn take_revokes(&self, block: &[u8], revokes: &mut Vec<u64>) {
        let used = (be32(block, HEADER) as usize).min(block.len());
        let wide = self.log.features & INCOMPAT_64BIT != 0;
        let size = if wide { 8 } else { 4 };
        let records = block.get(HEADER + 4..used).unwrap_or_default();
        revokes.extend(records.chunks_exact(size).map(|record| {
            if wide {
                u64::from(be32(record, 0)) << 32 | u64::from(be32(record, 4))
            } else {
                u64::from(be32(record, 0))
            }
        }));
    }

    fn finish(self) -> Replayed {
        let mut newest = HashMap::new();
        for (number, sequence, copy) in self.copies {
            let revoked = self.revoked.get(&number).is_some_and(|last| last.wrapping_sub(sequence) < 1 << 31);
            if !revoked {
                newest.insert(number, copy);
            }
        }
        Replayed(newest)
    }
}

fn tag_size(features: u32) -> usize {
    if features & INCOMPAT_CSUM_V3 != 0 {
        return 16;
    }
    let checksum = if features & INCOMPAT_CSUM_V2 != 0 { 2 } else { 0 };
    8 + checksum + if features & INCOMPAT_64BIT != 0 { 4 } else { 0 }
}

fn read_log<R: ReadAt>(disk: &Ext4<R>, inode: &Inode, logical: u32) -> Result<Vec<u8>, DiskError> {
    let run = disk.run(inode, u64::from(logical))?;
    let start = run.start.ok_or_else(|| DiskError::damaged("the journal has a hole"))?;
    Ok(disk.block(start)?.to_vec())
}

#[cfg(test)]
mod tests;
