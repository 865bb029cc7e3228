//! The bytes of a delta before its clusters: header and table. `parse` and `emit` are inverses.

use super::storage::{Storage, read_all};
use crate::device::iov::Target;

/// The unit of copy-on-write. A first small write copies at most this much; the table of a 64 GiB disk is
/// 256 KiB, which loads in a moment; ext4 allocates large files in runs that fill whole clusters.
pub const CLUSTER_BYTES: u64 = 64 << 10;
/// The largest disk; bounds the table to 16 MiB.
pub const MAX_DISK_BYTES: u64 = 4 << 40;
/// The header's place; a page, so that the table is aligned for the file system.
const TABLE_OFFSET: u64 = 4096;
/// Disks are whole sectors.
const SECTOR_BYTES: u64 = 512;
const MAGIC: &[u8; 8] = b"PYRODLTA";
const VERSION: u32 = 1;
const SEALED: u32 = 1;
/// Bytes of the header that mean something; within one sector, so that it is never torn.
const HEADER_BYTES: usize = 72;

/// Names a delta, so that no other can take its place in a stack.
pub type LayerId = [u8; 16];

/// Why bytes are not a delta.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FormatError {
    /// Not one of our files.
    #[error("this is not a delta of a pyro disk")]
    Magic,
    /// Written by a newer pyro.
    #[error("delta version {0} is not known, expected {VERSION}")]
    Version(u32),
    /// The header's checksum does not fit.
    #[error("the delta's header is damaged")]
    Checksum,
    /// Not whole sectors, empty, or over [`MAX_DISK_BYTES`].
    #[error("a disk of {0} bytes is not possible")]
    Size(u64),
    /// Flags that nobody defined.
    #[error("unknown flags {0:#x} in the delta's header")]
    Flags(u32),
    /// The file ends within the header or the table.
    #[error("the delta is cut off: {0} bytes")]
    Truncated(u64),
    /// A value that is no state.
    #[error("cluster {0} has no valid state")]
    State(u64),
}

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) size_bytes: u64,
    pub(super) id: LayerId,
    /// The delta right below, all zero when there is none.
    pub(super) parent: LayerId,
    pub(super) sealed: bool,
}

impl Header {
    pub(super) fn emit(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let flags = if self.sealed { SEALED } else { 0 };
        bytes[0..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&flags.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.size_bytes.to_le_bytes());
        bytes[24..40].copy_from_slice(&self.id);
        bytes[40..56].copy_from_slice(&self.parent);
        let sum = checksum(&bytes[..64]);
        bytes[64..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    pub(super) fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, FormatError> {
        let u32_at = |at: usize| u32::from_le_bytes(array(bytes, at));
        let u64_at = |at: usize| u64::from_le_bytes(array(bytes, at));
        if &bytes[0..8] != MAGIC {
            return Err(FormatError::Magic);
        }
        if u32_at(8) != VERSION {
            return Err(FormatError::Version(u32_at(8)));
        }
        if u64_at(64) != checksum(&bytes[..64]) {
            return Err(FormatError::Checksum);
        }
        let flags = u32_at(12);
        if flags & !SEALED != 0 {
            return Err(FormatError::Flags(flags));
        }
        let size_bytes = check_size(u64_at(16))?;
        Ok(Header { size_bytes, id: array(bytes, 24), parent: array(bytes, 40), sealed: flags & SEALED != 0 })
    }
}

/// Whole sectors, not empty, not over the limit.
pub(super) fn check_size(size_bytes: u64) -> Result<u64, FormatError> {
    let fits = size_bytes > 0 && size_bytes <= MAX_DISK_BYTES && size_bytes.is_multiple_of(SECTOR_BYTES);
    fits.then_some(size_bytes).ok_or(FormatError::Size(size_bytes))
}

fn array<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

/// FNV-1a; finds damage, not malice.
fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// Where a cluster is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    FallsThrough,
    Present,
    Zero,
}

/// The state of every cluster, and which pages of it the file does not have yet.
pub(super) struct Table {
    bytes: Vec<u8>,
    dirty_pages: Vec<bool>,
    present: u64,
}

const PAGE_BYTES: usize = 4096;
const CLUSTERS_PER_BYTE: u64 = 4;

impl Table {
    pub(super) fn new(size_bytes: u64) -> Self {
        let bytes = vec![0; table_bytes(size_bytes)];
        let dirty_pages = vec![false; bytes.len().div_ceil(PAGE_BYTES)];
        Table { bytes, dirty_pages, present: 0 }
    }

