//! The jailed process: an order in, devices served, events out, until the machine ends.
//!
//! ```text
//! ordered -> confined -> engine started -> devices attached -> jail closed -> serving -> ended
//! ```
//! One thread, one epoll. Whatever happens, one `Exited` event is the last thing it says; where it cannot
//! say it, the host makes it up from the way the process ended.

mod console;
mod emulated;
mod emulator;
mod engine;
mod host_ports;
mod native;
mod probe;
mod serve;
mod sys;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::process::ExitCode;
use std::sync::Arc;

use rustix::net::{RecvFlags, SendFlags};

use crate::block::{Durability, Layers, OpenError, Overlay};
use crate::device::blk::Blk;
use crate::device::net::Net;
use crate::device::rng::Rng;
use crate::device::vsock::Vsock;
use crate::engine::kvm::NativeError;
use crate::engine::kvm::canary::{self, CanaryError};
use crate::jail::{self, Jail, JailError};
use crate::limits;
use crate::poll::{Poller, Source, Token};
use crate::protocol::{Config, ConfigError, EngineConfig, Event, ExitReason, NetworkConfig, Order, fds};
use engine::Engine;
use host_ports::HostPorts;
use serve::{Serving, endpoint};

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
    #[error("{0}")]
    Canary(#[from] CanaryError),
    #[error("cannot make the machine: {0}")]
    Native(#[from] NativeError),
}

/// Runs one machine on the inherited descriptors.
pub fn main() -> ExitCode {
    let Some(control) = sys::take_inherited(fds::CONTROL) else { return ExitCode::FAILURE };
    let order = receive_order(control.as_fd());
    // The order tells how many descriptors are meant; nothing here has opened one of its own so far.
    jail::close_undeclared(match &order {
        Ok(Some(order)) => fds::first_free(order),
        Ok(None) | Err(_) => fds::FIRST_FREE_WITHOUT_ORDER,
    });
    jail::prepare_runtime();
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
        Order::Probe { host_namespaces, seccomp, trial } => {
            probe::run(host_namespaces, seccomp, trial, control).map(Some)
        }
        Order::Canary => {
            let device = take(fds::CANARY_KVM)?;
            canary::run(device.into())?;
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

fn take(number: RawFd) -> Result<OwnedFd, SetupError> {
    sys::take_inherited(number).ok_or(SetupError::Descriptor(number))
}

struct Descriptors {
    channel: OwnedFd,
    kernel: File,
    initramfs: File,
    disk: DiskFiles,
    network: Option<OwnedFd>,
    kvm: Option<File>,
}

struct DiskFiles {
    base: File,
    sealed: Vec<File>,
    delta: File,
}

impl Descriptors {
    fn take(config: &Config) -> Result<Self, SetupError> {
        let sealed_layers = config.sealed_layers;
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
            kvm: match config.engine {
                EngineConfig::Kvm => Some(take(fds::kvm(config))?.into()),
                EngineConfig::Emulated { .. } => None,
            },
        })
    }
}

fn set_up(control: &OwnedFd, config: &Config) -> Result<Serving, SetupError> {
    let files = Descriptors::take(config)?;
    let mut jail = Jail::prepare(config.host_namespaces, config.seccomp)?;
    let poller = Arc::new(Poller::new()?);
    let (devices, mut engine): (_, Box<dyn Engine>) = match &config.engine {
        EngineConfig::Emulated { qemu } => {
            let emulator = emulated::start(qemu, config, &files, &mut jail)?;
            let (devices, engine) = emulated::attach(emulator, Cores::new(config, files)?.1, &poller)?;
            (devices, Box::new(engine))
        }
        EngineConfig::Kvm => {
            let (boot, cores) = Cores::new(config, files)?;
            let (devices, engine) = native::attach(config, boot, cores, &poller)?;
            (devices, Box::new(engine))
        }
    };
    poller.add(control.as_fd(), Token { endpoint: endpoint::CONTROL, source: Source::Messages })?;
    jail.enclose()?;
    engine.start_threads(jail.confinement())?;
    jail.filter()?;
    Ok(Serving::new(poller, devices, engine, jail))
}

/// The machine's devices, not yet behind a transport.
struct Cores {
    block: Blk<Overlay>,
    rng: Rng,
    vsock: Vsock<HostPorts>,
    network: Option<Net>,
}

/// What the native engine boots from.
struct BootFiles {
    kvm: Option<File>,
    kernel: File,
    initramfs: File,
}

impl Cores {
    fn new(config: &Config, files: Descriptors) -> Result<(BootFiles, Self), SetupError> {
        let overlay = open_disk(files.disk, config.disk_size_bytes, config.disk_limit_bytes)?;
        let host = HostPorts { channel: files.channel, open: config.host_ports.clone() };
        let network = files.network.zip(config.network);
        let cores = Self {
            block: Blk::new(overlay, DISK_ID),
            rng: Rng::new(),
            vsock: Vsock::new(config.guest_cid.into(), host)?,
            network: network
                .map(|(link, NetworkConfig { mac, mtu })| Net::new(link, mac, mtu))
                .transpose()?,
        };
        Ok((BootFiles { kvm: files.kvm, kernel: files.kernel, initramfs: files.initramfs }, cores))
    }
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
