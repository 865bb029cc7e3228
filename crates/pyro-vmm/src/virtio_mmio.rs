//! Device cores behind virtio-mmio registers: the transport of the native engine.
//!
//! The registers are those of Virtual I/O Device 1.2, section 4.2.2. What the guest reads lies in a page that
//! the hypervisor maps into the guest for reading alone, so that a read costs no exit at all; writes come here
//! and leave the page as the next read must find it. Three more things are settled inside the host's kernel:
//! a kick of a queue and the acknowledgement of an interrupt are event counters, and an interrupt is an edge on a
//! line of the guest's interrupt controller.

pub mod fuzz;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::event::{EventfdFlags, eventfd};
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK,
    VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio as register;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::QueueT as _;
use vm_memory::{GuestAddress, GuestMemoryMmap, MmapRegion, VolatileMemory as _};

use crate::device::memory::DeviceMemory;
use crate::device::queued::QueuedDevice;
use crate::device::{Device, DeviceError};
use crate::endpoint::{Endpoint, EndpointError};
use crate::poll::{Poller, Source, Token};

/// Bytes of guest-physical space that one device takes.
pub const PAGE_BYTES: usize = 4096;
/// "virt", little endian.
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "PYRO", little endian.
const VENDOR: u32 = 0x4f52_5950;
/// Configuration space that is shown: more than any device of ours has.
const CONFIG_BYTES: usize = 256;
/// What a device without shared memory says of its length and place, section 4.2.2.
const NO_SHARED_MEMORY: u32 = u32::MAX;

/// The pages of a machine's devices, as one piece of memory for the hypervisor to map.
pub struct RegisterPages(Arc<MmapRegion<()>>);

impl RegisterPages {
    /// Pages for this many devices.
    pub fn new(devices: usize) -> io::Result<Self> {
        Ok(Self(Arc::new(MmapRegion::new(devices * PAGE_BYTES).map_err(io::Error::other)?)))
    }

    /// The whole piece.
    pub fn region(&self) -> &MmapRegion<()> {
        &self.0
    }

    fn page(&self, index: u16) -> Page {
        Page { pages: Arc::clone(&self.0), at: usize::from(index) * PAGE_BYTES }
    }
}

/// One device's page.
struct Page {
    pages: Arc<MmapRegion<()>>,
    at: usize,
}

impl Page {
    fn put(&self, register: u32, value: u32) {
        self.put_bytes(register as usize, &value.to_le_bytes());
    }

    fn put_bytes(&self, offset: usize, bytes: &[u8]) {
        let slice = self.pages.get_slice(self.at + offset, bytes.len()).expect("registers lie in their page");
        slice.copy_from(bytes);
    }

    /// What a read by the guest finds; zeroes beyond the page.
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let offset = usize::try_from(offset).unwrap_or(PAGE_BYTES).min(PAGE_BYTES);
        let len = data.len().min(PAGE_BYTES - offset);
        let slice = self.pages.get_slice(self.at + offset, len).expect("within the page");
        slice.copy_to(&mut data[..len]);
    }
}

fn counter() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

fn count_up(counter: &OwnedFd) {
    // A full counter says the same as one more.
    let _ = rustix::io::write(counter, &1u64.to_ne_bytes());
}

/// A device as the bus sees it, from the threads of the vCPUs.
pub trait Registers: Send + Sync {
    /// The guest reads. Happens only where the hypervisor cannot map the page.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// The guest writes.
    fn write(&self, offset: u64, data: &[u8]);
}

/// A device's line to the guest's interrupt controller.
pub trait InterruptLine: Send + Sync {
    /// Raises the line for an edge.
    fn pulse(&self) -> io::Result<()>;
}

/// A device core behind its registers. Shared by the loop, which serves its queues, and the vCPUs' threads,
/// which come for its registers.
pub struct MmioDevice<D> {
    index: u16,
    poller: Arc<Poller>,
    memory: DeviceMemory,
    interrupt: Box<dyn InterruptLine>,
    kicks: Vec<OwnedFd>,
    state: Mutex<State<D>>,
}

