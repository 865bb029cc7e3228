//! virtio-balloon without a balloon: the guest tells which of its memory is free, and the host takes that back
//! (Virtual I/O Device 1.2, section 5.5.6.7, free page reporting).
//!
//! Nothing is ever asked of the guest: the balloon's wanted size is zero, and requests to change it are answered
//! and not acted on. What the guest reports it may use again at any time without a word; the host then gives it
//! fresh pages of zeroes.

use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;
use virtio_queue::{DescriptorChain, Queue};
use vm_memory::{Address as _, GuestAddress, GuestMemory};

use super::chain::{MAX_DESCRIPTORS, Served, drain};
use super::{COMMON_FEATURES, Device, DeviceError, Outcome, read_from};

mod private;
mod sys;
#[cfg(test)]
mod tests;

pub use private::PrivateMemory;

/// Feature bits (section 5.5.3).
const VIRTIO_BALLOON_F_PAGE_POISON: u32 = 4;
const VIRTIO_BALLOON_F_REPORTING: u32 = 5;

/// Queues 0 and 1 inflate and deflate. Drivers do not count the queues of features that are not offered.
const REPORTING: u16 = 2;
/// Linux reports up to 32 ranges at once, without indirect descriptors, and asks for a queue that holds them.
const QUEUE_SIZE: u16 = 32;
/// Chains served in one call. Linux keeps one in flight; giving back the 128 MiB of its largest takes the host
/// milliseconds.
const BUDGET: usize = 2;

/// `struct virtio_balloon_config` (section 5.5.4): wanted pages, actual pages, a command of page hinting, and what
/// the guest has filled its free pages with. All but the second and the last stay zero.
const CONFIG_BYTES: usize = 16;
const ACTUAL: std::ops::Range<usize> = 4..8;
const POISON_VALUE: std::ops::Range<usize> = 12..16;

/// Pages of the guest and of the host.
const PAGE_BYTES: u64 = 4096;

/// Takes memory that the guest does not need.
pub trait Reclaim: Send {
    /// The guest does not need what is in the `len` bytes from `address` on, which are whole pages. It may still
    /// touch them, and must then find zeroes or what was there. The range is the guest's claim: parts of it may
    /// be no memory at all.
    fn reclaim(&mut self, address: GuestAddress, len: u64);
}

/// The device.
pub struct Balloon<R> {
    memory: R,
    features: u64,
    config: [u8; CONFIG_BYTES],
}

impl<R: Reclaim> Balloon<R> {
    /// A device that hands what the guest reports to `memory`.
    pub fn new(memory: R) -> Self {
        Balloon { memory, features: 0, config: [0; CONFIG_BYTES] }
    }

    /// A guest that poisons its free pages expects to find them so (section 5.5.6.6), and fresh pages hold zeroes.
    fn may_reclaim(&self) -> bool {
        let is_poisoned = self.features & 1 << VIRTIO_BALLOON_F_PAGE_POISON != 0;
        !is_poisoned || self.config[POISON_VALUE].iter().all(|byte| *byte == 0)
    }

    fn report<M: GuestMemory>(&mut self, chain: DescriptorChain<&M>) {
        if !self.may_reclaim() {
            return;
        }
        for descriptor in chain.take(MAX_DESCRIPTORS).filter(|descriptor| descriptor.is_write_only()) {
            if let Some((address, len)) = whole_pages(descriptor.addr(), descriptor.len().into()) {
                self.memory.reclaim(address, len);
            }
        }
    }
}

/// The whole pages in a range; none where it wraps around.
fn whole_pages(address: GuestAddress, len: u64) -> Option<(GuestAddress, u64)> {
    let start = address.raw_value().checked_next_multiple_of(PAGE_BYTES)?;
    let end = address.raw_value().checked_add(len)? / PAGE_BYTES * PAGE_BYTES;
    (start < end).then(|| (GuestAddress(start), end - start))
}

impl<R: Reclaim> Device for Balloon<R> {
    fn virtio_id(&self) -> u32 {
        VIRTIO_ID_BALLOON
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; 3]
    }

    fn features(&self) -> u64 {
        // Linux does not report where it poisons its free pages and cannot say so.
        COMMON_FEATURES | 1 << VIRTIO_BALLOON_F_REPORTING | 1 << VIRTIO_BALLOON_F_PAGE_POISON
    }

    fn acknowledge(&mut self, features: u64) {
        self.features = features;
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_from(&self.config, offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let places = usize::try_from(offset).unwrap_or(CONFIG_BYTES)..CONFIG_BYTES;
        for (place, byte) in places.zip(data) {
            if ACTUAL.contains(&place) || POISON_VALUE.contains(&place) {
                self.config[place] = *byte;
            }
        }
    }

    fn process<M: GuestMemory>(
        &mut self,
        index: u16,
        queues: &mut [Queue],
        mem: &M,
    ) -> Result<Outcome, DeviceError> {
        let queue = queues.get_mut(usize::from(index)).ok_or(DeviceError::NoSuchQueue(index))?;
        drain(index, queue, mem, BUDGET, |chain| {
            // The other queues' pages are given to a balloon, or taken out of it: there is none.
            if index == REPORTING {
                self.report(chain);
            }
            Served::Used(0)
        })
    }

    fn reset(&mut self) {
        self.features = 0;
        self.config = [0; CONFIG_BYTES];
    }
}
