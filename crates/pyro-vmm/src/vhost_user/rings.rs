//! One device's queues and guest memory, as the frontend's messages set them up.

use crate::device::memory::DeviceMemory;
use crate::device::queued::QueuedDevice;
use crate::device::{Device, DeviceError, Outcome};
use crate::limits::{MAX_MEMORY_REGIONS, MAX_QUEUE_SIZE};
use crate::poll::{Poller, Source, Token};
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVirtioFeatures, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

/// Configuration space read at once: more than any device of ours has.
const MAX_CONFIG_BYTES: u32 = 256;

/// A region's place in the frontend's address space, in which queue addresses arrive.
struct Mapping {
    frontend: u64,
    len: u64,
    guest: u64,
}

/// A queue's descriptors.
#[derive(Default)]
struct Ring {
    kick: Option<File>,
    call: Option<File>,
    enabled: bool,
    /// Where the frontend has stopped it.
    stopped_at: u16,
}

pub(super) struct Rings<D: Device> {
    pub(super) served: QueuedDevice<D>,
    endpoint: u16,
    poller: Arc<Poller>,
    memory: Option<DeviceMemory>,
    mappings: Vec<Mapping>,
    rings: Vec<Ring>,
    features: u64,
}

impl<D: Device> Rings<D> {
    pub(super) fn new(endpoint: u16, device: D, poller: Arc<Poller>) -> Self {
        // The emulator chooses sizes of its own, so a core's are not the limit here.
        let served = QueuedDevice::new(device, |wanted| wanted.max(MAX_QUEUE_SIZE));
        let rings = served.queues.iter().map(|_| Ring::default()).collect();
        Self { served, endpoint, poller, memory: None, mappings: Vec::new(), rings, features: 0 }
    }

    /// Whether the frontend has set features since the device was reset.
    pub(super) fn has_features(&self) -> bool {
        self.features != 0
    }

    pub(super) fn kicked(&mut self, index: u16) -> std::result::Result<(), DeviceError> {
        if let Some(kick) = self.rings.get(usize::from(index)).and_then(|ring| ring.kick.as_ref()) {
            // An eventfd: reading takes all kicks so far. Empty is fine, the queue is looked at anyway.
            let _ = rustix::io::read(kick, &mut [0; 8]);
        }
        self.process(index)
    }

    pub(super) fn host_ready(&mut self) -> std::result::Result<(), DeviceError> {
        let Some(memory) = &self.memory else { return Ok(()) };
        let interrupts = self.served.host_ready(memory)?;
        self.interrupt_all(interrupts);
        Ok(())
    }

    pub(super) fn resume(&mut self) -> std::result::Result<(), DeviceError> {
        self.served.take_again().try_for_each(|index| self.process(index))
    }

    fn process(&mut self, index: u16) -> std::result::Result<(), DeviceError> {
        let runs = self.rings.get(usize::from(index)).is_some_and(|ring| ring.enabled && ring.kick.is_some());
        let Some(memory) = self.memory.as_ref().filter(|_| runs) else { return Ok(()) };
        let interrupts = self.served.process(index, memory)?;
        self.interrupt_all(interrupts);
        Ok(())
    }

    fn interrupt_all(&self, interrupt: u32) {
        Outcome { interrupt, again: 0 }.interrupts().for_each(|index| self.interrupt(index));
    }

    fn interrupt(&self, index: u16) {
        if let Some(call) = self.rings.get(usize::from(index)).and_then(|ring| ring.call.as_ref()) {
            // A full counter means that an interrupt is pending already.
            let _ = rustix::io::write(call, &1u64.to_ne_bytes());
        }
    }

    fn queue(&mut self, index: u32) -> Result<(usize, &mut Queue)> {
        let index = index as usize;
        let queue = self.served.queues.get_mut(index).ok_or(Error::InvalidParam)?;
        Ok((index, queue))
    }

