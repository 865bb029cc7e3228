//! The host's side of a machine: start its jailed process, hand it descriptors, hear what becomes of it.
//!
//! ```text
//! spawn ── Event::Started ── (running) ── Event::Exited
//!    └──────────────────────────────────── Event::Exited      (it did not start)
//! ```
//! Every machine ends with exactly one [`Event::Exited`]; where the process could not send it, it is made
//! here from the way the process ended. The process and the engine below it die with this process, and with
//! the [`Machine`].

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::engine::{EngineSpec, KVM_DEVICE};
use crate::jail::{JailReport, NamespaceIds, Trial};
use crate::limits;
use crate::protocol::channel::{self, Message, Received};
use crate::protocol::control;
use crate::protocol::{
    self, Config, ConfigError, EngineConfig, Event, ExitReason, NetworkConfig, Order, Request, SeccompAction,
    fds,
};

mod cgroup;
mod process;
mod sys;

use cgroup::MachineCgroup;
use process::Process;
pub use process::ProcessEnd;

/// What a machine is made of.
#[derive(Debug)]
pub struct MachineSpec {
    /// The `pyro-vmm` program.
    pub vmm_binary: PathBuf,
    /// What runs the vCPUs.
    pub engine: EngineSpec,
    /// Number of vCPUs, 1 to 32.
    pub vcpu_count: u8,
    /// Guest memory, 256 MiB to 1 TiB. The host takes it as the guest touches it.
    pub mem_mib: u32,
    /// The guest kernel: an uncompressed ELF image, entered in long mode or, without such an entry, by PVH.
    pub kernel: File,
    /// The initramfs.
    pub initramfs: File,
    /// The root disk, `/dev/vda`.
    pub disk: DiskSpec,
    /// A network interface, `eth0`; `None` is no interface at all.
    pub network: Option<NetworkSpec>,
    /// The guest's vsock address, 3 or more. Machines do not see each other, so all may have the same.
    pub guest_cid: u32,
    /// Host ports that the guest may connect to; a connection to another is refused.
    pub host_ports: Vec<u32>,
    /// Words added to the kernel command line.
    pub boot_args: Vec<String>,
    /// What a system call outside the filter does.
    pub seccomp: SeccompAction,
    /// Where the jailed process's own standard error goes; `None` is nowhere.
    pub log: Option<File>,
}

/// A root disk: an immutable image below a writable layer.
#[derive(Debug)]
pub struct DiskSpec {
    /// The raw image, open for reading; its length is the disk's.
    pub base: File,
    /// Sealed layers between the image and the writable one, bottom first, open for reading; at most
    /// [`MAX_LAYERS`](crate::block::MAX_LAYERS).
    pub sealed: Vec<File>,
    /// The writable layer, open for reading and writing; empty for a new one. One that has a name is locked
    /// while the machine lives, and a machine whose layer is locked by another does not start. The lock
    /// belongs to the open file description: open the file for this machine alone.
    pub delta: File,
    /// The disk's size, at least that of the layers below the writable one; `None` is that size. For a layer
    /// that is not new it must be the layer's.
    pub size_bytes: Option<u64>,
    /// The most bytes that the writable layer may take, and each that replaces it; `None` is the disk's own
    /// size.
    pub limit_bytes: Option<u64>,
}

/// A network interface and its cable.
#[derive(Debug)]
pub struct NetworkSpec {
    /// The interface's address and packet size.
    pub config: NetworkConfig,
    /// A packet socket (`SOCK_SEQPACKET`): each packet is one frame behind a virtio-net header, see
    /// [`crate::device::net`]. Whoever has the other end is the rest of the network.
    pub link: OwnedFd,
}

