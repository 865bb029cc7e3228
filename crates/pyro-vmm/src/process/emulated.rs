//! A machine whose vCPUs are QEMU's: its devices over vhost-user, its words over a monitor.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use super::console::ConsoleReader;
use super::emulator::EngineProcess;
use super::engine::{Engine, Remains, Word};
use super::serve::{Devices, endpoint};
use super::{Cores, Descriptors, SetupError};
use crate::engine::emulated::{self, Emulator, Monitor, MonitorEvent, Shape, Wish};
use crate::jail::Jail;
use crate::limits;
use crate::poll::{Poller, Source, Token};
use crate::protocol::Config;
use crate::vhost_user::VhostUserDevice;

/// The engine of such a machine.
pub(super) struct Emulated {
    monitor: Monitor,
    console: ConsoleReader,
    process: EngineProcess,
    poller: Arc<Poller>,
}

/// Starts QEMU, confined, on what the host gave.
pub(super) fn start(
    qemu: &str,
    config: &Config,
    files: &Descriptors,
    jail: &mut Jail,
) -> Result<Emulator, SetupError> {
    let shape = Shape {
        vcpu_count: config.vcpu_count,
        mem_mib: config.mem_mib,
        boot_args: &config.boot_args,
        network: config.network,
        kernel: &files.kernel,
        initramfs: &files.initramfs,
    };
    let readable = [files.kernel.as_fd(), files.initramfs.as_fd()];
    let emulator = emulated::start(qemu.as_ref(), &shape, |command| {
        jail.confine_engine(command, qemu.as_ref(), &readable);
    })
    .map_err(|source| SetupError::Engine { program: qemu.to_owned(), source })?;
    jail.watch_engine(emulator.pidfd.as_fd());
    Ok(emulator)
}

/// Serves the cores to it, and puts every descriptor on the event loop.
pub(super) fn attach(
    emulator: Emulator,
    cores: Cores,
    poller: &Arc<Poller>,
) -> Result<(Devices, Emulated), SetupError> {
    let sockets = emulator.sockets;
    let block = VhostUserDevice::new(endpoint::BLOCK, cores.block, sockets.block, poller)?;
    let rng = VhostUserDevice::new(endpoint::RNG, cores.rng, sockets.rng, poller)?;
    let vsock = VhostUserDevice::new(endpoint::VSOCK, cores.vsock, sockets.vsock, poller)?;
    let connected = match sockets.network {
        Some(rendezvous) => rendezvous.accept(emulator.pidfd.as_fd(), limits::ENGINE_START)?,
        None => None,
    };
    // An emulator that has ended says why in a moment.
    let network = cores.network.zip(connected);
    let network = network
        .map(|(core, socket)| VhostUserDevice::new(endpoint::NETWORK, core, socket, poller))
        .transpose()?;
    let mut devices = Devices::new(block);
    devices.add(rng);
    devices.add(vsock);
    if let Some(network) = network {
        devices.add(network);
    }
    let engine = Emulated {
        monitor: Monitor::open(sockets.monitor)?,
        console: ConsoleReader::new(sockets.console)?,
        process: EngineProcess::new(emulator.process, emulator.pidfd, emulator.stderr)?,
        poller: Arc::clone(poller),
    };
    let watch = |fd, endpoint| poller.add(fd, Token { endpoint, source: Source::Messages });
    watch(engine.monitor.as_fd(), endpoint::MONITOR)?;
    watch(engine.console.as_fd(), endpoint::CONSOLE)?;
    watch(engine.process.as_fd(), endpoint::ENGINE)?;
    watch(engine.process.output_fd(), endpoint::ENGINE_OUTPUT)?;
    Ok((devices, engine))
}

impl Engine for Emulated {
    fn start(&mut self) -> Option<Word> {
        // It has been on its way since its process began, and says when it is there.
        None
    }

    fn pause(&mut self) -> io::Result<Option<Word>> {
        self.monitor.ask(Wish::Pause)?;
        Ok(None)
    }

    fn resume(&mut self) -> io::Result<Option<Word>> {
        self.monitor.ask(Wish::Resume)?;
        Ok(None)
    }

    fn hear(&mut self, endpoint: u16) -> io::Result<Option<Word>> {
        match endpoint {
            endpoint::MONITOR => Ok(match self.monitor.read() {
                Ok(None) => None,
                Ok(Some(MonitorEvent::Ready { version })) => Some(Word::Started {
                    name: format!("emulated (QEMU {version})"),
                    pid: self.process.pid(),
                }),
                Ok(Some(MonitorEvent::Done(Wish::Pause))) => Some(Word::Paused),
                Ok(Some(MonitorEvent::Done(Wish::Resume))) => Some(Word::Resumed),
                Ok(Some(MonitorEvent::PoweredOff)) => Some(Word::PoweredOff),
                Ok(Some(MonitorEvent::Reset)) => Some(Word::Reset),
                Ok(Some(MonitorEvent::Ended)) | Err(_) => Some(Word::Gone),
            }),
            endpoint::CONSOLE => {
                if self.console.read().is_err() {
                    self.poller.remove(self.console.as_fd())?;
                }
                Ok(None)
            }
            endpoint::ENGINE_OUTPUT => {
                if !self.process.read_output() {
                    self.poller.remove(self.process.output_fd())?;
                }
                Ok(None)
            }
            endpoint::ENGINE => Ok(Some(Word::Gone)),
            _ => Ok(None),
        }
    }

    fn console_tail(&self) -> Vec<u8> {
        self.console.tail()
    }

    fn end(&mut self, patience: Duration) -> Remains {
        let status = self.process.end(patience);
        // What the guest wrote last may still be on its way; the engine is dead, so it has an end.
        while self.console.read().is_ok_and(|more| more) {}
        Remains { status, output: self.process.output() }
    }
}
