//! The jailed process: an order in, devices served, events out, until the machine ends.
//!
//! ```text
//! ordered -> confined -> engine started -> devices attached -> jail closed -> serving -> ended
//! ```
//! One thread, one epoll. Whatever happens, one `Exited` event is the last thing it says; where it cannot
//! say it, the host makes it up from the way the process ended.

mod console;
mod engine;
mod host_ports;
mod serve;
mod sys;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;

use rustix::net::{RecvFlags, SendFlags};

use crate::block::{Durability, Layers, OpenError, Overlay};
use crate::device::blk::Blk;
use crate::device::net::Net;
use crate::device::rng::Rng;
use crate::device::vsock::Vsock;
use crate::engine::emulated::{self, Emulator, Monitor, Shape};
use crate::jail::{self, Jail, JailError};
use crate::limits;
use crate::poll::{Poller, Source, Token};
use crate::protocol::{
    Config, ConfigError, EngineConfig, Event, ExitReason, NetworkConfig, Order, Started, fds,
};
use crate::vhost_user::VhostUserDevice;
use console::ConsoleReader;
use engine::EngineProcess;
use host_ports::HostPorts;
use serve::{Devices, Serving, endpoint};

/// What the block device says its serial number is.
const DISK_ID: &str = "pyro-root";