struct State<D> {
    served: QueuedDevice<D>,
    page: Page,
    status: u32,
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    queue_select: u32,
    places: Vec<Places>,
    /// The loop watches the device's host side.
    is_host_watched: bool,
}

/// Where the guest says that a queue is, and how long.
#[derive(Clone, Copy, Default)]
struct Places {
    size: u32,
    descriptors: u64,
    available: u64,
    used: u64,
}

impl<D: Device + 'static> MmioDevice<D> {
    /// `device` as number `index` of the machine, both on its pages and on the loop, where its queues' kicks
    /// are watched from now on.
    pub fn new(
        index: u16,
        device: D,
        memory: GuestMemoryMmap<()>,
        pages: &RegisterPages,
        interrupt: Box<dyn InterruptLine>,
        poller: &Arc<Poller>,
    ) -> io::Result<Arc<Self>> {
        let served = QueuedDevice::new(device, |wanted| wanted);
        let kicks: Vec<OwnedFd> = served.queues.iter().map(|_| counter()).collect::<Result<_, _>>()?;
        for (queue, kick) in (0..).zip(&kicks) {
            poller.add_counter(kick.as_fd(), Token { endpoint: index, source: Source::Queue(queue) })?;
        }
        let places = vec![Places::default(); served.queues.len()];
        let state = State {
            served,
            page: pages.page(index),
            status: 0,
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            queue_select: 0,
            places,
            is_host_watched: false,
        };
        state.show_all();
        Ok(Arc::new(Self {
            index,
            poller: Arc::clone(poller),
            memory: DeviceMemory::new(memory),
            interrupt,
            kicks,
            state: Mutex::new(state),
        }))
    }

    /// Counted up for each kick, a counter a queue.
    pub fn kicks(&self) -> &[OwnedFd] {
        &self.kicks
    }

    /// Runs `f` on the device core, for what the host asks of it outside its queues.
    pub fn with_device<T>(&self, f: impl FnOnce(&mut D) -> T) -> T {
        f(&mut self.lock().served.device)
    }

    fn lock(&self) -> MutexGuard<'_, State<D>> {
        self.state.lock().expect("the process ends at the first panic")
    }

    fn kicked(&self, queue: u16) -> Result<(), EndpointError> {
        let mut state = self.lock();
        if !state.is_running() {
            return Ok(());
        }
        if !state.is_host_watched {
            if let Some(fd) = state.served.device.as_fd() {
                let token = Token { endpoint: self.index, source: Source::Host };
                self.poller.add(fd, token).map_err(DeviceError::Host)?;
            }
            state.is_host_watched = true;
        }
        let interrupts = state.served.process(queue, &self.memory)?;
        self.settle(&mut state, interrupts)
    }

    fn settle(&self, state: &mut State<D>, interrupts: u32) -> Result<(), EndpointError> {
        if state.served.is_broken {
            state.set_status(state.status | VIRTIO_CONFIG_S_NEEDS_RESET);
        }
        if interrupts != 0 {
            self.interrupt.pulse().map_err(DeviceError::Host)?;
        }
        Ok(())
    }

    /// Lets the loop look at every queue.
    fn wake(&self) {
        for kick in &self.kicks {
            count_up(kick);
        }
    }
}

impl<D: Device + 'static> Registers for MmioDevice<D> {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.lock().page.read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut state = self.lock();
        if let Some(offset) = offset.checked_sub(register::VIRTIO_MMIO_CONFIG.into()) {
            state.served.device.write_config(offset, data);
            state.show_config();
            return;
        }
        // Anything but a whole register is nothing, section 4.2.2.2.
        let (Ok(offset), Ok(value)) = (u32::try_from(offset), data.try_into().map(u32::from_le_bytes)) else {
            return;
        };
        let was_running = state.is_running();
        state.write(offset, value, &self.memory);
        if state.is_running() && !was_running {
            // Buffers may have been offered before.
            self.wake();
        }
    }
}

