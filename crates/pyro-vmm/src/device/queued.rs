//! A device core with its queues, as every transport serves it.

use virtio_queue::{Queue, QueueT as _};
use vm_memory::GuestMemory;

use super::{Device, DeviceError, Outcome};

/// A core and what is known of its queues.
pub(crate) struct QueuedDevice<D> {
    pub(crate) device: D,
    pub(crate) queues: Vec<Queue>,
    /// Queues left with work, see [`Outcome::again`].
    pub(crate) again: u32,
    /// The guest broke a queue, or set it up as none can be: nothing is served until it resets the device.
    pub(crate) is_broken: bool,
}

impl<D: Device> QueuedDevice<D> {
    /// `size` tells how large a queue may become, from how large the core wants it.
    pub(crate) fn new(device: D, size: impl Fn(u16) -> u16) -> Self {
        let queues = device
            .queue_sizes()
            .iter()
            .map(|wanted| Queue::new(size(*wanted)).expect("cores and limits name powers of two"))
            .collect();
        Self { device, queues, again: 0, is_broken: false }
    }

    /// Serves one queue; the queues to interrupt the guest for.
    pub(crate) fn process<M: GuestMemory>(&mut self, index: u16, mem: &M) -> Result<u32, DeviceError> {
        if self.is_broken {
            return Ok(0);
        }
        let outcome = self.device.process(index, &mut self.queues, mem);
        self.settle(outcome)
    }

    /// Serves the device's host side; the queues to interrupt the guest for.
    pub(crate) fn host_ready<M: GuestMemory>(&mut self, mem: &M) -> Result<u32, DeviceError> {
        let outcome = self.device.host_ready(&mut self.queues, mem);
        self.settle(outcome)
    }

    /// Takes the queues left with work.
    pub(crate) fn take_again(&mut self) -> impl Iterator<Item = u16> + use<D> {
        Outcome { interrupt: 0, again: std::mem::take(&mut self.again) }.agains()
    }

    fn settle(&mut self, outcome: Result<Outcome, DeviceError>) -> Result<u32, DeviceError> {
        match outcome {
            Ok(outcome) => {
                self.again |= outcome.again;
                Ok(outcome.interrupt)
            }
            Err(DeviceError::Queue { .. }) => {
                self.is_broken = true;
                self.again = 0;
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }
}