    /// From the frontend's address space to the guest's.
    fn guest_address(&self, frontend: u64) -> Option<GuestAddress> {
        let mapping = self
            .mappings
            .iter()
            .find(|mapping| frontend >= mapping.frontend && frontend - mapping.frontend < mapping.len)?;
        mapping.guest.checked_add(frontend - mapping.frontend).map(GuestAddress)
    }

    fn forget_kick(&mut self, index: usize) {
        if let Some(kick) = self.rings[index].kick.take() {
            // It is watched exactly when it is kept; a failure would mean that it is closed already.
            let _ = self.poller.remove(kick.as_fd());
        }
    }

    fn stop_all(&mut self) {
        for index in 0..self.served.queues.len() {
            self.forget_kick(index);
            self.rings[index] = Ring::default();
            self.served.queues[index].reset();
        }
        self.served.again = 0;
        self.served.is_broken = false;
        self.served.device.reset();
    }
}

/// Puts a queue's descriptors, available and used ring where the guest wants them; `None` when they cannot
/// be there.
fn place_rings(
    queue: &mut Queue,
    memory: &DeviceMemory,
    [descriptors, available, used]: [Option<GuestAddress>; 3],
) -> Option<()> {
    queue.try_set_desc_table_address(descriptors?).ok()?;
    queue.try_set_avail_ring_address(available?).ok()?;
    queue.try_set_used_ring_address(used?).ok()?;
    // The used index lives in guest memory alone; after a reconnection it does not start at zero.
    let next_used = queue.used_idx(memory, std::sync::atomic::Ordering::Acquire).ok()?;
    queue.set_next_used(next_used.0);
    Some(())
}

/// What the devices are asked for and do not have.
fn unsupported<T>() -> Result<T> {
    Err(Error::InvalidOperation("not offered"))
}