/// Why a machine does not start.
#[derive(Debug, thiserror::Error)]
enum SetupError {
    #[error("the order is not valid: {0}")]
    Order(#[from] ConfigError),
    #[error("descriptor {0} was not given")]
    Descriptor(i32),
    #[error("cannot execute the engine {program}: {source}")]
    Engine { program: String, source: io::Error },
    #[error("cannot use the disk: {0}")]
    Disk(#[from] OpenError),
    #[error("cannot close the jail: {0}")]
    Jail(#[from] JailError),
    #[error("cannot set up the devices: {0}")]
    Devices(#[from] io::Error),
}

/// Runs one machine on the inherited descriptors.
pub fn main() -> ExitCode {
    let Some(control) = sys::take_inherited(fds::CONTROL) else { return ExitCode::FAILURE };
    let order = receive_order(control.as_fd());
    // The order tells how many descriptors are meant; nothing here has opened one of its own so far.
    jail::close_undeclared(match &order {
        Ok(Some(Order::Run(config))) => fds::first_free(config),
        Ok(_) | Err(_) => fds::FIRST_FREE_WITHOUT_MACHINE,
    });
    report_panics(&control);
    let event = match order.and_then(|order| order.map_or(Ok(None), |order| carry_out(order, &control))) {
        Ok(Some(event)) => event,
        // The host is gone: nobody is left to be told.
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            exited(ExitReason::StartFailed { message: error.to_string(), engine_output: String::new() })
        }
    };
    match send_event(control.as_fd(), &event) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn receive_order(control: BorrowedFd<'_>) -> Result<Option<Order>, SetupError> {
    let bytes = receive(control)?;
    Ok(bytes.map(|bytes| Order::parse(&bytes)).transpose()?)
}

fn carry_out(order: Order, control: &OwnedFd) -> Result<Option<Event>, SetupError> {
    match order {
        Order::Run(config) => Ok(set_up(control, &config)?.run(control)),
        Order::Probe { host_namespaces, seccomp, attempt } => {
            let mut jail = Jail::prepare(host_namespaces, seccomp)?;
            jail.close()?;
            let started = Started { engine: "none".into(), engine_pid: 0, jail: jail.report() };
            // A host that does not listen also does not care.
            let _ = send_event(control.as_fd(), &Event::Started(started));
            if let Some(attempt) = attempt {
                attempt.carry_out();
            }
            Ok(Some(exited(ExitReason::PoweredOff)))
        }
    }
}

fn exited(reason: ExitReason) -> Event {
    Event::Exited { reason, console_tail: Vec::new() }
}

/// A panic is a bug, but the host shall hear of it rather than of a dead process.
fn report_panics(control: &OwnedFd) {
    let Ok(control) = control.try_clone() else { return };
    std::panic::set_hook(Box::new(move |panic| {
        let event = exited(ExitReason::VmmFailed { message: panic.to_string() });
        let _ = send_event(control.as_fd(), &event);
    }));
}

fn send_event(control: BorrowedFd<'_>, event: &Event) -> io::Result<()> {
    let bytes = serde_json::to_vec(event)?;
    rustix::net::send(control, &bytes, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next datagram; `None` when the host has closed its end.
fn receive(control: BorrowedFd<'_>) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; limits::MAX_CONFIG_BYTES];
    match rustix::io::retry_on_intr(|| rustix::net::recv(control, &mut bytes[..], RecvFlags::empty())) {
        Ok((0, _)) | Err(rustix::io::Errno::CONNRESET) => Ok(None),
        Ok((len, _)) => {
            bytes.truncate(len);
            Ok(Some(bytes))
        }
        Err(errno) => Err(errno.into()),
    }
}

struct Descriptors {
    channel: OwnedFd,
    kernel: File,
    initramfs: File,
    disk: DiskFiles,
    network: Option<OwnedFd>,
}

struct DiskFiles {
    base: File,
    sealed: Vec<File>,
    delta: File,
}

impl Descriptors {
    fn take(config: &Config) -> Result<Self, SetupError> {
        let sealed_layers = config.sealed_layers;
        let take = |number| sys::take_inherited(number).ok_or(SetupError::Descriptor(number));
        Ok(Self {
            channel: take(fds::CHANNEL)?,
            kernel: take(fds::KERNEL)?.into(),
            initramfs: take(fds::INITRAMFS)?.into(),
            disk: DiskFiles {
                base: take(fds::DISK_BASE)?.into(),
                sealed: fds::sealed(sealed_layers)
                    .map(|number| take(number).map(File::from))
                    .collect::<Result<_, _>>()?,
                delta: take(fds::DISK_DELTA)?.into(),
            },
            network: config.network.map(|_| take(fds::network(sealed_layers))).transpose()?,
        })
    }
}

fn set_up(control: &OwnedFd, config: &Config) -> Result<Serving, SetupError> {
    let files = Descriptors::take(config)?;
    let mut jail = Jail::prepare(config.host_namespaces, config.seccomp)?;
    let emulator = start_engine(config, &files, &mut jail)?;
    let poller = Arc::new(Poller::new()?);
    let mut serving = attach(control, config, files, emulator, jail, &poller)?;
    serving.jail.close()?;
    Ok(serving)
}

fn start_engine(config: &Config, files: &Descriptors, jail: &mut Jail) -> Result<Emulator, SetupError> {
    let EngineConfig::Emulated { qemu } = &config.engine;
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
    .map_err(|source| SetupError::Engine { program: qemu.clone(), source })?;
    jail.watch_engine(emulator.pidfd.as_fd());
    Ok(emulator)
}

/// Builds the devices and puts every descriptor on the event loop.
fn attach(
    control: &OwnedFd,
    config: &Config,
    files: Descriptors,
    emulator: Emulator,
    jail: Jail,
    poller: &Arc<Poller>,
) -> Result<Serving, SetupError> {
    let overlay = open_disk(files.disk, config.disk_size_bytes, config.disk_limit_bytes)?;
    let sockets = emulator.sockets;
    let block = VhostUserDevice::new(endpoint::BLOCK, Blk::new(overlay, DISK_ID), sockets.block, poller)?;
    let rng = VhostUserDevice::new(endpoint::RNG, Rng::new(), sockets.rng, poller)?;
    let host = HostPorts { channel: files.channel, open: config.host_ports.clone() };
    let vsock = Vsock::new(config.guest_cid.into(), host)?;
    let vsock = VhostUserDevice::new(endpoint::VSOCK, vsock, sockets.vsock, poller)?;
    let connected = match sockets.network {
        Some(rendezvous) => rendezvous.accept(emulator.pidfd.as_fd(), limits::ENGINE_START)?,
        None => None,
    };
    // An emulator that has ended says why in a moment.
    let network = files.network.zip(config.network).zip(connected);
    let network = network
        .map(|((link, NetworkConfig { mac, mtu }), socket)| {
            VhostUserDevice::new(endpoint::NETWORK, Net::new(link, mac, mtu)?, socket, poller)
        })
        .transpose()?;
    let console = ConsoleReader::new(sockets.console)?;
    let monitor = Monitor::open(sockets.monitor)?;
    let engine = EngineProcess::new(emulator.process, emulator.pidfd, emulator.stderr)?;
    let watch = |fd, endpoint| poller.add(fd, Token { endpoint, source: Source::Messages });
    watch(control.as_fd(), endpoint::CONTROL)?;
    watch(monitor.as_fd(), endpoint::MONITOR)?;
    watch(console.as_fd(), endpoint::CONSOLE)?;
    watch(engine.as_fd(), endpoint::ENGINE)?;
    watch(engine.output_fd(), endpoint::ENGINE_OUTPUT)?;
    Ok(Serving::new(
        Arc::clone(poller),
        Devices { block, rng, vsock, network },
        monitor,
        console,
        engine,
        jail,
    ))
}

/// An empty delta becomes a new disk, another one is gone on with.
fn open_disk(
    files: DiskFiles,
    size_bytes: Option<u64>,
    limit_bytes: Option<u64>,
) -> Result<Overlay, OpenError> {
    use std::os::unix::fs::MetadataExt;
    let DiskFiles { base, sealed, delta } = files;
    let layers = sealed.into_iter().try_fold(Layers::raw(base)?, Layers::push)?;
    let new_size_bytes = size_bytes.unwrap_or(layers.size_bytes());
    let facts = delta.metadata()?;
    // A file without a name dies with its last descriptor, so flushing it to the medium protects nothing.
    let durability = if facts.nlink() == 0 { Durability::Ephemeral } else { Durability::Durable };
    let limit_bytes = limit_bytes.unwrap_or(u64::MAX);
    let disk = match facts.len() {
        0 => Overlay::create(layers, delta, new_size_bytes, durability, limit_bytes)?,
        _ => Overlay::open(layers, delta, durability, limit_bytes)?,
    };
    match size_bytes {
        Some(expected_bytes) if disk.size_bytes() != expected_bytes => {
            Err(OpenError::OtherSize { size_bytes: disk.size_bytes(), expected_bytes })
        }
        _ => Ok(disk),
    }
}

#[cfg(test)]
mod tests;
