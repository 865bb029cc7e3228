//! Descriptor chains, checked: bounded, inside guest memory, readable parts before writable ones.

use std::num::Wrapping;
use std::sync::atomic::{Ordering, fence};

use virtio_queue::{DescriptorChain, Error as QueueError, Queue, QueueT};
use vm_memory::{Bytes as _, GuestAddress, GuestMemory, Permissions};

use super::iov::{Source, Target};
use super::{DeviceError, Outcome};

/// The most descriptors of one chain. Linux builds at most `seg_max` + 2 for a disk and about 20 for a
/// socket packet; with an indirect table a hostile guest could name 65535.
pub const MAX_DESCRIPTORS: usize = 256;

/// Where things are in the rings: flags and index, then the elements.
const USED_INDEX_OFFSET: u64 = 2;
const USED_HEADER_BYTES: u64 = 4;
const USED_ELEMENT_BYTES: u64 = 8;
const AVAIL_HEADER_BYTES: u64 = 4;
const AVAIL_ELEMENT_BYTES: u64 = 2;

/// Why a chain is not used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChainError {
    /// More descriptors than [`MAX_DESCRIPTORS`].
    #[error("the chain has more than {MAX_DESCRIPTORS} descriptors")]
    TooLong,
    /// A readable descriptor after a writable one.
    #[error("a readable descriptor follows a writable one")]
    OutOfOrder,
    /// A descriptor outside of guest memory.
    #[error("descriptor of {len} bytes at {addr:#x} is outside of guest memory")]
    OutsideMemory {
        /// Guest physical address.
        addr: u64,
        /// Length in bytes.
        len: u32,
    },
}

/// The memory of one chain.
pub struct Chain<'a> {
    /// What the guest wants to be read.
    pub readable: Source<'a>,
    /// What the guest wants to be written.
    pub writable: Target<'a>,
}

impl<'a> Chain<'a> {
    /// Checks a chain and collects its memory.
    pub fn parse<M: GuestMemory>(chain: DescriptorChain<&'a M>, mem: &'a M) -> Result<Self, ChainError> {
        let mut parsed = Chain { readable: Source::empty(), writable: Target::empty() };
        let mut writable_seen = false;
        for (index, descriptor) in chain.enumerate() {
            if index == MAX_DESCRIPTORS {
                return Err(ChainError::TooLong);
            }
            let (addr, len) = (descriptor.addr(), descriptor.len());
            let outside = || ChainError::OutsideMemory { addr: addr.0, len };
            let writable = descriptor.is_write_only();
            if writable_seen && !writable {
                return Err(ChainError::OutOfOrder);
            }
            writable_seen |= writable;
            let access = if writable { Permissions::Write } else { Permissions::Read };
            for slice in mem.get_slices(addr, len as usize, access).map_err(|_| outside())? {
                let slice = slice.map_err(|_| outside())?;
                match writable {
                    true => parsed.writable.push_guest(&slice),
                    false => parsed.readable.push_guest(&slice),
                }
            }
        }
        Ok(parsed)
    }
}

/// What became of a chain that [`drain`] offered.
pub enum Served {
    /// Done; the number of bytes written to it.
    Used(u32),
    /// Not now: the chain stays at the head of the queue, and draining ends.
    NotNow,
}

/// Offers the queue's chains one after the other to `serve`, at most `budget` of them, with notifications
/// from the guest turned off meanwhile. The guest is interrupted at most once, at the end.
pub fn drain<'a, M: GuestMemory>(
    index: u16,
    queue: &mut Queue,
    mem: &'a M,
    budget: usize,
    mut serve: impl FnMut(DescriptorChain<&'a M>) -> Served,
) -> Result<Outcome, DeviceError> {
    let broken = |source| DeviceError::Queue { index, source };
    if !queue.ready() {
        return Ok(Outcome::NONE);
    }
    let mut outcome = Outcome::NONE;
    let mut used = 0;
    queue.disable_notification(mem).map_err(broken)?;
    loop {
        if used == budget {
            outcome.again = 1 << index;
            break;
        }
        let Some(chain) = next_chain(queue, mem).map_err(broken)? else {
            // The guest may have added a chain just before notifications were on again.
            if !queue.enable_notification(mem).map_err(broken)? {
                break;
            }
            queue.disable_notification(mem).map_err(broken)?;
            // A ring that claims to have more but yields nothing would keep this loop going for ever.
            used += 1;
            continue;
        };
        let head = chain.head_index();
        match serve(chain) {
            Served::Used(len) => queue.add_used(mem, head, len).map_err(broken)?,
            Served::NotNow => {
                queue.set_next_avail(queue.next_avail().wrapping_sub(1));
                break;
            }
        }
        used += 1;
        outcome.interrupt = 1 << index;
    }
    if outcome.interrupt != 0 && !queue.needs_notification(mem).map_err(broken)? {
        outcome.interrupt = 0;
    }
    Ok(outcome)
}