    /// The two bits of each cluster, lowest first: 0 falls through, 1 present, 2 zero.
    pub(super) fn parse(size_bytes: u64, bytes: Vec<u8>) -> Result<Self, FormatError> {
        let mut table = Table { bytes, ..Table::new(size_bytes) };
        let clusters = clusters(size_bytes);
        for (index, byte) in table.bytes.iter().enumerate().filter(|(_, byte)| **byte != 0) {
            for lane in 0..CLUSTERS_PER_BYTE {
                let cluster = index as u64 * CLUSTERS_PER_BYTE + lane;
                match byte >> (2 * lane) & 3 {
                    0 => {}
                    1 | 2 if cluster >= clusters => return Err(FormatError::State(cluster)),
                    1 => table.present += 1,
                    2 => {}
                    _ => return Err(FormatError::State(cluster)),
                }
            }
        }
        Ok(table)
    }

    pub(super) fn get(&self, cluster: u64) -> State {
        let byte = self.bytes.get((cluster / CLUSTERS_PER_BYTE) as usize).copied().unwrap_or(0);
        match byte >> (2 * (cluster % CLUSTERS_PER_BYTE)) & 3 {
            1 => State::Present,
            2 => State::Zero,
            _ => State::FallsThrough,
        }
    }

    /// Clusters lie within the disk: the callers have checked their ranges.
    pub(super) fn set(&mut self, cluster: u64, state: State) {
        let old = self.get(cluster);
        if old == state {
            return;
        }
        self.present = self.present + u64::from(state == State::Present) - u64::from(old == State::Present);
        let (index, shift) = ((cluster / CLUSTERS_PER_BYTE) as usize, 2 * (cluster % CLUSTERS_PER_BYTE));
        let bits = match state {
            State::FallsThrough => 0,
            State::Present => 1,
            State::Zero => 2,
        };
        self.bytes[index] = self.bytes[index] & !(3 << shift) | bits << shift;
        self.dirty_pages[index / PAGE_BYTES] = true;
    }

    /// How many clusters are present.
    pub(super) fn present(&self) -> u64 {
        self.present
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.dirty_pages.contains(&true)
    }

    /// Runs of changed pages: where they lie in the file, and their bytes.
    pub(super) fn dirty_runs(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let mut page = 0;
        std::iter::from_fn(move || {
            let first = page + self.dirty_pages[page..].iter().position(|dirty| *dirty)?;
            let pages = self.dirty_pages[first..].iter().take_while(|dirty| **dirty).count();
            page = first + pages;
            let end = self.bytes.len().min(page * PAGE_BYTES);
            Some((TABLE_OFFSET + (first * PAGE_BYTES) as u64, &self.bytes[first * PAGE_BYTES..end]))
        })
    }

    pub(super) fn mark_clean(&mut self) {
        self.dirty_pages.fill(false);
    }
}

/// Clusters of a disk, the last one possibly in part.
pub(super) fn clusters(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(CLUSTER_BYTES)
}

fn table_bytes(size_bytes: u64) -> usize {
    clusters(size_bytes).div_ceil(CLUSTERS_PER_BYTE) as usize
}

/// Where cluster 0 starts; a multiple of the cluster's size, so that clusters share no block.
pub(super) fn clusters_offset(size_bytes: u64) -> u64 {
    (TABLE_OFFSET + table_bytes(size_bytes) as u64).next_multiple_of(CLUSTER_BYTES)
}

/// Reads and checks header and table.
pub(super) fn load<S: Storage>(storage: &S) -> Result<(Header, Table), super::OpenError> {
    let mut header = [0; HEADER_BYTES];
    let len = storage.size()?;
    if len < TABLE_OFFSET {
        return Err(FormatError::Truncated(len).into());
    }
    read_all(storage, &mut Target::from_slice(&mut header), 0)?;
    let header = Header::parse(&header)?;
    let table_len = table_bytes(header.size_bytes);
    if len < TABLE_OFFSET + table_len as u64 {
        return Err(FormatError::Truncated(len).into());
    }
    let mut bytes = vec![0; table_len];
    read_all(storage, &mut Target::from_slice(&mut bytes), TABLE_OFFSET)?;
    Ok((header, Table::parse(header.size_bytes, bytes)?))
}

/// A delta whose header names the disk's size as `bytes` say, small, and whose table and clusters are the
/// rest of them. For fuzzing.
pub(super) fn with_valid_header(bytes: &[u8]) -> Vec<u8> {
    let sectors = bytes.iter().take(2).fold(1, |size, byte| size * 256 + u64::from(*byte)) % 4096;
    let header =
        Header { size_bytes: (sectors + 1) * SECTOR_BYTES, id: [1; 16], parent: [0; 16], sealed: false };
    let mut delta = header.emit().to_vec();
    delta.resize(TABLE_OFFSET as usize, 0);
    delta.extend(&bytes[bytes.len().min(2)..]);
    delta.resize(delta.len().max(clusters_offset(header.size_bytes) as usize), 0);
    delta
}
