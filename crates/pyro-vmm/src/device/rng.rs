//! virtio-rng: the host kernel's random bytes.

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use virtio_queue::{DescriptorChain, Queue};
use vm_memory::GuestMemory;

use super::chain::{Chain, Served, drain};
use super::{COMMON_FEATURES, Device, DeviceError, Outcome};

#[cfg(test)]
mod tests;

/// The guest keeps one request in flight.
const QUEUE_SIZE: u16 = 16;
/// The most bytes for one request; a guest that wants more asks again. Linux asks for 64 or fewer.
const MAX_REQUEST_BYTES: usize = 4096;

/// The device.
#[derive(Default)]
pub struct Rng;

fn serve<'a, M: GuestMemory>(chain: DescriptorChain<&'a M>, mem: &'a M) -> u32 {
    let Ok(mut chain) = Chain::parse(chain, mem) else {
        return 0;
    };
    let mut bytes = [0; MAX_REQUEST_BYTES];
    let wanted = chain.writable.len().min(MAX_REQUEST_BYTES);
    // Zero bytes are an honest answer; predictable ones are not.
    match getrandom::fill(&mut bytes[..wanted]) {
        Ok(()) => chain.writable.copy_from(&bytes[..wanted]) as u32,
        Err(_) => 0,
    }
}

impl Rng {
    /// The device has no state.
    pub fn new() -> Self {
        Rng
    }
}

impl Device for Rng {
    fn virtio_id(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        COMMON_FEATURES
    }

    fn acknowledge(&mut self, _: u64) {}

    fn read_config(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn process<M: GuestMemory>(
        &mut self,
        index: u16,
        queues: &mut [Queue],
        mem: &M,
    ) -> Result<Outcome, DeviceError> {
        let queue = queues.get_mut(usize::from(index)).ok_or(DeviceError::NoSuchQueue(index))?;
        drain(index, queue, mem, QUEUE_SIZE.into(), |chain| Served::Used(serve(chain, mem)))
    }

    fn reset(&mut self) {}
}
