//! virtio-vsock: carries packets between the queues and the [`Muxer`].

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use virtio_queue::{DescriptorChain, Queue};
use vm_memory::GuestMemory;

use super::chain::{Chain, Served, drain};
use super::{COMMON_FEATURES, Device, DeviceError, Outcome, read_from};
use crate::vsock::{HEADER_BYTES, Header, HostSide, Muxer};

#[cfg(test)]
mod tests;

/// Deep enough that a bulk transfer to the guest, in buffers of a page, needs few interrupts.
const QUEUE_SIZE: u16 = 256;
/// The guest puts a handful of buffers there and we never use one.
const EVENT_QUEUE_SIZE: u16 = 16;
/// Chains served in one call for each direction.
const BUDGET: usize = 256;

const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const EVENT: u16 = 2;

/// The device.
pub struct Vsock<H> {
    muxer: Muxer<H>,
    /// The guest's packets wait until it has taken refusals.
    is_transmit_held: bool,
}

impl<H: HostSide> Vsock<H> {
    /// A device for the guest with this address, and for its host.
    pub fn new(guest_cid: u64, host: H) -> io::Result<Self> {
        Ok(Vsock { muxer: Muxer::new(guest_cid, host)?, is_transmit_held: false })
    }

    /// The guest's packets, and then what they brought about.
    fn transmit<M: GuestMemory>(
        &mut self,
        queues: &mut [Queue],
        mem: &M,
        now: Instant,
    ) -> Result<Outcome, DeviceError> {
        let queue = queues.get_mut(usize::from(TRANSMIT)).ok_or(DeviceError::NoSuchQueue(TRANSMIT))?;
        let mut failed = Ok(());
        self.is_transmit_held = false;
        let outcome = drain(TRANSMIT, queue, mem, BUDGET, |chain| {
            if self.muxer.is_blocked() {
                self.is_transmit_held = true;
                return Served::NotNow;
            }
            failed = take_packet(&mut self.muxer, chain, mem, now);
            if failed.is_err() { Served::NotNow } else { Served::Used(0) }
        })?;
        failed?;
        Ok(outcome)
    }

    /// Packets for the guest, as long as there are any and it has buffers for them.
    fn receive<M: GuestMemory>(
        &mut self,
        queues: &mut [Queue],
        mem: &M,
        now: Instant,
    ) -> Result<Outcome, DeviceError> {
        let mut outcome = Outcome::NONE;
        if self.muxer.has_pending() {
            let queue = queues.get_mut(usize::from(RECEIVE)).ok_or(DeviceError::NoSuchQueue(RECEIVE))?;
            let mut failed = Ok(());
            outcome = drain(RECEIVE, queue, mem, BUDGET, |chain| {
                let Ok(mut chain) = Chain::parse(chain, mem) else {
                    return Served::Used(0);
                };
                match self.muxer.next_packet(&mut chain.writable, now) {
                    Ok(Some(len)) => Served::Used(len as u32),
                    Ok(None) => Served::NotNow,
                    Err(error) => {
                        failed = Err(error);
                        Served::NotNow
                    }
                }
            })?;
            failed?;
        }
        if self.is_transmit_held && !self.muxer.is_blocked() {
            outcome.again |= 1 << TRANSMIT;
        }
        Ok(outcome)
    }
}

fn take_packet<'a, H: HostSide, M: GuestMemory>(
    muxer: &mut Muxer<H>,
    chain: DescriptorChain<&'a M>,
    mem: &'a M,
    now: Instant,
) -> io::Result<()> {
    let mut header = [0; HEADER_BYTES];
    match Chain::parse(chain, mem) {
        Ok(chain) if chain.readable.copy_to(&mut header) == HEADER_BYTES => {
            let payload = chain.readable.part(HEADER_BYTES, usize::MAX);
            muxer.receive(&Header::parse(&header), &payload, now)
        }
        // Without a header there is nobody to tell.
        _ => Ok(()),
    }
}

impl<H: HostSide> Device for Vsock<H> {
    fn virtio_id(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE, QUEUE_SIZE, EVENT_QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        COMMON_FEATURES
    }

    fn acknowledge(&mut self, _: u64) {}

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_from(&self.muxer.guest_cid().to_le_bytes(), offset, data);
    }

    fn process<M: GuestMemory>(
        &mut self,
        index: u16,
        queues: &mut [Queue],
        mem: &M,
    ) -> Result<Outcome, DeviceError> {
        let now = Instant::now();
        match index {
            RECEIVE => self.receive(queues, mem, now),
            TRANSMIT => {
                let outcome = self.transmit(queues, mem, now)?;
                Ok(outcome.merge(self.receive(queues, mem, now)?))
            }
            EVENT => Ok(Outcome::NONE),
            _ => Err(DeviceError::NoSuchQueue(index)),
        }
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.muxer.as_fd())
    }

    fn host_ready<M: GuestMemory>(&mut self, queues: &mut [Queue], mem: &M) -> Result<Outcome, DeviceError> {
        let now = Instant::now();
        self.muxer.poll(now)?;
        self.receive(queues, mem, now)
    }

    fn reset(&mut self) {
        self.muxer.reset();
        self.is_transmit_held = false;
    }
}
