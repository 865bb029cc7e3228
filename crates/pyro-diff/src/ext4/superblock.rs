//! What the file system says of itself.

use super::bytes::{le16, le32};
use crate::baseline::DiskError;
use crate::limits::MAX_GROUPS;

pub(super) const OFFSET: u64 = 1024;
pub(super) const SIZE: usize = 1024;

const MAGIC: u16 = 0xef53;

const COMPAT_HAS_JOURNAL: u32 = 0x4;
const COMPAT_SPARSE_SUPER2: u32 = 0x200;
const RO_COMPAT_SPARSE_SUPER: u32 = 0x1;

const INCOMPAT_FILETYPE: u32 = 0x2;
const INCOMPAT_RECOVER: u32 = 0x4;
const INCOMPAT_META_BG: u32 = 0x10;
const INCOMPAT_64BIT: u32 = 0x80;
/// File types, recovery, meta block groups, extents, 64 bit, multiple mount protection, flexible groups, large
/// attributes, checksum seed, large directories, case folding: with these, trees read as usual.
const INCOMPAT_READ: u32 = INCOMPAT_FILETYPE
    | INCOMPAT_RECOVER
    | INCOMPAT_META_BG
    | 0x40
    | INCOMPAT_64BIT
    | 0x100
    | 0x200
    | 0x400
    | 0x2000
    | 0x4000
    | 0x20000;

#[derive(Clone, Debug)]
pub(super) struct Superblock {
    pub(super) block_size: usize,
    pub(super) blocks: u64,
    pub(super) inodes: u32,
    pub(super) inodes_per_group: u32,
    pub(super) inode_size: usize,
    pub(super) journal_inode: u32,
    /// The journal holds what the disk does not have yet.
    pub(super) needs_recovery: bool,
    first_block: u64,
    blocks_per_group: u64,
    descriptor_size: usize,
    /// Descriptor blocks from this one on lie within the groups they describe.
    first_meta_group: Option<u64>,
    sparse: Sparse,
}

/// Which groups have a copy of the superblock before their descriptors.
#[derive(Clone, Copy, Debug)]
enum Sparse {
    All,
    Powers,
    Two([u32; 2]),
}

impl Superblock {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, DiskError> {
        let not = |reason: String| DiskError::NotExt4 { reason };
        if bytes.len() < SIZE || le16(bytes, 0x38) != MAGIC {
            return Err(not("its magic number is missing".into()));
        }
        let (compat, incompat, ro_compat) = (le32(bytes, 0x5c), le32(bytes, 0x60), le32(bytes, 0x64));
        if incompat & !INCOMPAT_READ != 0 || incompat & INCOMPAT_FILETYPE == 0 {
            return Err(DiskError::Unsupported { feature: format!("incompatible features {incompat:#x}") });
        }
        let wide = incompat & INCOMPAT_64BIT != 0;
        let log = le32(bytes, 0x18);
        if log > 6 {
            return Err(not(format!("its block size is 2^{}", u64::from(log) + 10)));
        }
        let block_size = 1024 << log;
        let high = if wide { u64::from(le32(bytes, 0x150)) } else { 0 };
        let inode_size = if le32(bytes, 0x4c) == 0 { 128 } else { usize::from(le16(bytes, 0x58)) };
        let descriptor_size = if wide { usize::from(le16(bytes, 0xfe)) } else { 32 };
        let needs_recovery = compat & COMPAT_HAS_JOURNAL != 0 && incompat & INCOMPAT_RECOVER != 0;
        let sparse = if compat & COMPAT_SPARSE_SUPER2 != 0 {
            Sparse::Two([le32(bytes, 0x24c), le32(bytes, 0x250)])
        } else if ro_compat & RO_COMPAT_SPARSE_SUPER != 0 {
            Sparse::Powers
        } else {
            Sparse::All
        };
        let parsed = Self {
            block_size,
            blocks: u64::from(le32(bytes, 0x4)) | high << 32,
            inodes: le32(bytes, 0),
            inodes_per_group: le32(bytes, 0x28),
            inode_size,
            journal_inode: le32(bytes, 0xe0),
            needs_recovery,
            first_block: u64::from(le32(bytes, 0x14)),
            blocks_per_group: u64::from(le32(bytes, 0x20)),
            descriptor_size,
            first_meta_group: (incompat & INCOMPAT_META_BG != 0).then(|| u64::from(le32(bytes, 0x104))),
            sparse,
        };
        parsed.check().map_err(|reason| not(reason.into()))?;
        Ok(parsed)
    }

    fn check(&self) -> Result<(), &'static str> {
        let power = |size: usize| size.is_power_of_two() && size <= self.block_size;
        if self.inode_size < 128 || !power(self.inode_size) {
            return Err("its inode size is impossible");
        }
        if self.descriptor_size < 32 || !power(self.descriptor_size) {
            return Err("its descriptor size is impossible");
        }
        if self.blocks_per_group == 0 || self.inodes_per_group == 0 || self.inodes < 11 {
            return Err("its groups are empty");
        }
        if self.first_block >= self.blocks || self.blocks > u64::MAX / (2 * self.block_size as u64) {
            return Err("its size is impossible");
        }
        if (self.blocks - self.first_block).div_ceil(self.blocks_per_group) > MAX_GROUPS {
            return Err("it has too many groups");
        }
        Ok(())
    }

    /// In which block it lies itself, and where there.
    pub(super) fn place(&self) -> (u64, usize) {
        if self.block_size == 1024 { (1, 0) } else { (0, 1024) }
    }

    pub(super) fn has_shape_of(&self, other: &Self) -> bool {
        self.block_size == other.block_size && self.blocks >= other.blocks
    }

    /// Where the descriptor of a group is: the block, and the place in it.
    pub(super) fn descriptor_place(&self, group: u64) -> (u64, usize) {
        let per_block = (self.block_size / self.descriptor_size) as u64;
        let index = group / per_block;
        let offset = (group % per_block) as usize * self.descriptor_size;
        let block = match self.first_meta_group {
            Some(first) if index >= first => {
                let group = index * per_block;
                let start = self.first_block.saturating_add(group.saturating_mul(self.blocks_per_group));
                start.saturating_add(u64::from(self.has_copy(group)))
            }
            _ => self.first_block + 1 + index,
        };
        (block, offset)
    }

    /// Whether descriptors hold upper halves.
    pub(super) fn is_wide(&self) -> bool {
        self.descriptor_size >= 64
    }

    fn has_copy(&self, group: u64) -> bool {
        let power_of = |base: u64| {
            let mut power = base;
            while power < group {
                power *= base;
            }
            power == group
        };
        match self.sparse {
            Sparse::All => true,
            Sparse::Powers => group <= 1 || [3, 5, 7].into_iter().any(power_of),
            Sparse::Two(groups) => group == 0 || groups.map(u64::from).contains(&group),
        }
    }
}
