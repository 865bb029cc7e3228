//! The immutable part of a disk: sealed deltas over a raw base.

use std::fs::File;
use std::io;
use std::ops::Range;

use super::format::{self, BLOCK_BYTES, FormatError, LayerId};
use super::storage::{Lock, Storage, read_all};
use super::table::{State, Table};
use crate::device::iov::Target;

/// The deepest stack. A read asks each layer's table in turn, so depth costs; stacks are flattened long
/// before.
pub const MAX_LAYERS: usize = 64;

/// How far [`Layers::next_data`] walks at once; callers that want less come again for the rest.
const MAX_RUN_BYTES: u64 = 64 << 20;

/// Why a stack of layers cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The bytes are not a delta.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A file could not be read or written.
    #[error("the disk's file: {0}")]
    Io(#[from] io::Error),
    /// A layer that is still written cannot lie under another one.
    #[error("the delta below is not sealed")]
    NotSealed,
    /// A sealed layer cannot be written.
    #[error("the delta is sealed")]
    Sealed,
    /// The delta was made on another one.
    #[error("the delta belongs on another layer than the one below it")]
    WrongParent,
    /// Over [`MAX_LAYERS`].
    #[error("more than {MAX_LAYERS} layers")]
    TooMany,
    /// Somebody else writes the delta.
    #[error("the delta is in use")]
    Busy,
    /// A new delta goes into an empty file, so that no other one is lost.
    #[error("the file for a new delta holds {0} bytes")]
    NotEmpty(u64),
    /// A disk never gets smaller.
    #[error("a disk of {size_bytes} bytes cannot lie over one of {below_bytes}")]
    Shrinks {
        /// The size asked for.
        size_bytes: u64,
        /// The size of the layers below.
        below_bytes: u64,
    },
    /// The delta is of another size than was asked for.
    #[error("the delta is of a disk of {size_bytes} bytes, not {expected_bytes}")]
    OtherSize {
        /// The delta's.
        size_bytes: u64,
        /// The size asked for.
        expected_bytes: u64,
    },
}

/// A delta with its table.
pub(super) struct Delta<S> {
    pub(super) storage: S,
    pub(super) table: Table,
    pub(super) size_bytes: u64,
}

impl<S: Storage> Delta<S> {
    /// Where a byte of the disk lies in the file.
    pub(super) fn place(&self, at: u64) -> u64 {
        format::blocks_offset(self.size_bytes) + at
    }

    /// Reads within blocks that are present. The last one may be short, and the disk above larger.
    fn read(&self, target: &mut Target<'_>, at: u64) -> io::Result<()> {
        read_within(&self.storage, target, self.place(at), self.size_bytes.saturating_sub(at))
    }
}

/// A read-only stack of layers.
pub struct Layers<S = File> {
    /// The raw image at the bottom and its length; shorter than the disk is fine, the rest is zeroes.
    base: Option<(S, u64)>,
    /// Bottom first.
    deltas: Vec<Delta<S>>,
    top: LayerId,
    size_bytes: u64,
}

/// Which layer a block is read from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Delta(usize),
    Base,
    Zero,
}

impl<S: Storage> Layers<S> {
    /// No layer at all: everything reads as zeroes.
    pub fn empty() -> Self {
        Layers { base: None, deltas: Vec::new(), top: [0; 16], size_bytes: 0 }
    }

    /// A raw image. It must not change while any disk is stacked on it.
    pub fn raw(image: S) -> Result<Self, OpenError> {
        let len = image.size()?;
        Ok(Layers { base: Some((image, len)), size_bytes: len, ..Self::empty() })
    }

    /// Puts a sealed delta on top.
    pub fn push(mut self, delta: S) -> Result<Self, OpenError> {
        let (header, table) = format::load(&delta)?;
        if !header.sealed {
            return Err(OpenError::NotSealed);
        }
        if header.parent != self.top {
            return Err(OpenError::WrongParent);
        }
        self.check_room()?;
        self.put(Delta { storage: delta, table, size_bytes: header.size_bytes }, header.id);
        Ok(self)
    }

    /// Puts a delta on top that may still be unsealed, for reading alone: nobody writes it while this lives.
    pub(super) fn push_top(mut self, delta: S) -> Result<Self, OpenError> {
        let (mut header, mut table) = format::load(&delta)?;
        if !header.sealed {
            if !delta.try_lock(Lock::Read)? {
                return Err(OpenError::Busy);
            }
            // Its writer may have gone on until then.
            (header, table) = format::load(&delta)?;
        }
        if header.parent != self.top {
            return Err(OpenError::WrongParent);
        }
        self.put(Delta { storage: delta, table, size_bytes: header.size_bytes }, header.id);
        Ok(self)
    }

