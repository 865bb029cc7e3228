use std::fs::File;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vhost::vhost_user::VhostUserBackendReqHandlerMut;
use vhost::vhost_user::message::{VhostUserMemoryRegion, VhostUserVringAddrFlags};
use virtio_queue::Queue;
use vm_memory::GuestMemory;

use super::*;
use crate::device::{COMMON_FEATURES, DeviceError, Outcome};
use crate::endpoint::Endpoint as _;

const MEMORY_BYTES: u64 = 1 << 20;
/// Where the frontend has the guest's memory.
const FRONTEND: u64 = 0x7f00_0000_0000;

/// A device that counts its kicks, and whose host side wants to be heard.
struct Bell {
    host: UnixStream,
    kicks: usize,
    rings: usize,
}

impl Device for Bell {
    fn virtio_id(&self) -> u32 {
        0
    }
    fn queue_sizes(&self) -> &[u16] {
        &[16]
    }
    fn features(&self) -> u64 {
        COMMON_FEATURES
    }
    fn acknowledge(&mut self, _: u64) {}
    fn read_config(&self, _: u64, _: &mut [u8]) {}
    fn process<M: GuestMemory>(&mut self, _: u16, _: &mut [Queue], _: &M) -> Result<Outcome, DeviceError> {
        self.kicks += 1;
        Ok(Outcome::NONE)
    }
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.host.as_fd())
    }
    fn host_ready<M: GuestMemory>(&mut self, _: &mut [Queue], _: &M) -> Result<Outcome, DeviceError> {
        self.rings += 1;
        let _ = std::io::Read::read(&mut &self.host, &mut [0]);
        Ok(Outcome::NONE)
    }
    fn reset(&mut self) {}
}

struct Rig {
    device: VhostUserDevice<Bell>,
    poller: Arc<Poller>,
    caller: UnixStream,
    _emulator: UnixStream,
}

fn rig() -> Rig {
    let (near, emulator) = UnixStream::pair().unwrap();
    let (caller, host) = UnixStream::pair().unwrap();
    let poller = Arc::new(Poller::new().unwrap());
    let device = VhostUserDevice::new(0, Bell { host, kicks: 0, rings: 0 }, near, &poller).unwrap();
    Rig { device, poller, caller, _emulator: emulator }
}

impl Rig {
    /// One turn of the event loop; how many descriptors were ready.
    fn turn(&mut self) -> usize {
        let tokens = self.poller.wait(Some(Duration::ZERO)).unwrap();
        tokens.iter().for_each(|token| self.device.ready(token.source).unwrap());
        self.device.resume().unwrap();
        tokens.len()
    }

    fn give_memory(&self) {
        let file = File::from(memfd_create(c"test", MemfdFlags::CLOEXEC).unwrap());
        ftruncate(&file, MEMORY_BYTES).unwrap();
        let region = VhostUserMemoryRegion::new(0, MEMORY_BYTES, FRONTEND, 0);
        self.device.lock().set_mem_table(&[region], vec![file], None).unwrap();
    }

    /// What the emulator says when the guest's driver has set up the queue.
    fn start_queue(&self, size: u32, place: u64) {
        let mut rings = self.device.lock();
        let at = FRONTEND + place;
        rings.set_features(COMMON_FEATURES).unwrap();
        rings.set_vring_num(0, size).unwrap();
        rings.set_vring_base(0, 0).unwrap();
        let flags = VhostUserVringAddrFlags::empty();
        rings.set_vring_addr(0, flags, at, at + 0x2000, at + 0x1000, 0).unwrap();
        let kick = File::from(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        rings.set_vring_kick(0, Some(kick)).unwrap();
    }

    fn kicks(&self) -> usize {
        self.device.with_device(|bell| bell.kicks)
    }
}

#[test]
fn a_host_that_is_early_does_not_keep_the_loop_awake() {
    let mut rig = rig();
    std::io::Write::write_all(&mut &rig.caller, &[1]).unwrap();
    assert_eq!(rig.turn(), 0, "nothing can be done before there is memory");
    rig.give_memory();
    assert_eq!(rig.turn(), 1);
    assert_eq!(rig.device.with_device(|bell| bell.rings), 1);
    // The emulator tells of memory anew whenever its map changes.
    rig.give_memory();
    assert_eq!(rig.turn(), 0);
}

#[test]
fn a_queue_that_cannot_be_breaks_its_device_alone_and_until_its_reset() {
    for (size, place) in [(3, 0), (0, 0), (2048, 0), (16, MEMORY_BYTES), (16, MEMORY_BYTES - 0x1000)] {
        let mut rig = rig();
        rig.give_memory();
        rig.start_queue(size, place);
        rig.turn();
        assert_eq!(rig.kicks(), 0, "size {size} at {place:#x}");
        rig.device.lock().get_vring_base(0).unwrap();
        rig.start_queue(16, 0x1000);
        rig.turn();
        assert_eq!(rig.kicks(), 1, "size {size} at {place:#x}");
    }
}
