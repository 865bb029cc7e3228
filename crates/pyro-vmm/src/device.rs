//! Device cores: what a virtio device does, without how it is reached.
//!
//! A core knows neither an engine nor a transport. It is given its queues, the guest's memory and the
//! number of the queue that was kicked, and answers which queues the guest must be interrupted for.
//! Everything it reads from queues and memory is a claim by the guest.

pub mod balloon;
pub mod blk;
pub mod chain;
pub mod console;
pub mod fuzz;
pub mod iov;
pub mod memory;
pub mod net;
pub(crate) mod queued;
pub mod rng;
#[cfg(test)]
pub(crate) mod testing;
pub mod vsock;

use std::os::fd::BorrowedFd;

use virtio_queue::Queue;
use vm_memory::GuestMemory;

/// Feature bits common to every device of ours: modern, indirect descriptors, event index.
pub const COMMON_FEATURES: u64 = (1 << virtio_bindings::virtio_config::VIRTIO_F_VERSION_1)
    | (1 << virtio_bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC)
    | (1 << virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX);

/// What a core wants after it has worked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "the guest waits for the interrupts named here"]
pub struct Outcome {
    /// Bit N set: interrupt the guest for queue N. Suppression by the event index is already applied.
    pub interrupt: u32,
    /// Bit N set: the core stopped at its work budget, call [`Device::process`] for queue N again after
    /// the other devices and queues have had their turn. No kick will come for what is left.
    pub again: u32,
}

impl Outcome {
    /// Nothing to do.
    pub const NONE: Outcome = Outcome { interrupt: 0, again: 0 };

    /// Both outcomes together.
    pub fn merge(self, other: Outcome) -> Outcome {
        Outcome { interrupt: self.interrupt | other.interrupt, again: self.again | other.again }
    }

    /// The queues to interrupt, in ascending order.
    pub fn interrupts(self) -> impl Iterator<Item = u16> {
        bits(self.interrupt)
    }

    /// The queues to process again, in ascending order.
    pub fn agains(self) -> impl Iterator<Item = u16> {
        bits(self.again)
    }
}

fn bits(mask: u32) -> impl Iterator<Item = u16> {
    (0..32).filter(move |bit| mask & (1 << bit) != 0)
}

/// Why a core cannot go on with a queue. The transport stops serving the device until the guest resets
/// it; the rest of the machine goes on.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The guest broke the ring itself, so that nothing in it can be trusted.
    #[error("queue {index} is broken: {source}")]
    Queue {
        /// The queue's number.
        index: u16,
        /// What is wrong with it.
        source: virtio_queue::Error,
    },
    /// The transport named a queue that the device does not have.
    #[error("the device has no queue {0}")]
    NoSuchQueue(u16),
    /// The host could not do what the device needs to work at all.
    #[error("the host failed the device: {0}")]
    Host(#[from] std::io::Error),
}

/// A virtio device without its transport.
pub trait Device: Send {
    /// The device type's number in the virtio specification.
    fn virtio_id(&self) -> u32;

    /// The largest size of each queue, a power of two; the slice's length is the number of queues.
    fn queue_sizes(&self) -> &[u16];

    /// Feature bits that the device offers, the common ones included.
    fn features(&self) -> u64;

    /// The bits that the guest accepted, already limited to the offered ones.
    fn acknowledge(&mut self, features: u64);

    /// Reads the configuration space; bytes beyond its end read as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes the configuration space. Most devices have nothing writable there.
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }

    /// The guest kicked queue `index`: serves it, within a bounded amount of work. `queues` are all of the
    /// device's queues, in order; queues that are not ready are left alone.
    fn process<M: GuestMemory>(
        &mut self,
        index: u16,
        queues: &mut [Queue],
        mem: &M,
    ) -> Result<Outcome, DeviceError>;

    /// A descriptor that becomes readable (level-triggered) when the host has something for the device;
    /// the transport then calls [`Device::host_ready`]. Stays the same for the device's life.
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Serves the host's side, as [`Device::process`] does the guest's.
    fn host_ready<M: GuestMemory>(&mut self, queues: &mut [Queue], mem: &M) -> Result<Outcome, DeviceError> {
        let _ = (queues, mem);
        Ok(Outcome::NONE)
    }

    /// The guest reset the device: back to the state after construction. The queues are the transport's.
    fn reset(&mut self);
}

/// Copies from a configuration space; beyond its end there are zeroes.
fn read_from(space: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let from = usize::try_from(offset).unwrap_or(usize::MAX).min(space.len());
    let len = data.len().min(space.len() - from);
    data[..len].copy_from_slice(&space[from..from + len]);
}
