//! What a client and a supervisor say to each other, one JSON packet a message.
//!
//! Both ends come from one build, so the messages carry no version. A descriptor travels with
//! `Answer::Connected` alone.

use super::shells::{ShellAnswer, ShellRequest};
use crate::exec::ExecRequest;
use crate::faults::Fault;
use crate::network::{NetworkContacts, NetworkDenials, OpenFlows, Policy, Proxy};
use crate::places::Places;
use crate::problem::Problem;
use crate::services::ServiceSpec;
use crate::store::{CommandKey, CommandOutput, WorkspaceUpdate};
use pyro_vmm::engine::EngineChoice;
use pyro_vmm::{ExitReason, JailReport};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::PathBuf;

/// From client to supervisor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// First message: boot a machine. Answered with `Started` or `Failed`.
    Start(Box<StartRequest>),
    /// Open a stream to a guest port. Answered with `Connected` or `Failed`.
    Connect { port: u32 },
    /// End the machine. Answered with `Ended`, after which the supervisor is gone.
    Stop(Stop),
    /// The machine of a workspace that is being made: it has been filled with this much; seal its disk as
    /// the baseline, or take the sealed layer that it began on. From then on the machine outlives its
    /// clients. Answered with `Done` or `Failed`.
    FinishCreate { entry_count: u64, bytes_written: u64, baseline: Option<String> },
    /// A workspace's machine: put a command on record that this client is about to run. It counts as lost
    /// when the client leaves without having recorded its end. Answered with `Begun` or `Failed`.
    BeginCommand { command: String, cwd: String },
    /// A workspace's machine: run a command that outlives this client. Answered with `Begun` when the guest
    /// has executed it, or `Failed`.
    RunCommand(Box<RunCommand>),
    /// A workspace's machine: answered with `Done` when the command does not run any more, however long that
    /// takes. The client may leave before.
    WaitCommand { command: CommandKey },
    /// A workspace's machine: end a command that [`Request::RunCommand`] started: with `signal`, and where
    /// that does not do it in time, with SIGKILL to all its processes. Answered with `Done` when it does not
    /// run any more, or `Failed`.
    KillCommand { command: CommandKey, signal: i32 },
    /// A workspace's machine: what a command that [`Request::RunCommand`] started has printed beyond `seen`.
    /// Answered with `Output` when there is something, or with `Done`: nothing now, or where the client has
    /// patience, nothing ever, for the command does not run any more and the records have all of it.
    ReadOutput { command: CommandKey, seen: SeenOutput, patience: Patience },
    /// A workspace's machine: something about its shells. Answered with `Shell` or `Failed`.
    Shell(Box<ShellRequest>),
    /// A workspace's machine: seal the disk as it is, as the snapshot `name`; without a name for a fork.
    /// Answered with `Snapshotted` or `Failed`.
    Snapshot { name: Option<String> },
    /// A workspace's machine: run a service. Answered with `Done` when it is ready or has failed, which the
    /// records tell, or `Failed` where the guest could not execute it. The client may leave before.
    StartService(Box<StartService>),
    /// A workspace's machine: end a service and start it again, or only start it. Answered like `StartService`.
    RestartService { name: String },
    /// A workspace's machine: end a service with all its processes. Answered with `Done` when it has ended.
    StopService { name: String },
    /// A workspace's machine: answered with `Done` when a service is as awaited, or has ended.
    WaitService { name: String, until: ServiceAwaited },
    /// A workspace's machine: answered with `Done` when a service has printed more than this, or has ended.
    WaitServiceLog { name: String, seen: Printed },
    /// A workspace's machine: change the workspace's record, and what its guest may reach with it. Answered with
    /// `Updated` or `Failed`.
    Update(Box<WorkspaceUpdate>),
    /// What the guest was denied since this number, which an earlier answer told; `u64::MAX` asks for the number
    /// alone. Answered with `Denials`.
    Denials { since: u64 },
    /// End the machine's network and tell what its guest has reached. Answered with `Contacts`.
    EndNetwork,
    /// A workspace's machine: answered with `Done` when its network has recorded more than these bytes.
    WaitNetworkLog { seen: u64 },
    /// A workspace's machine: the flows that go on. Answered with `OpenFlows`.
    OpenFlows,
    /// What the machine is like. Answered with `Started`.
    Describe,
}

/// A command that its supervisor runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RunCommand {
    /// As a shell would take it, without secrets.
    pub(crate) command: String,
    pub(crate) cwd: String,
    pub(crate) exec: ExecRequest,
}

/// A service that its supervisor runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StartService {
    pub(crate) name: String,
    /// As a shell would take it, without secrets.
    pub(crate) command: String,
    pub(crate) cwd: String,
    pub(crate) autostart: bool,
    pub(crate) spec: ServiceSpec,
}

