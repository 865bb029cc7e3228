//! Reads ext4 images, also those that a machine left without unmounting, without a kernel and without trust.
//!
//! Only what a walk and a read need: superblock, group descriptors, inodes with their number and change time,
//! extents and block maps, directories by their linear form, links, and the journal, whose committed blocks
//! stand in for those on the disk. Every number from the image is checked before it is used; nothing is
//! allocated by an image's word alone, and directories are entered once, so loops end.

mod bytes;
mod directory;
mod inode;
mod journal;
mod map;
mod path;
mod superblock;
mod walk;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::baseline::{DiskError, ReadAt};
use crate::limits::MAX_CACHED_BLOCKS;
use journal::Replayed;
use superblock::Superblock;

pub use path::Depth;

/// An ext4 file system, open for reading. Several may read it at the same time, though not faster than one.
pub struct Ext4<R> {
    reader: R,
    superblock: Superblock,
    replayed: Replayed,
    cache: Mutex<Cache>,
}

impl<R: ReadAt> Ext4<R> {
    /// Reads the superblock and, if the file system was not unmounted, its journal.
    ///
    /// # Errors
    ///
    /// What is no ext4, or uses features that are not read here.
    pub fn open(reader: R) -> Result<Self, DiskError> {
        let mut bytes = vec![0; superblock::SIZE];
        read(&reader, &mut bytes, superblock::OFFSET)?;
        let superblock = Superblock::parse(&bytes)?;
        let mut disk =
            Self { reader, superblock, replayed: Replayed::default(), cache: Mutex::new(Cache::default()) };
        if disk.superblock.needs_recovery {
            let replayed = journal::replay(&disk)?;
            disk.cache = Mutex::new(Cache::default());
            disk.replayed = replayed;
            let (block, offset) = disk.superblock.place();
            let bytes = disk.block(block)?;
            let fresh = Superblock::parse(&bytes[offset..offset + superblock::SIZE])?;
            if !fresh.has_shape_of(&disk.superblock) {
                return Err(DiskError::damaged("the journal changes the block size"));
            }
            disk.superblock = fresh;
        }
        Ok(disk)
    }

    fn block_size(&self) -> usize {
        self.superblock.block_size
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        // Whole after each of its operations, whoever panics beside it.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One block, as the journal has it or as it is on the disk.
    fn block(&self, number: u64) -> Result<Arc<[u8]>, DiskError> {
        if let Some(block) = self.cache().get(number) {
            return Ok(block);
        }
        let mut bytes = vec![0; self.block_size()];
        self.read_blocks(number, &mut bytes)?;
        let block: Arc<[u8]> = bytes.into();
        self.cache().put(number, Arc::clone(&block));
        Ok(block)
    }

    /// Reads whole blocks from `first` on, past the cache.
    fn read_blocks(&self, first: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let size = self.block_size();
        let count = (buf.len() / size) as u64;
        if first.checked_add(count).is_none_or(|end| end > self.superblock.blocks) {
            return Err(DiskError::damaged(format!("block {first} is beyond the end")));
        }
        if self.replayed.is_empty() {
            return read(&self.reader, buf, first * size as u64);
        }
        for (number, part) in (first..).zip(buf.chunks_mut(size)) {
            match self.replayed.get(number) {
                Some(copy) => {
                    read(&self.reader, part, copy.block * size as u64)?;
                    copy.unescape(part);
                }
                None => read(&self.reader, part, number * size as u64)?,
            }
        }
        Ok(())
    }
}

fn read(reader: &dyn ReadAt, buf: &mut [u8], offset: u64) -> Result<(), DiskError> {
    let bytes = buf.len();
    reader.read_at(buf, offset).map_err(|source| DiskError::Read { offset, bytes, source })
}

/// Recently used blocks, in two generations: when the younger is full, the older is forgotten.
#[derive(Default)]
struct Cache {
    young: HashMap<u64, Arc<[u8]>>,
    old: HashMap<u64, Arc<[u8]>>,
}

impl Cache {
    fn get(&mut self, number: u64) -> Option<Arc<[u8]>> {
        if let Some(block) = self.young.get(&number) {
            return Some(Arc::clone(block));
        }
        let block = self.old.remove(&number)?;
        self.put(number, Arc::clone(&block));
        Some(block)
    }

    fn put(&mut self, number: u64, block: Arc<[u8]>) {
        if self.young.len() >= MAX_CACHED_BLOCKS / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(number, block);
    }
}

/// Opens any bytes as an image and reads all of it; for fuzzing.
pub fn fuzz_image(bytes: &[u8]) {
    use crate::baseline::BaselineTree;
    let Ok(disk) = Ext4::open(bytes.to_vec()) else { return };
    let mut files = Vec::new();
    let _ = disk.walk(b"", &mut |entry| {
        if files.len() < 20 {
            files.push(entry.path);
        }
        Ok(())
    });
    for path in files {
        let _ = disk.read(&path, 1 << 16);
    }
}

#[cfg(test)]
mod tests;
