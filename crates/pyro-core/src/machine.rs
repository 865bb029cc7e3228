//! One running microVM, held through its supervisor.
//!
//! ```text
//! Machine::start -> exec, exec, ... -> stop        (dropping a Machine stops it too, unwatched)
//! ```
//!
//! The machine's disk is a copy-on-write layer without a name over the environment's image: nothing of
//! it survives the machine.

mod memory;

use crate::authorities::Authorities;
use crate::config::Config;
use crate::exec::{self, AgentError, ExecInput, ExecOutput, ExecRequest};
use crate::guest;
use crate::guest_bundle::{BundleError, GuestBundle};
use crate::limits::{self, BOOT_DEADLINE, OutOfRange, POWER_OFF_DEADLINE, SUPERVISOR_DEADLINE};
use crate::network::{HostProxyError, NetworkContacts, NetworkDenials, Policy};
use crate::packet::{Packet, PacketSocket};
use crate::places::CONTROL_SOCKET;
use crate::problem::{Blame, Explain, Problem};
use crate::supervisor::protocol::{
    Answer, DiskRequest, EndCause, Ended, Life, Request, StartRequest, Started, Stop,
};
use memory::HostMemory;
use pyro_agent::wire::AGENT_PORT;
pub use pyro_vmm::engine::EngineChoice;
use rustix::fd::OwnedFd;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// A machine's name: 12 lowercase hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MachineId(String);