/// What a client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ServiceAwaited {
    Ready,
    Ended,
}

/// How many bytes of each stream a service has printed, over all its starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Printed {
    pub(crate) stdout: u64,
    pub(crate) stderr: u64,
}

/// How long a client waits for output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Patience {
    None,
    UntilThereIsMore,
}

/// How many bytes of a command's output a client has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SeenOutput {
    pub(crate) stdout: usize,
    pub(crate) stderr: usize,
}

impl SeenOutput {
    /// Whether there is more.
    pub(crate) fn is_behind(self, output: &CommandOutput) -> bool {
        self.stdout < output.stdout.len() || self.stderr < output.stderr.len()
    }
}

/// How to end a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stop {
    /// Let the guest write everything to its disk first.
    PowerOff,
    /// At once: the disk is thrown away.
    Kill,
}

/// A machine to boot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StartRequest {
    pub(crate) machine_id: String,
    pub(crate) engine: EngineChoice,
    pub(crate) vmm_binary: PathBuf,
    pub(crate) program_path: OsString,
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) vcpu_count: u8,
    pub(crate) mem_mib: u32,
    pub(crate) disk: DiskRequest,
    /// What its guest may reach; without, it has no interface.
    pub(crate) network: Option<Policy>,
    /// Through whom its connections to names go.
    pub(crate) proxy: Option<Proxy>,
    /// Private state of machines.
    pub(crate) state_dir: PathBuf,
    pub(crate) life: Life,
    /// Where to die, for tests.
    pub(crate) fault: Option<Fault>,
    /// Where the machine's process tells of a forbidden system call, for tests.
    pub(crate) trap_log: Option<PathBuf>,
}

impl StartRequest {
    /// Where flows are recorded: with the workspace. A one-shot machine's go with it.
    pub(crate) fn network_log(&self) -> Option<PathBuf> {
        match &self.life {
            Life::OneShot { .. } => None,
            Life::Workspace { id, .. } => {
                let id = id.parse().ok()?;
                Some(Places::new(&self.state_dir).network_log(id))
            }
        }
    }
}

/// A machine's disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DiskRequest {
    /// The environment's image.
    pub(crate) base: PathBuf,
    /// Most bytes that the guest may write; `None` is the disk's size.
    pub(crate) limit_bytes: Option<u64>,
    /// The workspace's layers; without them what is written is gone with the machine.
    pub(crate) layers: Option<LayerFiles>,
}

/// A stack of deltas over a base.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerFiles {
    /// Bottom first.
    pub(crate) sealed: Vec<PathBuf>,
    /// The one that is written.
    pub(crate) top: PathBuf,
}

/// What a machine's life depends on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Life {
    /// It ends with its client, and after this long at the latest.
    OneShot { ttl_seconds: u64 },
    /// It belongs to a workspace and outlives its clients.
    Workspace {
        id: String,
        /// The workspace is being made: until `FinishCreate` the machine ends with its first client.
        creating: bool,
    },
}

/// From supervisor to client.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Started(Box<Started>),
    Connected,
    /// Carried out.
    Done,
    Begun {
        command: CommandKey,
    },
    /// The next bytes, in hexadecimal digits: they need not be text.
    Output {
        stdout: String,
        stderr: String,
    },
    Shell(Box<ShellAnswer>),
    /// Whether what the guest may reach is in force.
    Updated {
        in_force: bool,
    },
    Denials(NetworkDenials),
    Contacts(NetworkContacts),
    OpenFlows(OpenFlows),
    Snapshotted {
        entry_count: u64,
        bytes_written: u64,
    },
    /// The request could not be carried out.
    Failed(Problem),
    /// The machine is gone; may come unasked, and nothing follows.
    Ended(Ended),
}

/// A machine that runs and whose agent answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Started {
    /// The engine in use, in words: `emulated (QEMU 7.2.22)`.
    pub engine: String,
    /// Why this engine.
    pub engine_reason: String,
    /// What confines the machine's processes.
    pub jail: JailReport,
    /// The guest kernel's release.
    pub kernel: String,
    /// The agent's version.
    pub agent: String,
    /// From the machine's process start to the agent's first word, microseconds of host time.
    pub boot_us: u64,
}

/// How a machine ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ended {
    /// What ended it.
    pub cause: EndCause,
    /// The console's last lines, at most [`CONSOLE_TAIL_BYTES`].
    pub console: String,
}

/// Console text kept with [`Ended`]: a kernel panic's report fits.
pub const CONSOLE_TAIL_BYTES: usize = 16 << 10;

/// What ended a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndCause {
    /// The client asked for it or went away.
    Stopped,
    /// Its time to live was over.
    Expired,
    /// The machine's process said so.
    Machine(ExitReason),
    /// The supervisor could not go on.
    Failed(String),
}