    /// Whether one more layer may be sealed.
    pub(super) fn check_room(&self) -> Result<(), OpenError> {
        if self.deltas.len() >= MAX_LAYERS { Err(OpenError::TooMany) } else { Ok(()) }
    }

    /// Puts a delta on top that is known to belong there.
    pub(super) fn put(&mut self, delta: Delta<S>, id: LayerId) {
        self.size_bytes = delta.size_bytes;
        self.top = id;
        self.deltas.push(delta);
    }

    /// The size of the disk as its top layer has it.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The top delta's name, all zero when there is none.
    pub(super) fn top(&self) -> LayerId {
        self.top
    }

    /// Reads at `offset`; beyond every layer there are zeroes.
    pub fn read(&self, target: &mut Target<'_>, offset: u64) -> io::Result<()> {
        let end = offset.checked_add(target.len() as u64).ok_or(io::ErrorKind::InvalidInput)?;
        let mut at = offset;
        while at < end {
            let (origin, run_end) = self.run(at, end);
            let mut part = target.part((at - offset) as usize, (run_end - at) as usize);
            match origin {
                Origin::Delta(index) => self.deltas[index].read(&mut part, at)?,
                Origin::Base => self.read_base(&mut part, at)?,
                Origin::Zero => part.fill_zero(),
            }
            at = run_end;
        }
        Ok(())
    }

    /// The origin of the byte at `at`, and how far the same origin reaches.
    fn run(&self, at: u64, end: u64) -> (Origin, u64) {
        let last = end.div_ceil(BLOCK_BYTES);
        let (origin, mut run_end) = self.block_run(at / BLOCK_BYTES..last);
        while run_end < last {
            let (next, next_end) = self.block_run(run_end..last);
            if next != origin {
                break;
            }
            run_end = next_end;
        }
        (origin, (run_end * BLOCK_BYTES).min(end))
    }

    /// The origin of the range's first block, and a place in the range before which none has another.
    fn block_run(&self, mut blocks: Range<u64>) -> (Origin, u64) {
        for (index, delta) in self.deltas.iter().enumerate().rev() {
            let (state, end) = delta.table.run(blocks.clone());
            match state {
                State::Present => return (Origin::Delta(index), end),
                State::Zero => return (Origin::Zero, end),
                State::FallsThrough => blocks.end = end,
            }
        }
        let base_end = self.base.as_ref().map_or(0, |(_, len)| len.div_ceil(BLOCK_BYTES));
        if blocks.start < base_end {
            (Origin::Base, blocks.end.min(base_end))
        } else {
            (Origin::Zero, blocks.end)
        }
    }

    /// The first range from `from` on that may hold anything but zeroes. It lies in one layer, so the next
    /// one may follow at once.
    pub(super) fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let (mut at, mut base_data) = (from, None);
        while at < self.size_bytes {
            let (origin, end) = self.run(at, self.size_bytes.min(at.saturating_add(MAX_RUN_BYTES)));
            match origin {
                Origin::Zero => {}
                Origin::Delta(_) => return Ok(Some(at..end)),
                Origin::Base => {
                    let data = match base_data.take().filter(|data: &Range<u64>| data.end > at) {
                        Some(data) => data,
                        None => self.base_data(at)?,
                    };
                    if data.start < end {
                        return Ok(Some(data.start.max(at)..data.end.min(end)));
                    }
                    base_data = Some(data);
                }
            }
            at = end;
        }
        Ok(None)
    }

    /// The base's first data from `at` on; far away when there is none.
    fn base_data(&self, at: u64) -> io::Result<Range<u64>> {
        let data = self.base.as_ref().map(|(base, _)| base.next_data(at)).transpose()?.flatten();
        Ok(data.unwrap_or(u64::MAX..u64::MAX))
    }

    fn read_base(&self, target: &mut Target<'_>, at: u64) -> io::Result<()> {
        let Some((base, len)) = &self.base else {
            target.fill_zero();
            return Ok(());
        };
        read_within(base, target, at, len.saturating_sub(at))
    }
}

/// Reads at `offset` as far as `left` bytes go; zeroes are beyond.
fn read_within<S: Storage>(storage: &S, target: &mut Target<'_>, offset: u64, left: u64) -> io::Result<()> {
    let within = left.min(target.len() as u64) as usize;
    read_all(storage, &mut target.part(0, within), offset)?;
    target.part(within, usize::MAX).fill_zero();
    Ok(())
}

/// The blocks that lie wholly within a range of bytes of a disk; the disk's last one may be short.
pub(super) fn whole_blocks(at: u64, end: u64, size_bytes: u64) -> Range<u64> {
    let last = if end == size_bytes { format::blocks(size_bytes) } else { end / BLOCK_BYTES };
    let first = at.div_ceil(BLOCK_BYTES);
    first..last.max(first)
}