/// What became of something that [`fill`] was to write.
pub enum Filled {
    /// It is in the guest's buffers.
    Used(Outcome),
    /// The guest has not enough of them: it kicks the queue when it adds some.
    NoRoom,
}

/// Takes chains until they have room for `len_bytes`, lets `write` fill them, which tells the bytes in each, and
/// hands all of them back in one step: a driver that sees one sees the others.
pub fn fill<'a, M: GuestMemory>(
    index: u16,
    queue: &mut Queue,
    mem: &'a M,
    len_bytes: usize,
    write: impl FnOnce(&mut [Target<'a>]) -> Vec<u32>,
) -> Result<Filled, DeviceError> {
    let broken = |source| DeviceError::Queue { index, source };
    if !queue.ready() {
        return Ok(Filled::NoRoom);
    }
    let first = queue.next_avail();
    let (mut heads, mut targets, mut room_bytes) = (Vec::new(), Vec::new(), 0);
    while room_bytes < len_bytes {
        // A ring that has more than its size goes round.
        if heads.len() == usize::from(queue.size()) {
            queue.set_next_avail(first);
            return Ok(Filled::NoRoom);
        }
        let chain = match next_chain(queue, mem).map_err(broken)? {
            Some(chain) => Some(chain),
            // The guest may have added one just before it was asked to tell of more.
            None => match queue.enable_notification(mem).map_err(broken)? {
                true => next_chain(queue, mem).map_err(broken)?,
                false => None,
            },
        };
        let Some(chain) = chain else {
            queue.set_next_avail(first);
            return Ok(Filled::NoRoom);
        };
        heads.push(chain.head_index());
        // One that cannot be used goes back empty.
        let target = Chain::parse(chain, mem).map_or(Target::empty(), |chain| chain.writable);
        room_bytes += target.len();
        targets.push(target);
    }
    let lens = write(&mut targets);
    let used: Vec<(u16, u32)> = heads.into_iter().zip(lens).collect();
    let is_wanted = publish(queue, mem, &used).map_err(broken)?;
    Ok(Filled::Used(Outcome { interrupt: u32::from(is_wanted) << index, again: 0 }))
}

/// Hands chains back with the bytes written to each, all at once (Virtual I/O Device 1.2, sections 2.7.8 and
/// 2.7.10); tells whether the driver wants an interrupt for it.
fn publish<M: GuestMemory>(queue: &mut Queue, mem: &M, used: &[(u16, u32)]) -> Result<bool, QueueError> {
    let at = |base: u64, offset: u64| {
        base.checked_add(offset).map(GuestAddress).ok_or(QueueError::AddressOverflow)
    };
    let (ring, before) = (queue.used_ring(), Wrapping(queue.next_used()));
    let mut next = before;
    for (head, len) in used {
        let slot = u64::from(next.0 % queue.size());
        let element = u64::from(*len) << 32 | u64::from(*head);
        mem.write_obj(element.to_le(), at(ring, USED_HEADER_BYTES + slot * USED_ELEMENT_BYTES)?)
            .map_err(QueueError::GuestMemory)?;
        next += 1;
    }
    mem.store(next.0.to_le(), at(ring, USED_INDEX_OFFSET)?, Ordering::Release)
        .map_err(QueueError::GuestMemory)?;
    queue.set_next_used(next.0);
    if !queue.event_idx_enabled() {
        return Ok(true);
    }
    // The driver's wish is read after it can see the index.
    fence(Ordering::SeqCst);
    let wish = at(queue.avail_ring(), AVAIL_HEADER_BYTES + AVAIL_ELEMENT_BYTES * u64::from(queue.size()))?;
    let event: u16 = mem.load(wish, Ordering::Relaxed).map_err(QueueError::GuestMemory)?;
    Ok(next - Wrapping(u16::from_le(event)) - Wrapping(1) < next - before)
}

/// Takes the next available chain; `None` when the ring is empty.
fn next_chain<'a, M: GuestMemory>(
    queue: &mut Queue,
    mem: &'a M,
) -> Result<Option<DescriptorChain<&'a M>>, QueueError> {
    use virtio_queue::QueueOwnedT;
    queue.iter(mem).map(|mut chains| chains.next())
}
