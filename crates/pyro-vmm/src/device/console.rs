//! virtio-console, of which only the guest's output exists, and the bounded log that keeps it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;
use virtio_queue::{DescriptorChain, Queue};
use vm_memory::GuestMemory;

use super::chain::{Chain, Served, drain};
use super::{COMMON_FEATURES, Device, DeviceError, Outcome};

#[cfg(test)]
mod tests;

/// Kernel messages come in bursts of short lines.
const QUEUE_SIZE: u16 = 64;
/// The most bytes taken from one chain; more are counted as dropped.
const MAX_CHAIN_BYTES: usize = 64 << 10;
/// Queue of the guest's output; the other one, of its input, is never filled.
const OUTPUT: u16 = 1;

/// The last bytes of an endless output.
#[derive(Debug)]
pub struct ConsoleLog {
    bytes: VecDeque<u8>,
    capacity: usize,
    dropped: u64,
}

impl ConsoleLog {
    /// Keeps the last `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        ConsoleLog { bytes: VecDeque::new(), capacity, dropped: 0 }
    }

    /// Appends, at the cost of the oldest bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        let kept = &bytes[bytes.len().saturating_sub(self.capacity)..];
        let excess = (self.bytes.len() + kept.len()).saturating_sub(self.capacity);
        self.bytes.drain(..excess);
        self.bytes.extend(kept);
        self.dropped += (excess + bytes.len() - kept.len()) as u64;
    }

    /// Counts bytes that were never seen.
    pub fn skip(&mut self, len: u64) {
        self.dropped += len;
    }

    /// The last `len` bytes, or all there are.
    pub fn tail(&self, len: usize) -> Vec<u8> {
        self.bytes.range(self.bytes.len().saturating_sub(len)..).copied().collect()
    }

    /// How many bytes were lost since the beginning.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// A log that the device writes and somebody else reads.
#[derive(Clone, Debug)]
pub struct SharedLog(Arc<Mutex<ConsoleLog>>);

impl SharedLog {
    /// Keeps the last `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        SharedLog(Arc::new(Mutex::new(ConsoleLog::new(capacity))))
    }

    /// The log, for as long as the result lives.
    pub fn lock(&self) -> MutexGuard<'_, ConsoleLog> {
        // The log is whole after each of its methods, whoever panicked in between.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The device.
pub struct Console {
    log: SharedLog,
}

impl Console {
    /// A console whose output goes to `log`.
    pub fn new(log: SharedLog) -> Self {
        Console { log }
    }

    fn serve<'a, M: GuestMemory>(&self, chain: DescriptorChain<&'a M>, mem: &'a M) {
        let Ok(chain) = Chain::parse(chain, mem) else {
            return;
        };
        let mut bytes = vec![0; chain.readable.len().min(MAX_CHAIN_BYTES)];
        chain.readable.copy_to(&mut bytes);
        let mut log = self.log.lock();
        log.push(&bytes);
        log.skip((chain.readable.len() - bytes.len()) as u64);
    }
}

impl Device for Console {
    fn virtio_id(&self) -> u32 {
        VIRTIO_ID_CONSOLE
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE, QUEUE_SIZE]
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
        if index != OUTPUT {
            return Ok(Outcome::NONE);
        }
        drain(index, queue, mem, QUEUE_SIZE.into(), |chain| {
            self.serve(chain, mem);
            Served::Used(0)
        })
    }

    fn reset(&mut self) {}
}