impl MachineId {
    /// A fresh random id.
    pub fn random() -> Self {
        let mut bytes = [0; 6];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .expect("getrandom(2) always fills a few bytes");
        Self(hex::encode(bytes))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for MachineId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A machine to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineRequest {
    /// Virtual CPUs, see [`limits::VCPU_COUNT`].
    pub vcpu_count: u64,
    /// Memory, up to what the host has; see [`limits::MEM_MIB`].
    pub mem_mib: u64,
    /// Time to live, see [`limits::TTL_SECONDS`].
    pub ttl_seconds: u64,
    /// Bound on what the guest may write to its disk, see [`limits::DISK_MIB`]; `None` is the disk's size.
    pub disk_mib: Option<u64>,
    /// The engine; `None` takes the configured one.
    pub engine: Option<EngineChoice>,
    /// What its guest may reach; without, it has no interface.
    pub network: Option<Policy>,
    /// Whether connections to names go through the host's proxy, see [`Config::host_proxy`].
    pub uses_host_proxy: bool,
    /// Certificate authorities that its guest trusts beside its image's own.
    pub authorities: Authorities,
}

impl Default for MachineRequest {
    fn default() -> Self {
        Self {
            vcpu_count: 1,
            mem_mib: 1024,
            ttl_seconds: 600,
            disk_mib: None,
            engine: None,
            network: None,
            uses_host_proxy: false,
            authorities: Authorities::default(),
        }
    }
}

/// Limits that a machine request keeps, known by value.
struct Checked {
    vcpu_count: u8,
    mem_mib: u32,
    disk_bytes: Option<u64>,
}

impl MachineRequest {
    /// Checks every number against its bounds, and the memory against this host's.
    pub fn check(&self) -> Result<(), MachineError> {
        self.checked(HostMemory::read()).map(|_| ())
    }

    fn checked(&self, host: HostMemory) -> Result<Checked, MachineError> {
        let vcpu_count = limits::check("vcpu_count", self.vcpu_count, &limits::VCPU_COUNT)?;
        let mem_mib = host.check(self.mem_mib)?;
        limits::check("ttl_seconds", self.ttl_seconds, &limits::TTL_SECONDS)?;
        let disk_mib =
            self.disk_mib.map(|mib| limits::check("disk_mib", mib, &limits::DISK_MIB)).transpose()?;
        Ok(Checked {
            vcpu_count: u8::try_from(vcpu_count).expect("checked against VCPU_COUNT"),
            mem_mib: u32::try_from(mem_mib).expect("checked against MEM_MIB"),
            disk_bytes: disk_mib.map(|mib| mib << 20),
        })
    }
}

/// Why a machine could not be started or used.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// A number is out of its bounds.
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
    /// The host's proxy is wanted, and cannot be used.
    #[error(transparent)]
    HostProxy(#[from] HostProxyError),
    /// There is no guest to boot.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// More memory than the host has at all.
    #[error("mem_mib {mem_mib} is more than this host has ({host_mib} MiB)")]
    MoreThanHost {
        /// What the guest would get.
        mem_mib: u64,
        /// What the host has, used or not.
        host_mib: u64,
    },
    /// The host's memory is used up.
    #[error("a guest needs {needed_mib} MiB of memory to boot, the host has {available_mib} MiB available")]
    Memory {
        /// What the smallest guest takes.
        needed_mib: u64,
        /// What the host could give.
        available_mib: u64,
    },
    /// The supervisor could not be started.
    #[error("cannot start the supervisor `{program}`")]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The supervisor says why.
    #[error("{}", .0.message)]
    Supervisor(Problem),
    /// The machine ended.
    #[error("the machine ended: {}", describe_end(.0))]
    Ended(Box<Ended>),
    /// The supervisor is gone without a word.
    #[error("the machine's supervisor ended unexpectedly{}", .0.as_ref().map(|e| format!(": {e}")).unwrap_or_default())]
    SupervisorLost(Option<io::Error>),
    /// The supervisor does not answer.
    #[error("the machine's supervisor did not answer in time")]
    SupervisorDeadline,
    /// The agent refused or failed.
    #[error(transparent)]
    Agent(#[from] AgentError),
}

fn describe_end(ended: &Ended) -> String {
    let cause = match &ended.cause {
        EndCause::Stopped => "it was stopped".to_owned(),
        EndCause::Expired => "its time to live is over".to_owned(),
        EndCause::Machine(reason) => reason.to_string(),
        EndCause::Failed(reason) => reason.clone(),
    };
    match ended.console.lines().next_back() {
        Some(line) => format!("{cause} (console: {line})"),
        None => cause,
    }
}

impl Explain for MachineError {
    fn explain(&self) -> Problem {
        match self {
            Self::OutOfRange(error) => error.explain(),
            Self::HostProxy(error) => error.explain(),
            Self::Bundle(error) => error.explain(),
            Self::MoreThanHost { host_mib, .. } => Problem::new("out_of_range", Blame::Caller, self)
                .with_hint(format!("give the guest {host_mib} MiB at most")),
            Self::Memory { .. } => Problem::new("not_enough_memory", Blame::Host, self)
                .with_hint("stop other machines or programs"),
            Self::Spawn { .. } => {
                Problem::new("spawn_failed", Blame::Host, self).with_hint("run `pyro doctor`")
            }
            Self::Supervisor(problem) => problem.clone(),
            Self::Ended(ended) => {
                let problem = Problem::new("machine_ended", Blame::Guest, self);
                match ended.cause {
                    EndCause::Expired => problem.with_hint("--ttl-seconds gives a machine more time"),
                    EndCause::Stopped | EndCause::Machine(_) | EndCause::Failed(_) => problem,
                }
            }
            Self::SupervisorLost(_) => Problem::new("supervisor_lost", Blame::Host, self)
                .with_hint("was it killed, perhaps for lack of memory? see the kernel's log"),
            Self::SupervisorDeadline => Problem::new("supervisor_deadline", Blame::Bug, self),
            Self::Agent(error) => error.explain(),
        }
    }
}

/// What boots: an environment's files.
#[derive(Clone, Debug)]
pub struct BootImage {
    /// The environment's own kernel, where it has one.
    pub kernel: Option<PathBuf>,
    /// The root file system, raw ext4.
    pub rootfs: PathBuf,
}

/// A running machine. Dropping it ends it; [`Machine::stop`] also waits until nothing is left.
pub struct Machine {
    id: MachineId,
    started: Started,
    link: Link,
    supervisor: Child,
}

impl Machine {
    /// Boots `image` and waits until its agent answers.
    pub async fn start(
        config: &Config,
        id: MachineId,
        image: &BootImage,
        request: &MachineRequest,
    ) -> Result<Self, MachineError> {
        let checked = request.checked(HostMemory::read())?;
        let disk = DiskRequest { base: image.rootfs.clone(), limit_bytes: checked.disk_bytes, layers: None };
        let life = Life::OneShot { ttl_seconds: request.ttl_seconds };
        let start = start_request(config, id.as_str(), image.kernel.clone(), request, disk, life)?;
        let (link, started, supervisor) = boot(config, start).await?;
        if !request.authorities.is_empty() {
            guest::install_authorities(link.agent().await?, &request.authorities).await?;
        }
        Ok(Self { id, started, link, supervisor })
    }

    /// The machine's id.
    pub fn id(&self) -> &MachineId {
        &self.id
    }

    /// What runs it and how it came up.
    pub fn started(&self) -> &Started {
        &self.started
    }

    /// Whether its supervisor is there, and with it the machine.
    pub fn is_running(&mut self) -> bool {
        matches!(self.supervisor.try_wait(), Ok(None))
    }

    /// Opens a stream to a vsock port of the guest. A port where nothing listens closes the stream at once.
    pub async fn connect(&mut self, port: u32) -> Result<UnixStream, MachineError> {
        self.link.connect(port).await
    }

    /// Runs a command. Its output is read, and its input fed, through the two halves.
    pub async fn exec(&mut self, request: &ExecRequest) -> Result<(ExecInput, ExecOutput), MachineError> {
        self.link.exec(request).await
    }

    /// Turns a connection that ended in the middle into the reason why the machine ended, where it did.
    pub async fn why_disconnected(&mut self) -> MachineError {
        self.link.why_disconnected().await
    }

    /// What the guest was denied so far. Nothing where that cannot be told any more.
    pub async fn network_denials(&self) -> NetworkDenials {
        self.link.denials(0).await.unwrap_or_default()
    }

    /// Ends the guest's network and tells what it has reached.
    pub async fn end_network(&self) -> Result<NetworkContacts, MachineError> {
        match self.link.ask(&Request::EndNetwork, SUPERVISOR_DEADLINE).await? {
            Answer::Contacts(contacts) => Ok(contacts),
            other => Err(unexpected(other)),
        }
    }

    /// Ends the machine and returns when its supervisor is gone, and with it everything it owned.
    pub async fn stop(mut self) -> Result<(), MachineError> {
        // A supervisor that is gone already has stopped its machine.
        let _ = self.link.socket.send(&Request::Stop(Stop::Kill), None).await;
        let waited = timeout(SUPERVISOR_DEADLINE, self.supervisor.wait()).await;
        waited
            .map_err(|_| MachineError::SupervisorDeadline)?
            .map(|_| ())
            .map_err(|error| MachineError::SupervisorLost(Some(error)))
    }
}

/// What a supervisor is told to start.
pub(crate) fn start_request(
    config: &Config,
    machine_id: &str,
    kernel: Option<PathBuf>,
    request: &MachineRequest,
    disk: DiskRequest,
    life: Life,
) -> Result<StartRequest, MachineError> {
    let memory = HostMemory::read();
    let checked = request.checked(memory)?;
    let proxy = match &request.network {
        Some(_) if request.uses_host_proxy => Some(config.host_proxy.parse()?),
        Some(_) | None => None,
    };
    let bundle = GuestBundle::open(config.guest_bundle_dir.as_deref())?;
    memory.check_available()?;
    Ok(StartRequest {
        machine_id: machine_id.to_owned(),
        engine: request.engine.unwrap_or(config.engine),
        vmm_binary: config.vmm_binary.clone(),
        program_path: config.program_path.clone(),
        kernel: kernel.unwrap_or(bundle.kernel),
        initramfs: bundle.initramfs,
        vcpu_count: checked.vcpu_count,
        mem_mib: checked.mem_mib,
        disk,
        network: request.network.clone(),
        proxy,
        state_dir: config.state_dir.clone(),
        life,
        fault: config.fault.clone(),
        trap_log: config.trap_log.clone(),
    })
}

/// Spawns a supervisor and waits until its machine's agent answers.
pub(crate) async fn boot(
    config: &Config,
    start: StartRequest,
) -> Result<(Link, Started, Child), MachineError> {
    let (socket, supervisor) = spawn_supervisor(config)?;
    let link = Link { socket };
    link.send(&Request::Start(Box::new(start))).await?;
    // The supervisor bounds the boot itself; this bound is for a supervisor that hangs.
    match receive(&link.socket, BOOT_DEADLINE + SUPERVISOR_DEADLINE * 2).await? {
        (Answer::Started(started), _) => Ok((link, *started, supervisor)),
        (other, _) => Err(unexpected(other)),
    }
}

/// A client's connection to a supervisor.
pub(crate) struct Link {
    socket: PacketSocket,
}

impl Link {
    /// Connects to a workspace's supervisor, whose socket is in `directory`. `None` where there is none.
    pub(crate) fn open(directory: &Path) -> io::Result<Option<Self>> {
        let socket = PacketSocket::connect(directory, CONTROL_SOCKET)?;
        Ok(socket.map(|socket| Self { socket }))
    }

    /// Opens a stream to a vsock port of the guest.
    pub(crate) async fn connect(&self, port: u32) -> Result<UnixStream, MachineError> {
        self.send(&Request::Connect { port }).await?;
        match receive(&self.socket, SUPERVISOR_DEADLINE).await? {
            (Answer::Connected, Some(fd)) => {
                let stream = std::os::unix::net::UnixStream::from(fd);
                let stream = stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream));
                stream.map_err(|error| MachineError::SupervisorLost(Some(error)))
            }
            (other, _) => Err(unexpected(other)),
        }
    }

    /// Opens a stream to the agent.
    pub(crate) async fn agent(&self) -> Result<UnixStream, MachineError> {
        self.connect(AGENT_PORT).await
    }

    /// Runs a command over a stream of its own.
    pub(crate) async fn exec(&self, request: &ExecRequest) -> Result<(ExecInput, ExecOutput), MachineError> {
        match exec::start(self.agent().await?, request).await {
            Ok(halves) => Ok(halves),
            Err(AgentError::Disconnected) => Err(self.why_disconnected().await),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a request that is answered with a value, and waits for that at most `within`.
    pub(crate) async fn ask(
        &self,
        request: &Request,
        within: std::time::Duration,
    ) -> Result<Answer, MachineError> {
        let asked = timeout(within, self.ask_patiently(request)).await;
        asked.map_err(|_| MachineError::SupervisorDeadline)?
    }

    /// The same, however long the answer takes. Only with requests that say so.
    pub(crate) async fn ask_patiently(&self, request: &Request) -> Result<Answer, MachineError> {
        self.send(request).await?;
        match received(self.socket.receive().await)?.0 {
            Answer::Failed(problem) => Err(MachineError::Supervisor(problem)),
            answer => Ok(answer),
        }
    }

    /// What the guest was denied since number `since`.
    pub(crate) async fn denials(&self, since: u64) -> Result<NetworkDenials, MachineError> {
        match self.ask(&Request::Denials { since }, SUPERVISOR_DEADLINE).await? {
            Answer::Denials(denials) => Ok(denials),
            other => Err(unexpected(other)),
        }
    }

    /// Ends the machine; returns when it has ended.
    pub(crate) async fn stop(&self, how: Stop) -> Result<(), MachineError> {
        match self.ask(&Request::Stop(how), POWER_OFF_DEADLINE + SUPERVISOR_DEADLINE).await {
            // Gone already, or gone without a word: stopped either way.
            Ok(Answer::Ended(_)) | Err(MachineError::SupervisorLost(_)) => Ok(()),
            Ok(other) => Err(unexpected(other)),
            Err(error) => Err(error),
        }
    }

    /// What the machine is like; `None` when it has just ended.
    pub(crate) async fn describe(&self) -> Result<Option<Started>, MachineError> {
        match self.ask(&Request::Describe, SUPERVISOR_DEADLINE).await {
            Ok(Answer::Started(started)) => Ok(Some(*started)),
            Ok(Answer::Ended(_)) | Err(MachineError::SupervisorLost(_)) => Ok(None),
            Ok(other) => Err(unexpected(other)),
            Err(error) => Err(error),
        }
    }

    /// Turns a connection that ended in the middle into the reason why the machine ended, where it did.
    pub(crate) async fn why_disconnected(&self) -> MachineError {
        match receive(&self.socket, SUPERVISOR_DEADLINE).await {
            Ok((answer, _)) => unexpected(answer),
            Err(MachineError::SupervisorDeadline) => AgentError::Disconnected.into(),
            Err(error) => error,
        }
    }

    async fn send(&self, request: &Request) -> Result<(), MachineError> {
        let sent = self.socket.send(request, None).await;
        sent.map_err(|error| MachineError::SupervisorLost(Some(error)))
    }
}

/// The error that an answer to another question is.
pub(crate) fn unexpected(answer: Answer) -> MachineError {
    match answer {
        Answer::Failed(problem) => MachineError::Supervisor(problem),
        Answer::Ended(ended) => MachineError::Ended(Box::new(ended)),
        Answer::Started(_)
        | Answer::Connected
        | Answer::Done
        | Answer::Begun { .. }
        | Answer::Output { .. }
        | Answer::Shell(_)
        | Answer::Updated { .. }
        | Answer::Denials(_)
        | Answer::Contacts(_)
        | Answer::OpenFlows(_)
        | Answer::Snapshotted { .. } => {
            MachineError::SupervisorLost(Some(io::Error::other("it answered another question")))
        }
    }
}

async fn receive(
    socket: &PacketSocket,
    within: std::time::Duration,
) -> Result<(Answer, Option<OwnedFd>), MachineError> {
    let received_in_time = timeout(within, socket.receive::<Answer>()).await;
    received(received_in_time.map_err(|_| MachineError::SupervisorDeadline)?)
}

fn received(packet: io::Result<Option<Packet<Answer>>>) -> Result<(Answer, Option<OwnedFd>), MachineError> {
    match packet {
        Ok(Some(Packet { message, fd })) => Ok((message, fd)),
        Ok(None) => Err(MachineError::SupervisorLost(None)),
        Err(error) => Err(MachineError::SupervisorLost(Some(error))),
    }
}

fn spawn_supervisor(config: &Config) -> Result<(PacketSocket, Child), MachineError> {
    let (program, arguments) =
        config.supervisor_command.split_first().ok_or_else(|| MachineError::Spawn {
            program: PathBuf::new(),
            source: io::Error::other("no supervisor command is configured"),
        })?;
    let spawn_error = |source| MachineError::Spawn { program: program.clone(), source };
    let (ours, theirs) = PacketSocket::pair().map_err(spawn_error)?;
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        // A terminal's Ctrl-C must not reach it before it has a session of its own.
        .process_group(0)
        .spawn()
        .map_err(spawn_error)?;
    Ok((ours, child))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_checked_before_anything_starts() {
        let check = |request: MachineRequest| match request.checked(HostMemory::default()) {
            Ok(_) => "",
            Err(MachineError::OutOfRange(error)) => error.name,
            Err(other) => panic!("{other}"),
        };
        assert_eq!(check(MachineRequest::default()), "");
        assert_eq!(check(MachineRequest { vcpu_count: 33, ..Default::default() }), "vcpu_count");
        assert_eq!(check(MachineRequest { mem_mib: 255, ..Default::default() }), "mem_mib");
        assert_eq!(check(MachineRequest { ttl_seconds: 59, ..Default::default() }), "ttl_seconds");
        assert_eq!(check(MachineRequest { disk_mib: Some(1), ..Default::default() }), "disk_mib");
    }

    #[test]
    fn ids_are_twelve_lowercase_hex_digits_and_differ() {
        let (a, b) = (MachineId::random(), MachineId::random());
        assert!(
            a.as_str().len() == 12
                && a.as_str().bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        );
        assert_ne!(a, b);
    }
}
