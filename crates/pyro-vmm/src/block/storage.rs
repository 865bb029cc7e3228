//! What a delta or a base is kept in.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::ops::Range;

use crate::device::iov::{FileIo, Source, Target};

/// A file, as far as a disk needs one. Tests put recorders and liars in its place.
pub trait Storage {
    /// Length in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Extends or cuts to `len` bytes; new bytes are a hole.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reads at `offset`; may be short, 0 is the end.
    fn read_at(&self, target: &mut Target<'_>, offset: u64) -> io::Result<usize>;
    /// Writes at `offset`; may be short.
    fn write_at(&self, source: &Source<'_>, offset: u64) -> io::Result<usize>;
    /// Makes `len` bytes at `offset` a hole that reads as zeroes; the length stays.
    fn punch(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Makes everything written so far durable.
    fn sync(&self) -> io::Result<()>;
    /// Keeps others out while this one is written, or while it is read before it is sealed; `false` when
    /// somebody else has it. What only one owner can reach needs no lock.
    fn try_lock(&self, lock: Lock) -> io::Result<bool> {
        let _ = lock;
        Ok(true)
    }
    /// Lets others in.
    fn unlock(&self) -> io::Result<()> {
        Ok(())
    }
    /// The first range from `offset` on that may hold anything but zeroes; `None` when only zeroes follow.
    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let size = self.size()?;
        Ok((offset < size).then_some(offset..size))
    }
}

/// What a file is locked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Others may read as well.
    Read,
    /// Nobody else.
    Write,
}

/// A borrowed file is as good as an owned one.
impl<S: Storage> Storage for &S {
    fn size(&self) -> io::Result<u64> {
        (**self).size()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        (**self).set_len(len)
    }
    fn read_at(&self, target: &mut Target<'_>, offset: u64) -> io::Result<usize> {
        (**self).read_at(target, offset)
    }
    fn write_at(&self, source: &Source<'_>, offset: u64) -> io::Result<usize> {
        (**self).write_at(source, offset)
    }
    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        (**self).punch(offset, len)
    }
    fn sync(&self) -> io::Result<()> {
        (**self).sync()
    }
    fn try_lock(&self, lock: Lock) -> io::Result<bool> {
        (**self).try_lock(lock)
    }
    fn unlock(&self) -> io::Result<()> {
        (**self).unlock()
    }
    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        (**self).next_data(offset)
    }
}

impl Storage for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn read_at(&self, target: &mut Target<'_>, offset: u64) -> io::Result<usize> {
        self.read_target_at(target, offset)
    }

    fn write_at(&self, source: &Source<'_>, offset: u64) -> io::Result<usize> {
        self.write_source_at(source, offset)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(self, flags, offset, len) {
            Err(rustix::io::Errno::OPNOTSUPP) => write_zeroes(self, offset, len),
            done => Ok(done?),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    /// A `flock`. It belongs to the open file description: every duplicate of the descriptor, in whatever
    /// process, shares it, and it ends with the last of them.
    fn try_lock(&self, lock: Lock) -> io::Result<bool> {
        let locked = match lock {
            Lock::Read => self.try_lock_shared(),
            Lock::Write => File::try_lock(self),
        };
        match locked {
            Ok(()) => Ok(true),
            Err(std::fs::TryLockError::WouldBlock) => Ok(false),
            Err(std::fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn unlock(&self) -> io::Result<()> {
        File::unlock(self)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        use rustix::fs::{SeekFrom, seek};
        let start = match seek(self, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => return Ok(None),
            // A file system that does not know its holes.
            Err(rustix::io::Errno::INVAL) => {
                let size = self.size()?;
                return Ok((offset < size).then_some(offset..size));
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Some(start..seek(self, SeekFrom::Hole(start))?))
    }
}

/// For file systems that have no holes.
fn write_zeroes(file: &File, mut offset: u64, mut len: u64) -> io::Result<()> {
    let zeroes = [0u8; 64 << 10];
    while len > 0 {
        let wanted = len.min(zeroes.len() as u64) as usize;
        let written = file.write_source_at(&Source::from_slice(&zeroes[..wanted]), offset)? as u64;
        (offset, len) = (offset + written, len - written);
    }
    Ok(())
}

/// Reads exactly `target`, or fails.
pub(super) fn read_all<S: Storage>(storage: &S, target: &mut Target<'_>, offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < target.len() {
        match storage.read_at(&mut target.part(done, usize::MAX), offset + done as u64) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes all of `source`, or fails.
pub(super) fn write_all<S: Storage>(storage: &S, source: &Source<'_>, offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < source.len() {
        match storage.write_at(&source.part(done, usize::MAX), offset + done as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => done += written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A sparse file in memory: the given bytes, then a hole as far as [`Storage::set_len`] says.
pub(crate) struct MemoryFile {
    bytes: RefCell<Vec<u8>>,
    len: Cell<u64>,
}

impl MemoryFile {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        MemoryFile { len: Cell::new(bytes.len() as u64), bytes: bytes.into() }
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.bytes.borrow().clone();
        bytes.resize(self.len.get() as usize, 0);
        bytes
    }
}

/// The most that a file in memory grows to.
const MAX_MEMORY_FILE_BYTES: u64 = 64 << 20;

impl Storage for MemoryFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.len.get())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.len.set(len);
        let mut bytes = self.bytes.borrow_mut();
        let kept = len.min(bytes.len() as u64) as usize;
        bytes.truncate(kept);
        Ok(())
    }

    fn read_at(&self, target: &mut Target<'_>, offset: u64) -> io::Result<usize> {
        let bytes = self.bytes.borrow();
        let len = self.len.get().saturating_sub(offset).min(target.len() as u64) as usize;
        let from = offset.min(bytes.len() as u64) as usize;
        let stored = len.min(bytes.len() - from);
        target.copy_from(&bytes[from..from + stored]);
        target.part(stored, len - stored).fill_zero();
        Ok(len)
    }

    fn write_at(&self, source: &Source<'_>, offset: u64) -> io::Result<usize> {
        let end = offset.saturating_add(source.len() as u64);
        if end > MAX_MEMORY_FILE_BYTES {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut bytes = self.bytes.borrow_mut();
        let stored = bytes.len().max(end as usize);
        bytes.resize(stored, 0);
        self.len.set(self.len.get().max(end));
        Ok(source.copy_to(&mut bytes[offset as usize..end as usize]))
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut bytes = self.bytes.borrow_mut();
        let size = bytes.len() as u64;
        let (from, to) = (offset.min(size) as usize, offset.saturating_add(len).min(size) as usize);
        bytes[from..to].fill(0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