impl<D: Device> State<D> {
    fn is_running(&self) -> bool {
        self.status & (VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FAILED | VIRTIO_CONFIG_S_NEEDS_RESET)
            == VIRTIO_CONFIG_S_DRIVER_OK
    }

    fn write(&mut self, offset: u32, value: u32, memory: &DeviceMemory) {
        let select = self.queue_select as usize;
        let low = |place: &mut u64| *place = *place & !u64::from(u32::MAX) | u64::from(value);
        let high = |place: &mut u64| *place = *place & u64::from(u32::MAX) | u64::from(value) << 32;
        match offset {
            register::VIRTIO_MMIO_DEVICE_FEATURES_SEL => {
                self.device_features_select = value;
                self.show_features();
            }
            register::VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.driver_features_select = value,
            register::VIRTIO_MMIO_DRIVER_FEATURES => match self.driver_features_select {
                0 => low(&mut self.driver_features),
                1 => high(&mut self.driver_features),
                _ => {}
            },
            register::VIRTIO_MMIO_QUEUE_SEL => {
                self.queue_select = value;
                self.show_queue();
            }
            register::VIRTIO_MMIO_STATUS => self.write_status(value),
            _ => {
                let Some(places) = self.places.get_mut(select) else { return };
                match offset {
                    register::VIRTIO_MMIO_QUEUE_NUM => places.size = value,
                    register::VIRTIO_MMIO_QUEUE_DESC_LOW => low(&mut places.descriptors),
                    register::VIRTIO_MMIO_QUEUE_DESC_HIGH => high(&mut places.descriptors),
                    register::VIRTIO_MMIO_QUEUE_AVAIL_LOW => low(&mut places.available),
                    register::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => high(&mut places.available),
                    register::VIRTIO_MMIO_QUEUE_USED_LOW => low(&mut places.used),
                    register::VIRTIO_MMIO_QUEUE_USED_HIGH => high(&mut places.used),
                    register::VIRTIO_MMIO_QUEUE_READY => self.set_ready(select, value == 1, memory),
                    // Kicks and acknowledgements that were not settled by the hypervisor say nothing more.
                    _ => {}
                }
            }
        }
    }