impl<D: Device> VhostUserBackendReqHandlerMut for Rings<D> {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.stop_all();
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        self.stop_all();
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.served.device.features() | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits())
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        let offered = self.get_features()?;
        if features & !offered != 0 {
            return Err(Error::InvalidParam);
        }
        self.features = features;
        self.served.device.acknowledge(features & self.served.device.features());
        let event_idx = features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0;
        self.served.queues.iter_mut().for_each(|queue| queue.set_event_idx(event_idx));
        // Without the protocol's enable message a ring runs as soon as it is kicked.
        if features & VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits() == 0 {
            self.rings.iter_mut().for_each(|ring| ring.enabled = true);
        }
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        if regions.len() > MAX_MEMORY_REGIONS || regions.len() != files.len() {
            return Err(Error::InvalidParam);
        }
        let mut mapped = Vec::with_capacity(regions.len());
        let mut mappings = Vec::with_capacity(regions.len());
        for (region, file) in regions.iter().zip(files) {
            let len = usize::try_from(region.memory_size).map_err(|_| Error::InvalidParam)?;
            let mapping = MmapRegion::from_file(FileOffset::new(file, region.mmap_offset), len)
                .map_err(|_| Error::InvalidParam)?;
            let guest = GuestAddress(region.guest_phys_addr);
            mapped.push(GuestRegionMmap::new(mapping, guest).ok_or(Error::InvalidParam)?);
            mappings.push(Mapping { frontend: region.user_addr, len: region.memory_size, guest: guest.0 });
        }
        let memory = GuestMemoryMmap::from_regions(mapped).map_err(|_| Error::InvalidParam)?;
        // Before there is memory the host's side cannot be served, and would only wake the loop without end.
        if self.memory.is_none()
            && let Some(fd) = self.served.device.as_fd()
        {
            let token = Token { endpoint: self.endpoint, source: Source::Host };
            self.poller.add(fd, token).map_err(Error::ReqHandlerError)?;
        }
        self.memory = Some(DeviceMemory::new(memory));
        self.mappings = mappings;
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let size = u16::try_from(num).map_err(|_| Error::InvalidParam)?;
        let set = self.queue(index)?.1.try_set_size(size);
        // The emulator passes on what the guest chose, and a guest that chose nonsense breaks its device alone.
        self.served.is_broken |= set.is_err();
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> Result<()> {
        let memory = self.memory.clone().ok_or(Error::InvalidParam)?;
        let places = [descriptor, available, used].map(|address| self.guest_address(address));
        let (_, queue) = self.queue(index)?;
        let set = place_rings(queue, &memory, places);
        self.served.is_broken |= set.is_none();
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let base = u16::try_from(base).map_err(|_| Error::InvalidParam)?;
        let (at, queue) = self.queue(index)?;
        queue.set_next_avail(base);
        // The frontend stops rings to pause the machine, and goes on where they were; or because the guest resets the
        // device, and begins anew. Only now it is known which it was.
        let was_reset = base == 0 && std::mem::take(&mut self.rings[at].stopped_at) != 0;
        if was_reset {
            self.served.device.reset();
        }
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let (at, queue) = self.queue(index)?;
        let base = queue.next_avail();
        queue.set_ready(false);
        self.forget_kick(at);
        self.rings[at].call = None;
        self.served.again &= !(1 << at);
        self.rings[at].stopped_at = base;
        if self.rings.iter().all(|ring| ring.kick.is_none()) {
            self.served.is_broken = false;
        }
        Ok(VhostUserVringState::new(index, base.into()))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let (at, queue) = self.queue(index.into())?;
        queue.set_ready(true);
        self.forget_kick(at);
        let kick = fd.ok_or(Error::InvalidParam)?;
        rustix::io::ioctl_fionbio(&kick, true).map_err(|error| Error::ReqHandlerError(error.into()))?;
        let token = Token { endpoint: self.endpoint, source: Source::Queue(index.into()) };
        self.poller.add(kick.as_fd(), token).map_err(Error::ReqHandlerError)?;
        self.rings[at].kick = Some(kick);
        // Buffers may have been offered before the kick descriptor came.
        self.served.again |= 1 << at;
        Ok(())
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let (at, _) = self.queue(index.into())?;
        self.rings[at].call = fd;
        Ok(())
    }

    fn set_vring_err(&mut self, _index: u8, _fd: Option<File>) -> Result<()> {
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        // No acknowledgements: messages come in order without them, and a ring is looked at when it is enabled.
        // QEMU would wait for one to a message that comes before there are features.
        Ok(VhostUserProtocolFeatures::CONFIG | VhostUserProtocolFeatures::MQ)
    }

    fn set_protocol_features(&mut self, _features: u64) -> Result<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.served.queues.len() as u64)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        let (at, _) = self.queue(index)?;
        self.rings[at].enabled = enable;
        self.served.again |= u32::from(enable) << at;
        Ok(())
    }

    fn get_config(&mut self, offset: u32, size: u32, _flags: VhostUserConfigFlags) -> Result<Vec<u8>> {
        if size > MAX_CONFIG_BYTES {
            return Err(Error::InvalidParam);
        }
        let mut data = vec![0; size as usize];
        self.served.device.read_config(offset.into(), &mut data);
        Ok(data)
    }

    fn set_config(&mut self, offset: u32, data: &[u8], _flags: VhostUserConfigFlags) -> Result<()> {
        self.served.device.write_config(offset.into(), data);
        Ok(())
    }

    fn set_gpu_socket(&mut self, _gpu: GpuBackend) -> Result<()> {
        unsupported()
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> Result<File> {
        unsupported()
    }

    fn get_inflight_fd(&mut self, _inflight: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        unsupported()
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> Result<()> {
        unsupported()
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(MAX_MEMORY_REGIONS as u64)
    }

    fn add_mem_region(
        &mut self,
        _region: &VhostUserSingleMemoryRegion,
        _fd: File,
        _postcopy_listening: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        unsupported()
    }

    fn remove_mem_region(&mut self, _region: &VhostUserSingleMemoryRegion) -> Result<()> {
        unsupported()
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _fd: File,
    ) -> Result<Option<File>> {
        unsupported()
    }

    fn check_device_state(&mut self) -> Result<()> {
        unsupported()
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        unsupported()
    }

    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> Result<()> {
        unsupported()
    }
}
