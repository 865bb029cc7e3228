//! From a request to a machine whose agent answers, and what it says from then on.

use super::network::{self, Cable, GuestNetwork};
use super::ports::GuestStreams;
use super::protocol::{CONSOLE_TAIL_BYTES, DiskRequest, StartRequest, Started};
use crate::engine;
use crate::exec::{AgentError, AgentStream};
use crate::limits::{BOOT_DEADLINE, SUPERVISOR_DEADLINE};
use crate::places::create_private_dir;
use crate::problem::{Blame, Explain, Problem};
use crate::sys;
use pyro_agent::wire::{AGENT_PORT, Configure, FrameKind, Operation, READY_PORT, Ready, VERSION};
use pyro_vmm::engine::EngineError;
use pyro_vmm::protocol::Started as Facts;
use pyro_vmm::{DiskSpec, Event, ExitReason, Machine, MachineSpec, SeccompAction, SpawnError};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::rand::GetRandomFlags;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

/// Guest context id of every machine: each has a vsock of its own, so one number serves all.
const GUEST_CID: u32 = 3;
/// Fresh random bytes handed to the guest's pool at boot: twice the pool's 256 bits, and few enough that
/// getrandom(2) always fills them.
const ENTROPY_BYTES: usize = 64;

/// Why a machine could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("cannot open `{path}`")]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot create a machine's disk in `{path}`")]
    Disk { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("cannot start the machine's network")]
    Network(#[source] io::Error),
    #[error("cannot start the machine's process")]
    Spawn(#[from] SpawnError),
    #[error("the guest ended before it was ready: {0}")]
    DiedEarly(String),
    #[error("the guest was not ready after {} s; its console ended with: {console}", BOOT_DEADLINE.as_secs())]
    Deadline { console: String },
    #[error("the guest's agent speaks protocol {0}, this pyro speaks {VERSION}")]
    Version(u32),
    #[error("the guest's agent could not be set up")]
    Agent(#[from] AgentError),
    #[error("the machine's control channel failed")]
    Channel(#[from] io::Error),
}

impl StartError {
    fn died(reason: &ExitReason, console_tail: &[u8]) -> Self {
        match console_text(console_tail).lines().next_back() {
            Some(line) => Self::DiedEarly(format!("{reason} (console: {line})")),
            None => Self::DiedEarly(reason.to_string()),
        }
    }
}

impl Explain for StartError {
    fn explain(&self) -> Problem {
        match self {
            Self::Open { .. } => Problem::new("open_failed", Blame::Host, self)
                .with_hint("run `pyro doctor` to see what is missing"),
            Self::Disk { .. } => Problem::new("disk_unavailable", Blame::Host, self)
                .with_hint("PYRO_STATE_DIR must name a directory that you can write to, with free space"),
            Self::Engine(_) => Problem::new("engine_unavailable", Blame::Host, self)
                .with_hint("run `pyro doctor`; `--engine emulated` works on every host with QEMU"),
            Self::Network(_) => Problem::new("network_failed", Blame::Host, self)
                .with_hint("PYRO_STATE_DIR must name a directory that you can write to, with free space"),
            Self::Spawn(_) => Problem::new("spawn_failed", Blame::Host, self).with_hint("run `pyro doctor`"),
            Self::DiedEarly(_) | Self::Deadline { .. } => Problem::new("boot_failed", Blame::Guest, self)
                .with_hint("try another environment, or more memory with --mem-mib"),
            Self::Version(_) => Problem::new("agent_version", Blame::Host, self).with_hint(
                "the guest bundle belongs to another release; rebuild it with `cargo xtask guest`",
            ),
            Self::Agent(_) => Problem::new("agent_failed", Blame::Guest, self),
            Self::Channel(_) => Problem::new("channel_failed", Blame::Bug, self),
        }
    }
}
/// A machine with its event sources on the runtime.
pub(super) struct Watch {
    pub(super) machine: Machine,
    events: AsyncFd<OwnedFd>,
    accepted: AsyncFd<OwnedFd>,
    channel_open: bool,
}

/// What a machine's process brings.
pub(super) enum Happening {
    Event(Event),
    /// The guest connected to a port of the host.
    Accepted(u32, UnixStream),
}

impl Watch {
    fn new(machine: Machine) -> io::Result<Self> {
        let watch = |fd: BorrowedFd<'_>| sys::watch(fd.try_clone_to_owned()?, Interest::READABLE);
        let events = watch(machine.events_fd())?;
        let accepted = watch(machine.channel().as_fd())?;
        Ok(Self { machine, events, accepted, channel_open: true })
    }

    /// Waits for the next happening. Cancel safe.
    pub(super) async fn next(&mut self) -> io::Result<Happening> {
        loop {
            if let Some(event) = self.machine.try_next_event() {
                return Ok(Happening::Event(event));
            }
            match self.channel_open.then(|| self.machine.channel().try_accept()) {
                Some(Ok(Some((port, stream)))) => return Ok(Happening::Accepted(port, into_async(stream)?)),
                // The machine is ending; its last event tells why.
                Some(Err(_)) => self.channel_open = false,
                Some(Ok(None)) | None => {}
            }
            // Readiness is cleared before the next look, so that nothing that comes in between is lost.
            tokio::select! {
                ready = self.events.readable() => ready?.clear_ready(),
                ready = self.accepted.readable(), if self.channel_open => ready?.clear_ready(),
            }
        }
    }

    /// The same for whoever outlives this borrow.
    pub(super) fn guest_streams(&self) -> io::Result<GuestStreams> {
        GuestStreams::new(self.machine.channel())
    }

    pub(super) fn connect(&self, port: u32) -> io::Result<std::os::unix::net::UnixStream> {
        self.machine.channel().connect(port)
    }

    /// Resolves when the machine's process is gone; notes what it says of its jail on the way.
    async fn died(&mut self, facts: &mut Option<Facts>) -> StartError {
        loop {
            match self.next().await {
                Ok(Happening::Event(Event::Started(started))) => *facts = Some(started),
                Ok(Happening::Event(Event::Exited { reason, console_tail })) => {
                    return StartError::died(&reason, &console_tail);
                }
                Ok(
                    Happening::Event(
                        Event::Console { .. } | Event::DeltaReplaced { .. } | Event::Paused | Event::Resumed,
                    )
                    | Happening::Accepted(..),
                ) => {}
                Err(error) => return error.into(),
            }
        }
    }

    /// What a guest that hangs showed last.
    async fn console(&mut self) -> String {
        if !self.machine.request_console_tail() {
            return String::new();
        }
        let told = async {
            loop {
                match self.next().await {
                    Ok(Happening::Event(Event::Console { tail })) => return console_text(&tail),
                    Ok(
                        Happening::Event(
                            Event::Started(_) | Event::DeltaReplaced { .. } | Event::Paused | Event::Resumed,
                        )
                        | Happening::Accepted(..),
                    ) => {}
                    Ok(Happening::Event(Event::Exited { .. })) | Err(_) => return String::new(),
                }
            }
        };
        tokio::time::timeout(SUPERVISOR_DEADLINE, told).await.unwrap_or_default()
    }
}

pub(super) fn into_async(stream: std::os::unix::net::UnixStream) -> io::Result<UnixStream> {
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// A machine whose agent answers. The ready connection stays open as long as the agent lives.
pub(super) struct Running {
    pub(super) watch: Watch,
    pub(super) started: Started,
    /// After the machine, whose last packets it takes.
    pub(super) network: Option<GuestNetwork>,
    _ready: AgentStream,
}

impl Running {
    pub(super) async fn boot(request: &StartRequest) -> Result<Self, StartError> {
        let begun = Instant::now();
        let (mut spec, engine_reason) = machine_spec(request)?;
        let cable =
            request.network.as_ref().map(|_| Cable::new()).transpose().map_err(StartError::Network)?;
        let link = cable.map(|cable| {
            spec.network = Some(cable.machine);
            cable.network
        });
        let mut watch = Watch::new(Machine::spawn(spec)?)?;
        let network = match (request.network.clone(), link) {
            (Some(policy), Some(link)) => {
                let log = request.network_log();
                Some(
                    GuestNetwork::start(policy, request.proxy.clone(), link, log.as_deref())
                        .map_err(StartError::Network)?,
                )
            }
            (Some(_), None) | (None, _) => None,
        };
        let mut facts = None;
        let booted = tokio::time::timeout(BOOT_DEADLINE, introduce(&mut watch, &mut facts, request));
        let (ready, ready_stream) = match booted.await {
            Ok(booted) => booted?,
            Err(_) => return Err(StartError::Deadline { console: watch.console().await }),
        };
        let boot_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        // The process reports on its jail before it serves the first device.
        let facts =
            facts.ok_or_else(|| io::Error::other("the machine's process did not report on its jail"))?;
        let started = Started {
            engine: facts.engine,
            engine_reason,
            jail: facts.jail,
            kernel: ready.kernel,
            agent: ready.agent,
            boot_us,
        };
        Ok(Self { watch, started, network, _ready: ready_stream })
    }

    /// Opens a connection to the agent.
    pub(super) fn agent(&self) -> io::Result<UnixStream> {
        into_async(self.watch.connect(AGENT_PORT)?)
    }

    /// Lets the guest write everything to its disk and switch itself off.
    pub(super) async fn power_off(&mut self) -> Result<(), StartError> {
        let mut agent = AgentStream::new(self.agent()?);
        agent.request(Operation::PowerOff).await?;
        let mut facts = None;
        tokio::select! {
            reply = agent.expect_json::<serde_json::Value>(FrameKind::Reply) => reply.map(|_| ())?,
            error = self.watch.died(&mut facts) => return Err(error),
        }
        Ok(())
    }
}

/// Waits for the agent's first word, then gives this boot its identity, before any other code runs in the
/// guest.
async fn introduce(
    watch: &mut Watch,
    facts: &mut Option<Facts>,
    request: &StartRequest,
) -> Result<(Ready, AgentStream), StartError> {
    let mut ready_stream = loop {
        match watch.next().await? {
            Happening::Accepted(READY_PORT, stream) => break AgentStream::new(stream),
            Happening::Event(Event::Started(started)) => *facts = Some(started),
            Happening::Event(Event::Exited { reason, console_tail }) => {
                return Err(StartError::died(&reason, &console_tail));
            }
            Happening::Event(
                Event::Console { .. } | Event::DeltaReplaced { .. } | Event::Paused | Event::Resumed,
            )
            | Happening::Accepted(..) => {}
        }
    };
    let agent = AgentStream::new(into_async(watch.connect(AGENT_PORT)?)?);
    tokio::select! {
        ready = configure(&mut ready_stream, agent, request) => Ok((ready?, ready_stream)),
        error = watch.died(facts) => Err(error),
    }
}

async fn configure(
    ready_stream: &mut AgentStream,
    mut agent: AgentStream,
    request: &StartRequest,
) -> Result<Ready, StartError> {
    let ready: Ready = ready_stream.expect_json(FrameKind::Reply).await?;
    if ready.version != VERSION {
        return Err(StartError::Version(ready.version));
    }
    let mut entropy = [0; ENTROPY_BYTES];
    rustix::rand::getrandom(&mut entropy, GetRandomFlags::empty()).map_err(io::Error::from)?;
    let unix_time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let configure = Operation::Configure(Configure {
        hostname: format!("pyro-{}", request.machine_id),
        unix_nanos: u64::try_from(unix_time.as_nanos()).unwrap_or(u64::MAX),
        entropy_hex: hex::encode(entropy),
        network: request.network.as_ref().map(|_| network::interface()),
    });
    agent.request(configure).await?;
    agent.expect_json::<serde_json::Value>(FrameKind::Reply).await?;
    Ok(ready)
}

fn machine_spec(request: &StartRequest) -> Result<(MachineSpec, String), StartError> {
    let search = engine::Search {
        program_path: &request.program_path,
        vmm_binary: &request.vmm_binary,
        state_dir: &request.state_dir,
    };
    let engine = engine::choose(request.engine, search)?;
    let disk = disk_spec(&request.disk, &request.state_dir)?;
    let log = request.trap_log.as_deref().map(open_trap_log).transpose()?;
    let spec = MachineSpec {
        vmm_binary: request.vmm_binary.clone(),
        engine: engine.engine,
        vcpu_count: request.vcpu_count,
        mem_mib: request.mem_mib,
        kernel: open(&request.kernel)?,
        initramfs: open(&request.initramfs)?,
        disk,
        network: None,
        guest_cid: GUEST_CID,
        host_ports: vec![READY_PORT],
        boot_args: Vec::new(),
        seccomp: if log.is_some() { SeccompAction::Trap } else { SeccompAction::Kill },
        log,
    };
    Ok((spec, engine.why))
}

fn disk_spec(disk: &DiskRequest, state_dir: &Path) -> Result<DiskSpec, StartError> {
    let disk_error = |source| StartError::Disk { path: state_dir.to_owned(), source };
    create_private_dir(state_dir).map_err(disk_error)?;
    let (sealed, delta) = match &disk.layers {
        // Without a name: whatever ends this process ends the disk.
        None => (Vec::new(), tempfile::tempfile_in(state_dir).map_err(disk_error)?),
        Some(layers) => {
            let sealed = layers.sealed.iter().map(|path| open(path)).collect::<Result<_, _>>()?;
            let top = File::options().read(true).write(true).open(&layers.top);
            (sealed, top.map_err(|source| StartError::Open { path: layers.top.clone(), source })?)
        }
    };
    Ok(DiskSpec { base: open(&disk.base)?, sealed, delta, size_bytes: None, limit_bytes: disk.limit_bytes })
}

fn open(path: &Path) -> Result<File, StartError> {
    File::open(path).map_err(|source| StartError::Open { path: path.to_owned(), source })
}

fn open_trap_log(path: &Path) -> Result<File, StartError> {
    let opened = File::options().append(true).create(true).open(path);
    opened.map_err(|source| StartError::Open { path: path.to_owned(), source })
}

/// The end of a console log as text: control characters but line ends and tabs are dropped.
pub(super) fn console_text(bytes: &[u8]) -> String {
    let tail = &bytes[bytes.len().saturating_sub(CONSOLE_TAIL_BYTES)..];
    let text = String::from_utf8_lossy(tail);
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect::<String>().trim().to_owned()
}
