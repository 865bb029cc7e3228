//! Why something about a workspace failed.

use super::secrets::SecretError;
use crate::environments::EnvironmentError;
use crate::exec::AgentError;
use crate::limits::OutOfRange;
use crate::machine::MachineError;
use crate::network::{CheckError, NetworkError};
use crate::problem::{Blame, Explain, Problem};
use crate::services::ServiceSyntaxError;
use crate::store::{NameError, NetworkPolicy, StoreError, UnknownWord, WorkspaceId};
use crate::transfer::TransferError;
use std::io;
use std::path::PathBuf;

/// Why an operation on a workspace failed.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// The records say no, or cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A name breaks its rule.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A word that is not in its set, such as a network policy.
    #[error(transparent)]
    Word(#[from] UnknownWord),
    /// Network rules that cannot be meant.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A destination that cannot be checked.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// A number out of its bounds.
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
    /// A secret cannot be taken.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The environment could not be had.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// The machine could not be started or used.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// A patch cannot be read.
    #[error(transparent)]
    PatchSyntax(#[from] pyro_diff::ParseError),
    /// A patch does not fit.
    #[error(transparent)]
    PatchApply(#[from] pyro_diff::ApplyError),
    /// A file is too large for a patch.
    #[error(
        "file {path} of {size_bytes} bytes is too large for a patch (at most {})",
        pyro_diff::limits::MAX_PATCHED_BYTES
    )]
    PatchedFileTooLarge {
        /// The file.
        path: String,
        /// Its size.
        size_bytes: u64,
    },
    /// Trees cannot be compared.
    #[error(transparent)]
    Compare(#[from] pyro_diff::CompareError),
    /// The disk cannot be read from outside.
    #[error(transparent)]
    ReadDisk(#[from] pyro_diff::DiskError),
    /// Something is at the output already.
    #[error("output_path already exists: {}", .0.display())]
    OutputExists(PathBuf),
    /// A tree could not be moved.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// The operation needs a running machine.
    #[error("workspace {id} must be in 'started' state before {operation}")]
    NotStarted {
        /// The workspace.
        id: WorkspaceId,
        /// What was to be done.
        operation: &'static str,
    },
    /// The operation's machine was stopped before its end.
    #[error("workspace {0} was stopped meanwhile")]
    Stopped(WorkspaceId),
    /// The operation needs a disk that nobody writes.
    #[error("workspace '{id}' must be stopped before {operation}")]
    NotStopped {
        /// The workspace.
        id: WorkspaceId,
        /// What was to be done.
        operation: &'static str,
    },
    /// A snapshot is of another environment than the one that was asked for.
    #[error("from_snapshot is of environment '{present}', not '{wanted}'")]
    OtherEnvironment {
        /// The one asked for.
        wanted: String,
        /// The snapshot's.
        present: String,
    },
    /// Somebody else is changing the workspace's life.
    #[error("workspace {0} is busy: another pyro is starting, stopping or changing it")]
    Busy(WorkspaceId),
    /// A path that leaves the workspace.
    #[error("workspace path must stay inside /workspace: {0}")]
    Outside(String),
    /// No path at all.
    #[error("workspace path must not be empty")]
    EmptyPath,
    /// A file of the state directory.
    #[error("cannot {action} `{path}`")]
    State {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A shell has ended.
    #[error("shell {0} is not running")]
    ShellNotRunning(String),
    /// A shell's terminal is full of input that nobody reads.
    #[error("shell {0} does not read its input")]
    ShellInput(String),
    /// Nothing to wait for.
    #[error("the text to wait for must not be empty")]
    EmptyPattern,
    /// Too much to wait for.
    #[error("the text to wait for must be at most {} bytes long", crate::limits::SHELL_PATTERN_BYTES)]
    LongPattern,
    /// A service's description is wrong.
    #[error(transparent)]
    Service(#[from] ServiceSyntaxError),
    /// The workspace's network policy does not let services be published.
    #[error("published ports require workspace network_policy 'egress+published-ports', not '{0}'")]
    PortsForbidden(NetworkPolicy),
    /// A service did not become ready.
    #[error("service '{name}' of workspace '{id}' failed: {reason}{log}")]
    ServiceFailed {
        /// The workspace.
        id: WorkspaceId,
        /// The service.
        name: String,
        /// Why.
        reason: String,
        /// Its last words, each on a line of its own after a first end of line; or nothing.
        log: String,
    },
    /// A service has no log lines to ask for.
    #[error("tail_lines must be positive")]
    NoLines,
    /// A disk's layers do not fit together.
    #[error("the disk of workspace '{id}' cannot be read: {reason}")]
    Disk {
        /// The workspace.
        id: WorkspaceId,
        /// Why.
        reason: String,
    },
}

impl WorkspaceError {
    /// Whether a connection to the guest ended in the middle, which does not say why.
    pub(super) fn is_disconnection(&self) -> bool {
        matches!(
            self,
            Self::Machine(MachineError::Agent(AgentError::Disconnected))
                | Self::Transfer(TransferError::Agent(AgentError::Disconnected))
        )
    }

    pub(crate) fn state(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::State { action, path, source }
    }
}

impl From<AgentError> for WorkspaceError {
    fn from(error: AgentError) -> Self {
        Self::Machine(error.into())
    }
}

impl Explain for WorkspaceError {
    fn explain(&self) -> Problem {
        match self {
            Self::Store(error) => error.explain(),
            Self::Name(error) => error.explain(),
            Self::Word(error) => error.explain(),
            Self::Network(error) => error.explain(),
            Self::Check(error) => error.explain(),
            Self::OutOfRange(error) => error.explain(),
            Self::Environment(error) => error.explain(),
            Self::Machine(error) => error.explain(),
            Self::PatchSyntax(_) => Problem::new("patch_syntax", Blame::Caller, self)
                .with_hint("give what `git diff` or `diff -u` writes"),
            Self::PatchApply(_) | Self::PatchedFileTooLarge { .. } => {
                Problem::new("patch_rejected", Blame::Caller, self).with_hint("nothing was changed")
            }
            Self::Compare(_) => Problem::new("diff_failed", Blame::Guest, self),
            Self::ReadDisk(error) => explain_disk(error),
            Self::OutputExists(_) => {
                Problem::new("output_exists", Blame::Caller, self).with_hint("choose another path")
            }
            Self::Transfer(error) => error.explain(),
            Self::Secret(_) => Problem::new("invalid_secret", Blame::Caller, self),
            Self::NotStarted { id, .. } => Problem::new("not_started", Blame::Caller, self)
                .with_hint(format!("pyro workspace start {id}")),
            Self::Stopped(id) => Problem::new("workspace_stopped", Blame::Caller, self)
                .with_hint(format!("`pyro workspace status {id}` tells what became of it")),
            Self::NotStopped { id, .. } => Problem::new("not_stopped", Blame::Caller, self)
                .with_hint(format!("pyro workspace stop {id}")),
            Self::OtherEnvironment { .. } => Problem::new("other_environment", Blame::Caller, self)
                .with_hint("leave the environment out: a snapshot brings its own"),
            Self::Busy(_) => {
                Problem::new("workspace_busy", Blame::Caller, self).with_hint("try again in a moment")
            }
            Self::Outside(_) | Self::EmptyPath => Problem::new("bad_path", Blame::Caller, self)
                .with_hint("name a path below /workspace, or relative to it"),
            Self::State { .. } => Problem::new("state_unavailable", Blame::Host, self)
                .with_hint("PYRO_STATE_DIR must name a directory that you can write to, with free space"),
            Self::ShellNotRunning(_) => Problem::new("shell_not_running", Blame::Caller, self)
                .with_hint("what it printed can be read until it is closed; open another one"),
            Self::ShellInput(_) => Problem::new("shell_input_full", Blame::Guest, self)
                .with_hint("what runs in its foreground must read it or end: `pyro workspace shell signal`"),
            Self::EmptyPattern | Self::LongPattern => Problem::new("bad_pattern", Blame::Caller, self),
            Self::Service(error) => error.explain(),
            Self::PortsForbidden(_) => Problem::new("ports_forbidden", Blame::Caller, self)
                .with_hint("create the workspace with --network-policy egress+published-ports"),
            Self::ServiceFailed { id, name, .. } => Problem::new("service_failed", Blame::Guest, self)
                .with_hint(format!("pyro workspace service logs {id} {name}")),
            Self::NoLines => Problem::new("out_of_range", Blame::Caller, self),
            Self::Disk { .. } => {
                Problem::new("disk_broken", Blame::Host, self).with_hint("`pyro fsck` checks every workspace")
            }
        }
    }
}

fn explain_disk(error: &pyro_diff::DiskError) -> Problem {
    use pyro_diff::DiskError;
    match error {
        DiskError::NotFound { .. }
        | DiskError::NotDirectory { .. }
        | DiskError::NotRegular { .. }
        | DiskError::TooLarge { .. }
        | DiskError::Links { .. } => Problem::new("disk_path", Blame::Caller, error),
        DiskError::Limit { .. }
        | DiskError::NotExt4 { .. }
        | DiskError::Unsupported { .. }
        | DiskError::Damaged { .. } => Problem::new("disk_unreadable", Blame::Guest, error),
        DiskError::Read { .. } => Problem::new("disk_unreadable", Blame::Host, error),
    }
}
