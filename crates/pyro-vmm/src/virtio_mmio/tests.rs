//! Registers, as a driver uses and misuses them.

use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::virtio_config::{VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER};

use super::*;
use crate::device::COMMON_FEATURES;
use crate::device::rng::Rng;
use crate::device::testing::{Driver, Memory, Piece, memory};

const RINGS: u64 = 0x1_0000;
const BUFFER: u64 = 0x4_0000;

struct Bench {
    memory: Memory,
    poller: Arc<Poller>,
    device: Arc<MmioDevice<Rng>>,
    interrupts: Arc<AtomicU32>,
}

impl InterruptLine for Arc<AtomicU32> {
    fn pulse(&self) -> io::Result<()> {
        self.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl Bench {
    fn new() -> Self {
        let memory = memory(1 << 20);
        let poller = Arc::new(Poller::new().unwrap());
        let pages = RegisterPages::new(2).unwrap();
        let interrupts = Arc::new(AtomicU32::new(0));
        let line = Box::new(Arc::clone(&interrupts));
        let device = MmioDevice::new(1, Rng::new(), memory.clone(), &pages, line, &poller).unwrap();
        Self { memory, poller, device, interrupts }
    }

    fn read(&self, register: u32) -> u32 {
        let mut value = [0; 4];
        self.device.read(register.into(), &mut value);
        u32::from_le_bytes(value)
    }

    fn write(&self, register: u32, value: u32) {
        self.device.write(register.into(), &value.to_le_bytes());
    }

    fn negotiate(&self, features: u64) {
        self.write(register::VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
        for (select, half) in [(0, features), (1, features >> 32)] {
            self.write(register::VIRTIO_MMIO_DRIVER_FEATURES_SEL, select);
            self.write(register::VIRTIO_MMIO_DRIVER_FEATURES, half as u32);
        }
        self.write(register::VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_FEATURES_OK);
    }

    fn place_queue(&self, base: u64) {
        // Where the tests' driver has them.
        let (driver, _) = Driver::new(base, 16);
        self.write(register::VIRTIO_MMIO_QUEUE_SEL, 0);
        self.write(register::VIRTIO_MMIO_QUEUE_NUM, 16);
        self.write(register::VIRTIO_MMIO_QUEUE_DESC_LOW, base as u32);
        self.write(register::VIRTIO_MMIO_QUEUE_AVAIL_LOW, driver.avail() as u32);
        self.write(register::VIRTIO_MMIO_QUEUE_USED_LOW, driver.used() as u32);
        self.write(register::VIRTIO_MMIO_QUEUE_READY, 1);
    }

    fn run(&self) {
        self.negotiate(COMMON_FEATURES);
        self.place_queue(RINGS);
        self.write(register::VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_DRIVER_OK);
    }

    /// Serves what the loop has been told of; whether it was told anything.
    fn turn(&self) -> bool {
        let tokens = self.poller.wait(Some(std::time::Duration::ZERO)).unwrap();
        let mut device = Arc::clone(&self.device);
        tokens.iter().for_each(|token| device.ready(token.source).unwrap());
        !tokens.is_empty()
    }

    fn was_interrupted(&self) -> bool {
        self.interrupts.swap(0, Ordering::Relaxed) != 0
    }
}

#[test]
fn a_driver_finds_the_device_sets_it_up_and_is_served() {
    let bench = Bench::new();
    assert_eq!(bench.read(register::VIRTIO_MMIO_MAGIC_VALUE), MAGIC);
    assert_eq!(bench.read(register::VIRTIO_MMIO_VERSION), 2);
    assert_eq!(bench.read(register::VIRTIO_MMIO_DEVICE_ID), 4);
    assert_eq!(bench.read(register::VIRTIO_MMIO_QUEUE_NUM_MAX), 16);
    bench.write(register::VIRTIO_MMIO_QUEUE_SEL, 1);
    assert_eq!(bench.read(register::VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
    bench.write(register::VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
    assert_eq!(bench.read(register::VIRTIO_MMIO_DEVICE_FEATURES), 1);
    let (mut driver, _) = Driver::new(RINGS, 16);
    bench.run();
    assert_eq!(bench.read(register::VIRTIO_MMIO_QUEUE_READY), 1);
    assert_eq!(bench.read(register::VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
    assert!(bench.turn(), "buffers may wait when a device begins");
    driver.add(&bench.memory, &[Piece::Write(BUFFER, 64)]);
    count_up(&bench.device.kicks()[0]);
    assert!(bench.turn() && bench.was_interrupted());
    assert!(driver.take_used(&bench.memory).is_some());
    assert!(!bench.turn() && !bench.was_interrupted());
}

#[test]
fn features_that_were_not_offered_or_lack_version_1_are_refused() {
    for features in [COMMON_FEATURES | 1 << 40, COMMON_FEATURES & u64::from(u32::MAX), 0] {
        let bench = Bench::new();
        bench.negotiate(features);
        assert_eq!(bench.read(register::VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_FEATURES_OK, 0);
        // And so the device does not start.
        bench.write(register::VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_DRIVER_OK);
        assert_eq!(bench.read(register::VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_DRIVER_OK, 0);
    }
}

#[test]
fn nonsense_breaks_the_device_until_its_reset() {
    for base in [3, 0xffff_f000] {
        let bench = Bench::new();
        bench.negotiate(COMMON_FEATURES);
        bench.place_queue(base);
        bench.write(register::VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_DRIVER_OK);
        assert_ne!(bench.read(register::VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
        count_up(&bench.device.kicks()[0]);
        bench.turn();
        assert!(!bench.was_interrupted());
        bench.write(register::VIRTIO_MMIO_STATUS, 0);
        assert_eq!(bench.read(register::VIRTIO_MMIO_STATUS), 0);
        bench.run();
        assert_eq!(bench.read(register::VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
    }
}

#[test]
fn what_is_no_whole_register_changes_nothing() {
    let bench = Bench::new();
    for data in [&[0xff][..], &[0xff; 2], &[0xff; 8], &[]] {
        bench.device.write(register::VIRTIO_MMIO_STATUS.into(), data);
    }
    bench.device.write(u64::MAX, &[0xff; 4]);
    assert_eq!(bench.read(register::VIRTIO_MMIO_STATUS), 0);
    let mut beyond = [1; 8];
    bench.device.read(PAGE_BYTES as u64 - 2, &mut beyond);
    bench.device.read(u64::MAX, &mut beyond);
    assert_eq!(beyond, [0; 8]);
}

proptest::proptest! {
    #[test]
    fn no_driver_takes_the_device_down(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..2048)) {
        fuzz::fuzz_registers(&bytes);
    }
}
