//! Directories, by the linear list of names that also the indexed ones are.

use super::Ext4;
use super::bytes::{le16, le32};
use super::inode::Inode;
use crate::baseline::{DiskError, ReadAt};
use crate::limits::MAX_DIRECTORY_BYTES;

const HEADER: usize = 8;

/// Takes a name and its inode.
type Visit<'a> = &'a mut dyn FnMut(&[u8], u32) -> Result<Found, DiskError>;

impl<R: ReadAt> Ext4<R> {
    /// Tells each name but `.` and `..` with its inode, until `visit` has had enough.
    pub(super) fn names(&self, directory: &Inode, visit: Visit<'_>) -> Result<(), DiskError> {
        directory.check_readable()?;
        if directory.size > MAX_DIRECTORY_BYTES {
            return Err(DiskError::Limit { what: "bytes in a directory", most: MAX_DIRECTORY_BYTES });
        }
        let size = self.block_size();
        let mut block = vec![0; size];
        for logical in 0..directory.size / size as u64 {
            self.read_content(directory, logical * size as u64, &mut block)?;
            if visit_block(directory.number, &block, visit)? == Found::Enough {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn child(&self, directory: &Inode, name: &[u8]) -> Result<Option<u32>, DiskError> {
        let mut found = None;
        self.names(directory, &mut |present, number| {
            if present == name {
                found = Some(number);
                return Ok(Found::Enough);
            }
            Ok(Found::More)
        })?;
        Ok(found)
    }
}

/// Whether to go on with a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    More,
    Enough,
}

fn visit_block(directory: u32, block: &[u8], visit: Visit<'_>) -> Result<Found, DiskError> {
    let damaged = || DiskError::damaged(format!("directory {directory} has a broken entry"));
    let mut at = 0;
    while at < block.len() {
        let entry = &block[at..];
        let length = match le16(entry, 4) {
            // How a length of 65536 is told.
            0 | 0xffff if block.len() == 1 << 16 && at == 0 => block.len(),
            length => usize::from(length),
        };
        let name_length = usize::from(entry.get(6).copied().unwrap_or(0));
        if length < HEADER || length > entry.len() || length % 4 != 0 {
            return Err(damaged());
        }
        let number = le32(entry, 0);
        if number != 0 {
            let name = entry[..length].get(HEADER..HEADER + name_length).ok_or_else(damaged)?;
            if name.is_empty() || name.contains(&0) || name.contains(&b'/') {
                return Err(damaged());
            }
            if name != b"." && name != b".." && visit(name, number)? == Found::Enough {
                return Ok(Found::Enough);
            }
        }
        at += length;
    }
    Ok(Found::More)
}
