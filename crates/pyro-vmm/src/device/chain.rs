//! Descriptor chains, checked: bounded, inside guest memory, readable parts before writable ones.

use virtio_queue::{DescriptorChain, Error as QueueError, Queue, QueueT};
use vm_memory::{GuestMemory, Permissions};

use super::iov::{Source, Target};
use super::{DeviceError, Outcome};

/// The most descriptors of one chain. Linux builds at most `seg_max` + 2 for a disk and about 20 for a
/// socket packet; with an indirect table a hostile guest could name 65535.
pub const MAX_DESCRIPTORS: usize = 256;

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

/// Takes the next available chain; `None` when the ring is empty.
fn next_chain<'a, M: GuestMemory>(
    queue: &mut Queue,
    mem: &'a M,
) -> Result<Option<DescriptorChain<&'a M>>, QueueError> {
    use virtio_queue::QueueOwnedT;
    queue.iter(mem).map(|mut chains| chains.next())
}