/// Why a machine was not started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// A value of the specification is out of range.
    #[error("machine specification is not valid")]
    Spec(#[from] ConfigError),
    /// The program is missing or may not be executed.
    #[error("cannot execute {path}")]
    Execute {
        /// The program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program does not get as far as its jail.
    #[error("the machine program gave no report: {0}")]
    Jail(String),
    /// A socket, process or descriptor could not be made.
    #[error("cannot {action}")]
    Os {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl SpawnError {
    fn os(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Os { action, source }
    }
}

/// A machine's jailed process. Dropping it ends the machine.
#[derive(Debug)]
pub struct Machine {
    process: Process,
    /// After the process, which is in it; or why there is none.
    cgroup: Result<MachineCgroup, String>,
    channel: HostChannel,
    control: OwnedFd,
    exited: bool,
}

impl Machine {
    /// Starts the process and returns; [`Event::Started`] or [`Event::Exited`] follows.
    pub fn spawn(spec: MachineSpec) -> Result<Self, SpawnError> {
        let config = config_of(&spec)?;
        config.check()?;
        let (control, control_far) = seqpacket_pair().map_err(SpawnError::os("make the control socket"))?;
        let (channel, channel_far) = seqpacket_pair().map_err(SpawnError::os("make the host channel"))?;
        let null = open_null()?;
        let sealed_layers = config.sealed_layers;
        let kvm = match spec.engine {
            EngineSpec::Kvm => Some((open_kvm()?, fds::kvm(&config))),
            EngineSpec::Emulated { .. } => None,
        };
        let cgroup = MachineCgroup::create(cgroup::Limits::of_a_machine(&config));
        // Before the process exists, so that its first read finds it.
        send_order(&control, &Order::Run(config))?;
        let mut map = vec![
            (null.as_fd(), 0),
            (null.as_fd(), 1),
            (spec.log.as_ref().unwrap_or(&null).as_fd(), 2),
            (control_far.as_fd(), fds::CONTROL),
            (channel_far.as_fd(), fds::CHANNEL),
            (spec.kernel.as_fd(), fds::KERNEL),
            (spec.initramfs.as_fd(), fds::INITRAMFS),
            (spec.disk.base.as_fd(), fds::DISK_BASE),
            (spec.disk.delta.as_fd(), fds::DISK_DELTA),
        ];
        map.extend(spec.disk.sealed.iter().map(AsFd::as_fd).zip(fds::sealed(sealed_layers)));
        map.extend(spec.network.iter().map(|network| (network.link.as_fd(), fds::network(sealed_layers))));
        map.extend(kvm.iter().map(|(device, number)| (device.as_fd(), *number)));
        let program = process::Program { path: &spec.vmm_binary, map: &map, cgroup: cgroup.as_ref().ok() };
        let process = Process::spawn(&program)?;
        Ok(Self { process, cgroup, channel: HostChannel { socket: channel }, control, exited: false })
    }

    /// Streams to and from the guest.
    pub fn channel(&self) -> &HostChannel {
        &self.channel
    }

    /// The next event if there is one. Poll [`Machine::events_fd`] for readability; after
    /// [`Event::Exited`] there is none.
    pub fn try_next_event(&mut self) -> Option<Event> {
        if self.exited {
            return None;
        }
        let event = self.receive_event()?;
        self.exited = matches!(event, Event::Exited { .. });
        Some(event)
    }

    /// Readable when [`Machine::try_next_event`] has something to say, end of the process included.
    pub fn events_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// Asks for the last console output; [`Event::Console`] answers. `false` when the machine has ended.
    pub fn request_console_tail(&self) -> bool {
        control::send(self.control.as_fd(), Request::ConsoleTail, None).is_ok()
    }

    /// Asks the machine to seal its disk's writable layer, with everything written so far, and to go on in the
    /// empty file `new`, open for reading and writing; [`Event::DeltaReplaced`] answers. An error means that
    /// the machine was not asked.
    ///
    /// The machine writes on during this; freeze the guest's file systems first to find them whole. `new` is
    /// locked through its open file description, so close it and its duplicates afterwards. After a crash the
    /// old layer may be sealed though no answer came: then `new` lies on it, empty, or another new one may.
    pub fn replace_delta(&self, new: &File) -> io::Result<()> {
        control::send(self.control.as_fd(), Request::ReplaceDelta, Some(new.as_fd()))
    }

    /// Asks the machine to stop its vCPUs between two instructions; [`Event::Paused`] answers when none runs the guest.
    /// The devices go on: what the guest has asked for is done, and what it hears of waits for it.
    pub fn pause(&self) -> io::Result<()> {
        control::send(self.control.as_fd(), Request::Pause, None)
    }

    /// Asks the machine to let its vCPUs go on; [`Event::Resumed`] answers.
    pub fn resume(&self) -> io::Result<()> {
        control::send(self.control.as_fd(), Request::Resume, None)
    }

    /// Process id of the jailed process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Ends the machine at once, the engine included. Harmless when it has ended.
    pub fn kill(&self) {
        self.process.kill();
    }

    /// Waits until the process has ended.
    pub fn wait(&mut self) -> ProcessEnd {
        self.process.wait()
    }

    /// Becomes readable when the process has ended.
    pub fn process_fd(&self) -> BorrowedFd<'_> {
        self.process.as_fd()
    }

    fn receive_event(&mut self) -> Option<Event> {
        let mut bytes = vec![0u8; limits::MAX_EVENT_BYTES];
        let received = rustix::io::retry_on_intr(|| {
            rustix::net::recv(&self.control, &mut bytes[..], RecvFlags::DONTWAIT)
        });
        match received {
            Ok((len, _)) if len > 0 => Some(match serde_json::from_slice(&bytes[..len]) {
                // What the process says of what is outside of it counts for nothing.
                Ok(Event::Started(mut started)) => {
                    started.jail.cgroup = cgroup::report(&self.cgroup, self.process.pid());
                    Event::Started(started)
                }
                Ok(event) => event,
                // The process no longer behaves as ours.
                Err(error) => {
                    self.process.kill();
                    exited(ExitReason::VmmFailed { message: format!("event does not parse: {error}") })
                }
            }),
            Err(rustix::io::Errno::AGAIN) => None,
            // End of file: the process is gone or about to be.
            Ok(_) | Err(_) => {
                let end = self.process.wait_or_kill(limits::ENGINE_EXIT);
                Some(exited(ExitReason::VmmDied { status: end.to_string() }))
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.process.kill();
        self.process.wait();
    }
}

/// Lets `vmm_binary` close its jail without a machine, and tell what is in force on this host.
pub fn probe_jail(vmm_binary: &Path) -> Result<JailReport, SpawnError> {
    probe_jail_with(vmm_binary, Probe::default()).report
}

/// What a process that closes its jail without a machine shall do.
#[derive(Debug, Default)]
pub struct Probe {
    /// What a system call outside the filters does.
    pub seccomp: SeccompAction,
    /// A forbidden attempt to make from inside.
    pub trial: Option<Trial>,
    /// Where the process's standard error goes; `None` is nowhere.
    pub log: Option<File>,
}

/// What was seen of such a process.
#[derive(Debug)]
pub struct Probed {
    /// What it reported, if it did.
    pub report: Result<JailReport, SpawnError>,
    /// Its last word: [`ExitReason::PoweredOff`] when nothing was refused. `None` when it did not come to one.
    pub last_word: Option<ExitReason>,
    /// How it ended.
    pub end: ProcessEnd,
}

/// The same as [`probe_jail`], in parts. A trial gets the KVM device where it opens.
pub fn probe_jail_with(vmm_binary: &Path, probe: Probe) -> Probed {
    let nothing = |error| Probed { report: Err(error), last_word: None, end: ProcessEnd::Unknown };
    let device = match probe.trial.as_ref().map(|_| open_kvm().or_else(|_| open_null())).transpose() {
        Ok(device) => device,
        Err(error) => return nothing(error),
    };
    let order = Order::Probe {
        host_namespaces: NamespaceIds::of_this_process(),
        seccomp: probe.seccomp,
        trial: probe.trial,
    };
    let mut map: Vec<_> = device.iter().map(|device| (device.as_fd(), fds::PROBE_DEVICE)).collect();
    map.extend(probe.log.iter().map(|log| (log.as_fd(), 2)));
    let cgroup = MachineCgroup::create(cgroup::Limits::of_the_devices());
    let (control, mut process) = match start_without_order(vmm_binary, &map, cgroup.as_ref().ok()) {
        Ok(started) => started,
        Err(error) => return nothing(error),
    };
    // While it still waits for its order.
    let cgroup = cgroup::report(&cgroup, process.pid());
    // A program that has ended has no answer either.
    let _ = send_order(&control, &order);
    let answer = receive_report(&control, limits::JAIL_REPORT);
    let end = process.wait_or_kill(limits::ENGINE_EXIT);
    let report = answer.and_then(|event| match event {
        Some(Event::Started(started)) => Ok(JailReport { cgroup, ..started.jail }),
        other => Err(SpawnError::Jail(no_answer(other, end))),
    });
    let last_word = match receive_report(&control, Duration::ZERO) {
        Ok(Some(Event::Exited { reason, .. })) => Some(reason),
        Ok(_) | Err(_) => None,
    };
    Probed { report, last_word, end }
}

/// Lets `vmm_binary` try whether the KVM behind `device` runs guests. The inner error is why it does not.
pub(crate) fn try_kvm(vmm_binary: &Path, device: &File) -> Result<Result<(), String>, SpawnError> {
    let (answer, end) = ask(vmm_binary, &Order::Canary, &[(device.as_fd(), fds::CANARY_KVM)]);
    match answer {
        Ok(Some(Event::Exited { reason: ExitReason::PoweredOff, .. })) => Ok(Ok(())),
        Ok(Some(Event::Exited { reason: ExitReason::StartFailed { message, .. }, .. })) => Ok(Err(message)),
        Ok(other) => Ok(Err(format!("the process that tried it gave no answer: {}", no_answer(other, end)))),
        // It did not come back from the guest.
        Err(SpawnError::Jail(silence)) => Ok(Err(silence)),
        Err(error) => Err(error),
    }
}

fn no_answer(event: Option<Event>, end: ProcessEnd) -> String {
    match event {
        Some(Event::Exited { reason, .. }) => reason.to_string(),
        _ => format!("it ended with {end}"),
    }
}

/// Runs the program for one order that it answers by one event. Also tells how it ended.
fn ask(
    vmm_binary: &Path,
    order: &Order,
    files: &[(BorrowedFd<'_>, RawFd)],
) -> (Result<Option<Event>, SpawnError>, ProcessEnd) {
    let (control, mut process) = match start_without_order(vmm_binary, files, None) {
        Ok(started) => started,
        Err(error) => return (Err(error), ProcessEnd::Unknown),
    };
    // A program that has ended has no answer either.
    let _ = send_order(&control, order);
    let answer = receive_report(&control, limits::JAIL_REPORT);
    let end = process.wait_or_kill(limits::ENGINE_EXIT);
    (answer, end)
}

/// The program's first word; `None` when it ends without one. Any program may have been named, so it is not
/// waited for without end.
fn receive_report(control: &OwnedFd, limit: Duration) -> Result<Option<Event>, SpawnError> {
    let timeout = Timespec::try_from(limit).ok();
    let ready =
        rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(control, PollFlags::IN)], timeout.as_ref()));
    if ready == Ok(0) {
        return Err(SpawnError::Jail(format!("it was silent for {limit:?}")));
    }
    let mut bytes = vec![0u8; limits::MAX_EVENT_BYTES];
    let received = rustix::net::recv(control, &mut bytes[..], RecvFlags::DONTWAIT);
    Ok(received.ok().and_then(|(len, _)| serde_json::from_slice(&bytes[..len]).ok()))
}

/// Starts the program, which waits for an order on the control socket that is returned.
fn start_without_order(
    vmm_binary: &Path,
    files: &[(BorrowedFd<'_>, RawFd)],
    cgroup: Option<&MachineCgroup>,
) -> Result<(OwnedFd, Process), SpawnError> {
    let (control, far) = seqpacket_pair().map_err(SpawnError::os("make the control socket"))?;
    let null = open_null()?;
    let mut map = vec![(null.as_fd(), 0), (null.as_fd(), 1), (null.as_fd(), 2), (far.as_fd(), fds::CONTROL)];
    // A later one for the same number counts.
    map.extend(files);
    let process = Process::spawn(&process::Program { path: vmm_binary, map: &map, cgroup })?;
    Ok((control, process))
}

fn open_kvm() -> Result<File, SpawnError> {
    File::options().read(true).write(true).open(KVM_DEVICE).map_err(SpawnError::os("open /dev/kvm"))
}

fn open_null() -> Result<File, SpawnError> {
    File::options().read(true).write(true).open("/dev/null").map_err(SpawnError::os("open /dev/null"))
}

fn exited(reason: ExitReason) -> Event {
    Event::Exited { reason, console_tail: Vec::new() }
}

/// Streams between the host and one guest. Both directions are stream sockets; a refused connection is one
/// that ends at once.
#[derive(Debug)]
pub struct HostChannel {
    socket: OwnedFd,
}

impl HostChannel {
    /// Another handle for the same machine.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()? })
    }

    /// Opens a stream to a guest port. It ends at once when nobody listens there. Fails with `WouldBlock` when
    /// the machine does not keep up; poll [`AsFd::as_fd`] for room.
    pub fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let (near, far) = UnixStream::pair()?;
        channel::send(self.socket.as_fd(), Message::Connect(port), far.as_fd())?;
        Ok(near)
    }

    /// The next stream that the guest opened, with the host port. Poll [`AsFd::as_fd`] for readability.
    /// An error means that the machine has ended.
    pub fn try_accept(&self) -> io::Result<Option<(u32, UnixStream)>> {
        match channel::receive(self.socket.as_fd())? {
            Received::Message(Message::Accepted(port), stream) => Ok(Some((port, stream))),
            Received::Message(Message::Connect(port), _) => {
                Err(io::Error::other(format!("machine asks the host to connect to port {port}")))
            }
            Received::Nothing => Ok(None),
            Received::Closed => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
}

impl AsFd for HostChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn send_order(control: &OwnedFd, order: &Order) -> Result<(), SpawnError> {
    let order = serde_json::to_vec(order).map_err(ConfigError::Json)?;
    rustix::net::send(control, &order, SendFlags::NOSIGNAL)
        .map_err(|errno| SpawnError::os("send the order")(errno.into()))?;
    Ok(())
}

fn config_of(spec: &MachineSpec) -> Result<Config, ConfigError> {
    let layers = spec.disk.sealed.len();
    Ok(Config {
        version: protocol::VERSION,
        engine: match &spec.engine {
            EngineSpec::Emulated { qemu } => EngineConfig::Emulated {
                qemu: String::from_utf8_lossy(qemu.as_os_str().as_bytes()).into_owned(),
            },
            EngineSpec::Kvm => EngineConfig::Kvm,
        },
        vcpu_count: spec.vcpu_count,
        mem_mib: spec.mem_mib,
        disk_limit_bytes: spec.disk.limit_bytes,
        disk_size_bytes: spec.disk.size_bytes,
        sealed_layers: u8::try_from(layers).map_err(|_| ConfigError::SealedLayers(layers))?,
        network: spec.network.as_ref().map(|network| network.config),
        guest_cid: spec.guest_cid,
        host_ports: spec.host_ports.clone(),
        boot_args: spec.boot_args.clone(),
        seccomp: spec.seccomp,
        host_namespaces: NamespaceIds::of_this_process(),
    })
}

fn seqpacket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_says_nothing_is_not_waited_for_without_end() {
        let (control, _far) = seqpacket_pair().unwrap();
        let silent = receive_report(&control, Duration::from_millis(10)).unwrap_err();
        assert_eq!(silent.to_string(), "the machine program gave no report: it was silent for 10ms");
    }
}
