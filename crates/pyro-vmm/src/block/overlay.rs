//! The writable disk: one delta over immutable layers.

use std::fs::File;
use std::io;
use std::ops::Range;

use super::format::{self, BLOCK_BYTES, Header, LayerId};
use super::layers::{Delta, Layers, OpenError, whole_blocks};
use super::storage::{Lock, Storage, read_all, write_all};
use super::table::{State, Table};
use crate::device::iov::{Source, Target};

/// What a flush is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Flushed data survives the host's crash.
    Durable,
    /// The delta dies with the machine, so flushing it to the medium is wasted.
    Ephemeral,
}

/// Why an operation on the disk failed.
#[derive(Debug, thiserror::Error)]
pub enum IoError {
    /// The range leaves the disk.
    #[error("{len} bytes at {at} are beyond the disk's {size_bytes}")]
    OutOfRange {
        /// First byte.
        at: u64,
        /// Length in bytes.
        len: u64,
        /// The disk's size.
        size_bytes: u64,
    },
    /// The delta would grow beyond what the disk may write.
    #[error("the disk may hold {limit_bytes} bytes of changes and is full")]
    Full {
        /// The limit.
        limit_bytes: u64,
    },
    /// The host could not read or write.
    #[error("the disk's file: {0}")]
    Io(#[from] io::Error),
}

/// Why a disk did not go on in another delta.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// The delta cannot be made complete. It stays in use, unsealed, and can be flushed no more.
    #[error("cannot flush the delta: {0}")]
    Flush(#[source] IoError),
    /// The new file does not do. The old delta stays in use, unsealed.
    #[error("cannot make the new delta: {0}")]
    New(#[source] OpenError),
    /// The seal cannot be written. The delta stays in use, unsealed.
    #[error("cannot seal the delta: {0}")]
    Seal(#[source] io::Error),
    /// Nobody knows whether the seal was written: nothing may be written any more.
    #[error("cannot tell whether the delta is sealed: {0}")]
    Unknown(#[source] io::Error),
}

impl ReplaceError {
    /// Whether the disk may still be used.
    pub fn is_survivable(&self) -> bool {
        !matches!(self, Self::Unknown(_))
    }
}

/// Makes an empty delta in `delta`, whose old contents are lost.
pub(super) fn create_delta<S: Storage>(
    delta: &S,
    parent: LayerId,
    size_bytes: u64,
) -> Result<Header, OpenError> {
    let size_bytes = format::check_size(size_bytes)?;
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| io::Error::other(error.to_string()))?;
    let header = Header { size_bytes, id, parent, sealed: false };
    delta.set_len(0)?;
    delta.set_len(format::blocks_offset(size_bytes) + size_bytes)?;
    write_all(delta, &Source::from_slice(&header.emit()), 0)?;
    Ok(header)
}

/// Keeps others from writing or reading an unsealed delta.
pub(super) fn lock<S: Storage>(delta: &S) -> Result<(), OpenError> {
    if delta.try_lock(Lock::Write)? { Ok(()) } else { Err(OpenError::Busy) }
}

/// What of the file is durable, the table apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Synced {
    /// All of it.
    Yes,
    /// Blocks were written or punched since the last flush.
    NotYet,
    /// A flush failed. The kernel may have let go of what it could not write, and would tell that only once.
    Failed,
}

/// A disk that is written.
pub struct Overlay<S = File> {
    below: Layers<S>,
    delta: Delta<S>,
    header: Header,
    durability: Durability,
    limit_bytes: u64,
    synced: Synced,
}

impl<S: Storage> Overlay<S> {
    /// Makes an empty delta in `delta`, whose old contents are lost, over `base`. The disk may be larger
    /// than the base. Costs the same for every size.
    pub fn create(
        base: Layers<S>,
        delta: S,
        size_bytes: u64,
        durability: Durability,
        limit_bytes: u64,
    ) -> Result<Self, OpenError> {
        let (size_bytes, below_bytes) = (format::check_size(size_bytes)?, base.size_bytes());
        if size_bytes < below_bytes {
            return Err(OpenError::Shrinks { size_bytes, below_bytes });
        }
        lock_for(durability, &delta)?;
        let header = create_delta(&delta, base.top(), size_bytes)?;
        if durability == Durability::Durable {
            // A crash before the first flush must not leave a file that is no delta.
            delta.sync()?;
        }
        let table = Table::new(size_bytes);
        Ok(Self::assemble(base, delta, header, table, durability, limit_bytes))
    }

    /// Opens a delta that was made over the same `base`.
    pub fn open(
        base: Layers<S>,
        delta: S,
        durability: Durability,
        limit_bytes: u64,
    ) -> Result<Self, OpenError> {
        lock_for(durability, &delta)?;
        let (header, table) = format::load(&delta)?;
        if header.sealed {
            return Err(OpenError::Sealed);
        }
        if header.parent != base.top() {
            return Err(OpenError::WrongParent);
        }
        Ok(Self::assemble(base, delta, header, table, durability, limit_bytes))
    }

    fn assemble(
        below: Layers<S>,
        storage: S,
        header: Header,
        table: Table,
        durability: Durability,
        limit_bytes: u64,
    ) -> Self {
        let delta = Delta { storage, table, size_bytes: header.size_bytes };
        Overlay { below, delta, header, durability, limit_bytes, synced: Synced::Yes }
    }

    /// The disk's size.
    pub fn size_bytes(&self) -> u64 {
        self.delta.size_bytes
    }

    /// What the delta holds, in whole blocks.
    pub fn allocated_bytes(&self) -> u64 {
        self.delta.table.present() * BLOCK_BYTES
    }

    /// Reads at `at`.
    pub fn read(&self, target: &mut Target<'_>, at: u64) -> Result<(), IoError> {
        let range = self.range(at, target.len() as u64)?;
        let mut at = range.start;
        while at < range.end {
            let (state, run_end) = self.run(at, range.end);
            let mut part = target.part((at - range.start) as usize, (run_end - at) as usize);
            match state {
                State::Present => read_all(&self.delta.storage, &mut part, self.delta.place(at))?,
                State::Zero => part.fill_zero(),
                State::FallsThrough => self.below.read(&mut part, at)?,
            }
            at = run_end;
        }
        Ok(())
    }

    /// Writes at `at`. After an error, any part may have been written.
    pub fn write(&mut self, source: &Source<'_>, at: u64) -> Result<(), IoError> {
        let range = self.range(at, source.len() as u64)?;
        self.check_limit(range.clone())?;
        let mut at = range.start;
        while at < range.end {
            let skip = (at - range.start) as usize;
            let run_end = self.run_written_in_place(at, range.end);
            let part = |end: u64| source.part(skip, (end - at) as usize);
            self.mark_unsynced();
            at = if run_end > at {
                write_all(&self.delta.storage, &part(run_end), self.delta.place(at))?;
                self.delta.table.set(at / BLOCK_BYTES..run_end.div_ceil(BLOCK_BYTES), State::Present);
                run_end
            } else {
                let end = self.block_end(at).min(range.end);
                self.write_partly(&part(end), at)?;
                end
            };
        }
        Ok(())
    }

    /// Makes the whole blocks within the range read as zeroes and gives their space back. What is only part of a
    /// block stays as it is.
    pub fn discard(&mut self, at: u64, len: u64) -> Result<(), IoError> {
        let range = self.range(at, len)?;
        self.zero_blocks(whole_blocks(range.start, range.end, self.size_bytes()))
    }

    /// Makes exactly the range read as zeroes.
    pub fn write_zeroes(&mut self, at: u64, len: u64) -> Result<(), IoError> {
        let range = self.range(at, len)?;
        let whole = whole_blocks(range.start, range.end, self.size_bytes());
        if whole.is_empty() {
            let middle = self.block_end(range.start).min(range.end);
            self.zero_partly(range.start..middle)?;
            return self.zero_partly(middle..range.end);
        }
        self.zero_partly(range.start..whole.start * BLOCK_BYTES)?;
        let tail = (whole.end * BLOCK_BYTES).min(range.end);
        self.zero_blocks(whole)?;
        self.zero_partly(tail..range.end)
    }

    /// Makes everything written so far durable: first the blocks, then the table that names them. After
    /// a failure, every later one fails.
    pub fn flush(&mut self) -> Result<(), IoError> {
        if self.durability == Durability::Ephemeral {
            return Ok(());
        }
        if self.synced != Synced::Yes {
            self.sync()?;
        }
        if self.delta.table.is_changed() {
            self.write_table()?;
            self.sync()?;
            self.delta.table.mark_unchanged();
        }
        Ok(())
    }

    /// Makes the file durable, and never again once that has failed.
    fn sync(&mut self) -> Result<(), IoError> {
        if self.synced == Synced::Failed {
            return Err(io::Error::other("an earlier flush failed").into());
        }
        self.synced = Synced::Failed;
        self.delta.storage.sync()?;
        self.synced = Synced::Yes;
        Ok(())
    }

    fn mark_unsynced(&mut self) {
        if self.synced == Synced::Yes {
            self.synced = Synced::NotYet;
        }
    }

    /// Ends the writing for good and gives the file back, to lie under another delta.
    pub fn seal(mut self) -> Result<S, IoError> {
        self.complete()?;
        self.write_header(true)?;
        // A lock keeps nobody from a sealed delta, and ends with the file.
        let _ = self.delta.storage.unlock();
        Ok(self.delta.storage)
    }

    /// Seals the delta and goes on in a new one above it, in the empty file `new`. Everything written so far
    /// is durable in the sealed one when this returns; what a failure leaves is told by its error.
    ///
    /// The new delta is complete and durable before the seal is written, and the seal is the last thing that
    /// can fail. So after a crash the old delta is either unsealed and the top, or sealed with all there
    /// was, and then the new one is empty and lies on it.
    pub fn replace_delta(&mut self, new: S) -> Result<(), ReplaceError> {
        self.complete().map_err(ReplaceError::Flush)?;
        let header = self.prepare_next(&new).map_err(ReplaceError::New)?;
        if let Err(error) = self.write_header(true) {
            return Err(match self.write_header(false) {
                Ok(()) => ReplaceError::Seal(error),
                Err(_) => ReplaceError::Unknown(error),
            });
        }
        // Others may read the sealed delta now. Should this fail they find it busy, no more.
        let _ = self.delta.storage.unlock();
        let table = Table::new(header.size_bytes);
        let next = Delta { storage: new, table, size_bytes: header.size_bytes };
        let sealed = std::mem::replace(&mut self.delta, next);
        self.below.put(sealed, self.header.id);
        self.header = header;
        Ok(())
    }

    /// Makes `new` an empty delta over this one.
    fn prepare_next(&self, new: &S) -> Result<Header, OpenError> {
        self.below.check_room()?;
        // The delta in use is not empty either, so it cannot be taken for the new one.
        check_empty(new)?;
        lock_for(self.durability, new)?;
        let header = create_delta(new, self.header.id, self.header.size_bytes)?;
        if self.durability == Durability::Durable {
            new.sync()?;
        }
        Ok(header)
    }

    /// The file holds all that was written, table included.
    fn complete(&mut self) -> Result<(), IoError> {
        match self.durability {
            Durability::Durable => self.flush(),
            Durability::Ephemeral => {
                self.write_table()?;
                self.delta.table.mark_unchanged();
                Ok(())
            }
        }
    }

    fn write_header(&self, sealed: bool) -> io::Result<()> {
        let header = Header { sealed, ..self.header };
        write_all(&self.delta.storage, &Source::from_slice(&header.emit()), 0)?;
        match self.durability {
            Durability::Durable => self.delta.storage.sync(),
            Durability::Ephemeral => Ok(()),
        }
    }

    /// Lets go of the disk as a crash would, and gives its file back.
    #[cfg(test)]
    pub(super) fn into_storage(self) -> S {
        self.delta.storage
    }

    fn write_table(&mut self) -> Result<(), IoError> {
        for (at, pages) in self.delta.table.changed_runs() {
            write_all(&self.delta.storage, &pages, at)?;
        }
        Ok(())
    }

    fn range(&self, at: u64, len: u64) -> Result<Range<u64>, IoError> {
        let size_bytes = self.size_bytes();
        let end = at.checked_add(len).filter(|end| *end <= size_bytes);
        end.map(|end| at..end).ok_or(IoError::OutOfRange { at, len, size_bytes })
    }

    fn check_limit(&self, range: Range<u64>) -> Result<(), IoError> {
        let touched = range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES);
        let new = touched.end - touched.start - self.delta.table.present_in(touched);
        if new > 0 && self.allocated_bytes() + new * BLOCK_BYTES > self.limit_bytes {
            return Err(IoError::Full { limit_bytes: self.limit_bytes });
        }
        Ok(())
    }

    /// Where the block with the byte `at` ends.
    fn block_end(&self, at: u64) -> u64 {
        ((at / BLOCK_BYTES + 1) * BLOCK_BYTES).min(self.size_bytes())
    }

    /// The state of the byte at `at`, and how far the same state reaches.
    fn run(&self, at: u64, end: u64) -> (State, u64) {
        let (state, run_end) = self.delta.table.run(at / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES));
        (state, (run_end * BLOCK_BYTES).min(end))
    }

