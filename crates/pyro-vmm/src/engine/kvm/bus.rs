//! Where the guest's accesses to ports and to device memory go. Shared by all vCPUs without a lock of its own.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use rustix::event::{EventfdFlags, eventfd};
use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

use super::layout;
use super::vcpu::Stop;
use crate::device::console::SharedLog;
use crate::virtio_mmio::Registers;

/// What a read finds where nothing is.
const NOTHING: u8 = 0xff;

/// All that a guest reaches by addresses.
pub(crate) struct Bus {
    /// In the order of their pages, from [`layout::DEVICES_START`] on.
    devices: Vec<Arc<dyn Registers>>,
    serial: SerialPort,
}

impl Bus {
    /// A bus with these devices and a serial console that writes to `log`.
    pub(crate) fn new(devices: Vec<Arc<dyn Registers>>, log: SharedLog) -> io::Result<Self> {
        Ok(Self { devices, serial: SerialPort::new(log)? })
    }

    /// Counts up for each interrupt of the serial console.
    pub(crate) fn serial_interrupt(&self) -> BorrowedFd<'_> {
        self.serial.interrupt.as_fd()
    }

    pub(crate) fn read_memory(&self, address: u64, data: &mut [u8]) {
        match self.device(address) {
            Some((device, offset)) => device.read(offset, data),
            None => data.fill(NOTHING),
        }
    }

    pub(crate) fn write_memory(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.device(address) {
            device.write(offset, data);
        }
    }

    /// Accesses wider than a byte are none of our ports'; their first byte is.
    pub(crate) fn read_port(&self, port: u16, data: &mut [u8]) {
        data.fill(NOTHING);
        let Some(first) = data.first_mut() else { return };
        match (serial_offset(port), port) {
            (Some(offset), _) => *first = self.serial.read(offset),
            (None, layout::SLEEP_CONTROL_PORT | layout::SLEEP_STATUS_PORT | layout::RESET_PORT) => *first = 0,
            _ => {}
        }
    }

    /// Tells when the write ends the machine.
    pub(crate) fn write_port(&self, port: u16, data: &[u8]) -> Option<Stop> {
        let value = *data.first()?;
        match (serial_offset(port), port) {
            // Repeated output comes as one access.
            (Some(offset), _) => data.iter().for_each(|value| self.serial.write(offset, *value)),
            (None, layout::SLEEP_CONTROL_PORT) if value == layout::POWER_OFF_VALUE => {
                return Some(Stop::PoweredOff);
            }
            (None, layout::RESET_PORT) if value == layout::RESET_VALUE => return Some(Stop::Reset),
            _ => {}
        }
        None
    }

    fn device(&self, address: u64) -> Option<(&dyn Registers, u64)> {
        let offset = address.checked_sub(layout::DEVICES_START)?;
        let device = self.devices.get(usize::try_from(offset / layout::DEVICE_BYTES).ok()?)?;
        Some((device.as_ref(), offset % layout::DEVICE_BYTES))
    }
}

fn serial_offset(port: u16) -> Option<u8> {
    let offset = u8::try_from(port.checked_sub(layout::SERIAL_PORT)?).ok()?;
    (offset < layout::SERIAL_PORTS).then_some(offset)
}

/// A 16550 whose other end is a bounded log.
struct SerialPort {
    interrupt: OwnedFd,
    uart: Mutex<Serial<Line, NoEvents, Output>>,
}

impl SerialPort {
    fn new(log: SharedLog) -> io::Result<Self> {
        let interrupt = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let line = Line(interrupt.try_clone()?);
        Ok(Self { interrupt, uart: Mutex::new(Serial::new(line, Output(log))) })
    }

    fn read(&self, offset: u8) -> u8 {
        self.lock().read(offset)
    }

    fn write(&self, offset: u8, value: u8) {
        // Neither the log nor the counter refuses anything.
        let _ = self.lock().write(offset, value);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Serial<Line, NoEvents, Output>> {
        self.uart.lock().expect("the process ends at the first panic")
    }
}

/// The port's interrupt line.
struct Line(OwnedFd);

impl Trigger for Line {
    type E = std::convert::Infallible;

    fn trigger(&self) -> Result<(), Self::E> {
        // A full counter means that an interrupt is pending already.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
        Ok(())
    }
}

struct Output(SharedLog);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo;

    impl Registers for Echo {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }
        fn write(&self, _: u64, _: &[u8]) {}
    }

    fn bus(log: &SharedLog) -> Bus {
        Bus::new(vec![Arc::new(Echo), Arc::new(Echo)], log.clone()).unwrap()
    }

    #[test]
    fn memory_belongs_to_the_device_on_its_page() {
        let bus = bus(&SharedLog::new(16));
        let read = |address| {
            let mut data = [0; 4];
            bus.read_memory(address, &mut data);
            data[0]
        };
        assert_eq!(read(layout::device_address(1) + 0x70), 0x70);
        assert_eq!(read(layout::device_address(2)), NOTHING);
        assert_eq!(read(0), NOTHING);
        assert_eq!(read(u64::MAX), NOTHING);
    }

    #[test]
    fn the_power_registers_end_the_machine_by_their_values_alone() {
        let bus = bus(&SharedLog::new(16));
        assert_eq!(bus.write_port(layout::SLEEP_CONTROL_PORT, &[0]), None);
        assert_eq!(
            bus.write_port(layout::SLEEP_CONTROL_PORT, &[layout::POWER_OFF_VALUE]),
            Some(Stop::PoweredOff)
        );
        assert_eq!(bus.write_port(layout::RESET_PORT, &[layout::RESET_VALUE]), Some(Stop::Reset));
        assert_eq!(bus.write_port(0x80, &[1]), None);
        assert_eq!(bus.write_port(0x80, &[]), None);
    }

    #[test]
    fn what_is_written_to_the_serial_port_is_in_the_log() {
        let log = SharedLog::new(16);
        let bus = bus(&log);
        bus.write_port(layout::SERIAL_PORT, b"he");
        for byte in b"llo" {
            bus.write_port(layout::SERIAL_PORT, &[*byte]);
        }
        assert_eq!(log.lock().tail(16), b"hello");
        let mut status = [0];
        bus.read_port(layout::SERIAL_PORT + 5, &mut status);
        // Transmitter empty, so that the guest goes on.
        assert_eq!(status[0] & 0x60, 0x60);
    }
}
