//! The bytes of a delta before its blocks: the header, and where table and blocks lie. `parse` and `emit` are inverses.

use super::storage::{Storage, read_all};
use super::table::{PAGE_BYTES, Table, table_bytes};
use crate::device::iov::Target;

/// The unit of copy-on-write: what guests write at once at least, so that a first write has nothing to copy.
pub const BLOCK_BYTES: u64 = 4096;
/// The largest disk; bounds the table to 64 MiB.
pub const MAX_DISK_BYTES: u64 = 1 << 40;
/// The header has a page, so that those of the table are aligned for the file system.
pub(super) const TABLE_OFFSET: u64 = PAGE_BYTES as u64;
/// Block 0 is aligned for file systems that allocate more than a block at once.
const BLOCKS_ALIGNMENT_BYTES: u64 = 64 << 10;
/// How much of a table is read at once.
const TABLE_CHUNK_BYTES: u64 = 256 << 10;
/// Disks are whole sectors.
const SECTOR_BYTES: u64 = 512;
const MAGIC: &[u8; 8] = b"PYRODLTA";
const VERSION: u32 = 2;
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
    /// Written by another pyro.
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
    #[error("block {0} has no valid state")]
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

/// Blocks of a disk, the last one possibly in part.
pub(super) fn blocks(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(BLOCK_BYTES)
}

/// Where block 0 starts.
pub(super) fn blocks_offset(size_bytes: u64) -> u64 {
    (TABLE_OFFSET + table_bytes(size_bytes)).next_multiple_of(BLOCKS_ALIGNMENT_BYTES)
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
    if len < TABLE_OFFSET + table_bytes(header.size_bytes) {
        return Err(FormatError::Truncated(len).into());
    }
    Ok((header, load_table(storage, header.size_bytes)?))
}

/// Reads those pages of the table that the file has: a hole is a page in which every block falls through.
fn load_table<S: Storage>(storage: &S, size_bytes: u64) -> Result<Table, super::OpenError> {
    let mut table = Table::new(size_bytes);
    let mut chunk = Vec::new();
    let (mut at, end) = (TABLE_OFFSET, TABLE_OFFSET + table_bytes(size_bytes));
    while at < end {
        let Some(data) = storage.next_data(at)?.filter(|data| data.start < end) else { break };
        // Whole pages, however finely the file system counts.
        let page = PAGE_BYTES as u64;
        at = at.max(data.start / page * page);
        let data_end = data.end.max(at + 1).min(end).next_multiple_of(page).min(end);
        while at < data_end {
            chunk.resize((data_end - at).min(TABLE_CHUNK_BYTES) as usize, 0);
            read_all(storage, &mut Target::from_slice(&mut chunk), at)?;
            for (number, bytes) in ((at - TABLE_OFFSET) / page..).zip(chunk.chunks(PAGE_BYTES)) {
                table.parse_page(number, bytes)?;
            }
            at += chunk.len() as u64;
        }
    }
    Ok(table)
}

/// A delta whose header names the disk's size as `bytes` say, small, and whose table and blocks are the rest of
/// them. For fuzzing.
pub(super) fn with_valid_header(bytes: &[u8]) -> Vec<u8> {
    let sectors = bytes.iter().take(2).fold(1, |size, byte| size * 256 + u64::from(*byte)) % 4096;
    let header =
        Header { size_bytes: (sectors + 1) * SECTOR_BYTES, id: [1; 16], parent: [0; 16], sealed: false };
    let mut delta = header.emit().to_vec();
    delta.resize(TABLE_OFFSET as usize, 0);
    delta.extend(&bytes[bytes.len().min(2)..]);
    delta.resize(delta.len().max(blocks_offset(header.size_bytes) as usize), 0);
    delta
}