    /// How far from `at` blocks follow that are present already or written whole.
    fn run_written_in_place(&self, at: u64, end: u64) -> u64 {
        let splits_absent = |place: u64| {
            let splits = !place.is_multiple_of(BLOCK_BYTES) && place != self.size_bytes();
            splits && self.delta.table.get(place / BLOCK_BYTES) != State::Present
        };
        if splits_absent(at) {
            at
        } else if splits_absent(end) {
            at.max(end / BLOCK_BYTES * BLOCK_BYTES)
        } else {
            end
        }
    }

    /// Writes part of a block that is not present, and makes it so.
    fn write_partly(&mut self, source: &Source<'_>, at: u64) -> Result<(), IoError> {
        let block = at / BLOCK_BYTES;
        let (start, end) = (block * BLOCK_BYTES, self.block_end(at));
        let mut room = [0; BLOCK_BYTES as usize];
        let bytes = &mut room[..(end - start) as usize];
        if self.delta.table.get(block) == State::FallsThrough {
            self.below.read(&mut Target::from_slice(bytes), start)?;
        }
        source.copy_to(&mut bytes[(at - start) as usize..]);
        // All of it: what a crash may have left of an earlier write must not come back.
        write_all(&self.delta.storage, &Source::from_slice(bytes), self.delta.place(start))?;
        self.delta.table.set(block..block + 1, State::Present);
        Ok(())
    }

