//! A hostile driver: arbitrary writes to registers, arbitrary memory behind the queues, kicks at any time. For fuzz
//! targets and the test that shares their body; nothing here panics unless the transport or a core does.
#![doc(hidden)]

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FEATURES_OK,
};
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_DEVICE_FEATURES, VIRTIO_MMIO_DEVICE_FEATURES_SEL, VIRTIO_MMIO_DRIVER_FEATURES,
    VIRTIO_MMIO_DRIVER_FEATURES_SEL, VIRTIO_MMIO_QUEUE_AVAIL_LOW, VIRTIO_MMIO_QUEUE_DESC_LOW,
    VIRTIO_MMIO_QUEUE_NUM, VIRTIO_MMIO_QUEUE_READY, VIRTIO_MMIO_QUEUE_SEL, VIRTIO_MMIO_QUEUE_USED_LOW,
    VIRTIO_MMIO_STATUS,
};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

use super::{InterruptLine, MmioDevice, PAGE_BYTES, RegisterPages, Registers, count_up};
use crate::device::console::{Console, SharedLog};
use crate::device::rng::Rng;
use crate::device::{Device, fuzz};
use crate::endpoint::Endpoint;
use crate::poll::Poller;

const MEMORY_BYTES: usize = 1 << 16;
const DEVICES: usize = 6;
/// No device has more queues.
const MAX_QUEUES: u32 = 3;
const QUEUE_SIZE: u32 = 16;
/// What the rings of one queue take.
const RINGS_BYTES: usize = 0x300;
/// Turns of the loop between two things that the driver does; some devices are never idle.
const MAX_TURNS: usize = 8;

/// A device with both of its sides.
struct Both {
    registers: Arc<dyn Registers>,
    endpoint: Box<dyn Endpoint>,
    kicks: Vec<OwnedFd>,
}

/// A line to a guest that does not wait for interrupts.
struct Unheard;

impl InterruptLine for Unheard {
    fn pulse(&self) -> io::Result<()> {
        Ok(())
    }
}

struct Bus {
    memory: GuestMemoryMmap<()>,
    pages: RegisterPages,
    poller: Arc<Poller>,
    devices: Vec<Both>,
}

impl Bus {
    fn attach<D: Device + 'static>(&mut self, core: D) -> io::Result<()> {
        let index = self.devices.len() as u16;
        let device =
            MmioDevice::new(index, core, self.memory.clone(), &self.pages, Box::new(Unheard), &self.poller)?;
        let kicks = device.kicks().iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
        let endpoint = Box::new(Arc::clone(&device));
        self.devices.push(Both { registers: device, endpoint, kicks });
        Ok(())
    }

    /// `false` when a device cannot go on, which ends a machine, cleanly.
    fn turn(&mut self) -> io::Result<bool> {
        let tokens = self.poller.wait(Some(Duration::ZERO))?;
        for token in tokens {
            if self.devices[usize::from(token.endpoint)].endpoint.ready(token.source).is_err() {
                return Ok(false);
            }
        }
        Ok(self.devices.iter_mut().all(|device| device.endpoint.resume().is_ok()))
    }
}

/// One device of each kind on one loop, and a driver that does what `bytes` say.
pub fn fuzz_registers(bytes: &[u8]) {
    // Only a host without descriptors or memory fails here.
    let _ = drive(bytes);
}

/// Sets a device up as a driver does, with all that it offers and the rings of its queues from `base` on.
fn start(registers: &dyn Registers, base: u32) {
    let write = |register: u32, value: u32| registers.write(register.into(), &value.to_le_bytes());
    let initialising = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
    write(VIRTIO_MMIO_STATUS, 0);
    write(VIRTIO_MMIO_STATUS, initialising);
    for half in [0, 1] {
        let mut offered = [0; 4];
        write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, half);
        registers.read(VIRTIO_MMIO_DEVICE_FEATURES.into(), &mut offered);
        write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
        write(VIRTIO_MMIO_DRIVER_FEATURES, u32::from_le_bytes(offered));
    }
    write(VIRTIO_MMIO_STATUS, initialising | VIRTIO_CONFIG_S_FEATURES_OK);
    for (queue, base) in (0..MAX_QUEUES).zip((base..).step_by(RINGS_BYTES)) {
        write(VIRTIO_MMIO_QUEUE_SEL, queue);
        write(VIRTIO_MMIO_QUEUE_NUM, QUEUE_SIZE);
        write(VIRTIO_MMIO_QUEUE_DESC_LOW, base);
        write(VIRTIO_MMIO_QUEUE_AVAIL_LOW, base + 0x100);
        write(VIRTIO_MMIO_QUEUE_USED_LOW, base + 0x200);
        write(VIRTIO_MMIO_QUEUE_READY, 1);
    }
    write(VIRTIO_MMIO_STATUS, initialising | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
}

fn drive(mut bytes: &[u8]) -> io::Result<()> {
    let memory =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).map_err(io::Error::other)?;
    let mut bus = Bus {
        memory,
        pages: RegisterPages::new(DEVICES)?,
        poller: Arc::new(Poller::new()?),
        devices: Vec::new(),
    };
    let (network, _far) = fuzz::network()?;
    bus.attach(fuzz::block()?)?;
    bus.attach(Rng::new())?;
    bus.attach(Console::new(SharedLog::new(256)))?;
    bus.attach(fuzz::balloon()?)?;
    bus.attach(fuzz::vsock()?)?;
    bus.attach(network)?;
    while let [what, a, b, c, rest @ ..] = bytes {
        bytes = rest;
        let device = &bus.devices[usize::from(what >> 3) % DEVICES];
        let (low, high) = (u64::from(u16::from_le_bytes([*a, *b])), u32::from(*c));
        let write = |value: u32| device.registers.write(low & 0xfc, &value.to_le_bytes());
        match what & 7 {
            // A register of the specification, with a small value, a large one, or an address in memory.
            0 => write(high),
            1 => write(high << 24),
            2 => write(high << 8),
            // Anywhere, of any width.
            3 => device.registers.write(low % (2 * PAGE_BYTES as u64), &[*c; 16][..usize::from(c % 17)]),
            4 if high & 1 == 0 => start(device.registers.as_ref(), u32::from(*a) << 8),
            4 => device.registers.read(low, &mut [0; 16][..usize::from(c % 17)]),
            // Where memory ends nothing is written.
            5 => {
                let _ = bus.memory.write_obj(high, GuestAddress(low));
            }
            6 => {
                let len = rest.len().min(usize::from(*c));
                let _ = bus.memory.write_slice(&rest[..len], GuestAddress(low));
            }
            _ => device.kicks.iter().for_each(count_up),
        }
        for _ in 0..MAX_TURNS {
            if !bus.turn()? {
                return Ok(());
            }
        }
    }
    Ok(())
}