    /// Section 3.1.1 and 2.1.
    fn write_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        let mut status = self.status | value;
        if value & !self.status & VIRTIO_CONFIG_S_FEATURES_OK != 0 {
            let offered = self.served.device.features();
            let wanted = self.driver_features;
            if wanted & !offered == 0 && wanted & 1 << VIRTIO_F_VERSION_1 != 0 {
                self.served.device.acknowledge(wanted);
                let event_idx = wanted & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
                self.served.queues.iter_mut().for_each(|queue| queue.set_event_idx(event_idx));
            } else {
                status &= !VIRTIO_CONFIG_S_FEATURES_OK;
            }
        }
        // A driver that does not keep the order has no device.
        if status & VIRTIO_CONFIG_S_FEATURES_OK == 0 {
            status &= !VIRTIO_CONFIG_S_DRIVER_OK;
        }
        if self.served.is_broken {
            status |= VIRTIO_CONFIG_S_NEEDS_RESET;
        }
        self.set_status(status);
        // Features may have changed what the configuration space shows.
        self.show_config();
    }

    fn reset(&mut self) {
        self.served.queues.iter_mut().for_each(|queue| queue.reset());
        self.served.again = 0;
        self.served.is_broken = false;
        self.served.device.reset();
        self.places.fill(Places::default());
        self.driver_features = 0;
        self.status = 0;
        self.show_all();
    }

    /// Takes a queue into use as the guest has described it, or out of it.
    fn set_ready(&mut self, index: usize, ready: bool, memory: &DeviceMemory) {
        let (queue, places) = (&mut self.served.queues[index], self.places[index]);
        queue.set_ready(false);
        if ready {
            let placed = u16::try_from(places.size).ok().and_then(|size| {
                queue.try_set_size(size).ok()?;
                queue.try_set_desc_table_address(GuestAddress(places.descriptors)).ok()?;
                queue.try_set_avail_ring_address(GuestAddress(places.available)).ok()?;
                queue.try_set_used_ring_address(GuestAddress(places.used)).ok()
            });
            queue.set_ready(true);
            // A guest that chose nonsense breaks its device alone.
            self.served.is_broken |= placed.is_none() || !queue.is_valid(memory);
        }
        self.show_queue();
    }

    fn set_status(&mut self, status: u32) {
        self.status = status;
        self.page.put(register::VIRTIO_MMIO_STATUS, status);
    }

    fn show_all(&self) {
        self.page.put(register::VIRTIO_MMIO_MAGIC_VALUE, MAGIC);
        self.page.put(register::VIRTIO_MMIO_VERSION, VERSION);
        self.page.put(register::VIRTIO_MMIO_DEVICE_ID, self.served.device.virtio_id());
        self.page.put(register::VIRTIO_MMIO_VENDOR_ID, VENDOR);
        // Always "a buffer was used": the only reason for which our devices interrupt. The driver looks at its
        // rings then, and nothing has to be cleared when it acknowledges.
        self.page.put(register::VIRTIO_MMIO_INTERRUPT_STATUS, register::VIRTIO_MMIO_INT_VRING);
        self.page.put(register::VIRTIO_MMIO_SHM_LEN_LOW, NO_SHARED_MEMORY);
        self.page.put(register::VIRTIO_MMIO_SHM_LEN_HIGH, NO_SHARED_MEMORY);
        self.page.put(register::VIRTIO_MMIO_SHM_BASE_LOW, NO_SHARED_MEMORY);
        self.page.put(register::VIRTIO_MMIO_SHM_BASE_HIGH, NO_SHARED_MEMORY);
        self.page.put(register::VIRTIO_MMIO_CONFIG_GENERATION, 0);
        self.page.put(register::VIRTIO_MMIO_STATUS, self.status);
        self.show_features();
        self.show_queue();
        self.show_config();
    }

    fn show_features(&self) {
        let features = self.served.device.features();
        let shown = match self.device_features_select {
            0 => features,
            1 => features >> 32,
            _ => 0,
        };
        self.page.put(register::VIRTIO_MMIO_DEVICE_FEATURES, (shown & u64::from(u32::MAX)) as u32);
    }

    fn show_queue(&self) {
        let queue = self.served.queues.get(self.queue_select as usize);
        let max_size = queue.map_or(0, |queue| queue.max_size().into());
        let ready = queue.is_some_and(|queue| queue.ready());
        self.page.put(register::VIRTIO_MMIO_QUEUE_NUM_MAX, max_size);
        self.page.put(register::VIRTIO_MMIO_QUEUE_READY, ready.into());
    }

    fn show_config(&self) {
        let mut config = [0; CONFIG_BYTES];
        self.served.device.read_config(0, &mut config);
        self.page.put_bytes(register::VIRTIO_MMIO_CONFIG as usize, &config);
    }
}

impl<D: Device + 'static> Endpoint for Arc<MmioDevice<D>> {
    fn ready(&mut self, source: Source) -> Result<(), EndpointError> {
        match source {
            Source::Queue(index) => self.kicked(index),
            Source::Host => {
                let mut state = self.lock();
                let interrupts = state.served.host_ready(&self.memory)?;
                self.settle(&mut state, interrupts)
            }
            Source::Messages => Ok(()),
        }
    }

    fn resume(&mut self) -> Result<bool, EndpointError> {
        let mut state = self.lock();
        for index in state.served.take_again() {
            if state.is_running() {
                let interrupts = state.served.process(index, &self.memory)?;
                self.settle(&mut state, interrupts)?;
            }
        }
        Ok(state.served.again != 0)
    }

    fn has_work(&self) -> bool {
        self.lock().served.again != 0
    }
}