    fn zero_blocks(&mut self, mut blocks: Range<u64>) -> Result<(), IoError> {
        while blocks.start < blocks.end {
            let (state, end) = self.delta.table.run(blocks.clone());
            if state == State::Present {
                let (from, to) = (blocks.start * BLOCK_BYTES, (end * BLOCK_BYTES).min(self.size_bytes()));
                self.mark_unsynced();
                self.delta.storage.punch(self.delta.place(from), to - from)?;
            }
            self.delta.table.set(blocks.start..end, State::Zero);
            blocks.start = end;
        }
        Ok(())
    }

    /// Zeroes a range within one block.
    fn zero_partly(&mut self, range: Range<u64>) -> Result<(), IoError> {
        if range.is_empty() {
            return Ok(());
        }
        let len = range.end - range.start;
        match self.delta.table.get(range.start / BLOCK_BYTES) {
            State::Zero => Ok(()),
            State::Present => {
                self.mark_unsynced();
                Ok(self.delta.storage.punch(self.delta.place(range.start), len)?)
            }
            State::FallsThrough => {
                let zeroes = [0; BLOCK_BYTES as usize];
                self.write(&Source::from_slice(&zeroes[..len as usize]), range.start)
            }
        }
    }
}

/// A delta without a name needs no lock: nobody else can open it.
fn lock_for<S: Storage>(durability: Durability, delta: &S) -> Result<(), OpenError> {
    if durability == Durability::Durable { lock(delta) } else { Ok(()) }
}

/// A new delta must not take another one's place.
pub(super) fn check_empty<S: Storage>(new: &S) -> Result<(), OpenError> {
    match new.size()? {
        0 => Ok(()),
        len => Err(OpenError::NotEmpty(len)),
    }
}
