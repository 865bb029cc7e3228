//! Why the state database said no.

use super::ids::{LayerId, ShellId, WorkspaceId};
use super::names::NameError;
use super::row::Damaged;
use super::values::{LayerState, WorkspaceState};
use crate::network::NetworkError;
use crate::problem::{Blame, Explain, Problem};
use rusqlite::ErrorCode;
use std::io;
use std::path::PathBuf;

/// Why an operation on the state database failed. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Its directory or file cannot be made or looked at.
    #[error("cannot open the state database {path}")]
    Open {
        /// The database's file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// SQLite failed: disk full, file damaged, no permission.
    #[error("the state database failed")]
    Database(#[source] rusqlite::Error),
    /// Other processes held it for all of [`super::BUSY_TIME`].
    #[error("the state database is busy: other processes kept it locked for 10 s")]
    Busy,
    /// A newer pyro wrote it.
    #[error("the state database {path} has version {found}, this pyro knows versions up to {known}")]
    TooNew {
        /// The database's file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version that this program knows.
        known: i64,
    },
    /// The file is some other program's.
    #[error("{path} is a database, but not pyro's")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Nothing has this id, name or prefix.
    #[error("workspace '{0}' does not exist")]
    NoWorkspace(String),
    /// There was one, until its time was over.
    #[error("workspace '{0}' expired and was automatically deleted")]
    Expired(String),
    /// Several workspaces have this name or begin like this.
    #[error("workspace '{address}' is ambiguous: {}", candidates.join(", "))]
    Ambiguous {
        /// What the caller wrote.
        address: String,
        /// The first few that it may mean.
        candidates: Vec<String>,
    },
    /// Network rules that cannot be meant.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A name does not follow its rule.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The id is in use; draw another.
    #[error("workspace '{0}' already exists")]
    Taken(WorkspaceId),
    /// The request leaves everything as it is.
    #[error("workspace update requested no effective metadata change")]
    NothingToChange,
    /// Somebody else was faster, or the operation does not fit.
    #[error("workspace {id} must be in {} state, not '{found}'", expected(wanted))]
    Conflict {
        /// The workspace.
        id: WorkspaceId,
        /// States in which the operation is possible.
        wanted: Vec<WorkspaceState>,
        /// The state it is in.
        found: WorkspaceState,
    },
    /// The workspace has no snapshot of this name.
    #[error("snapshot '{name}' does not exist in workspace '{id}'")]
    NoSnapshot {
        /// The workspace.
        id: WorkspaceId,
        /// The snapshot.
        name: String,
    },
    /// The workspace has a snapshot of this name.
    #[error("snapshot '{name}' already exists in workspace '{id}'")]
    SnapshotExists {
        /// The workspace.
        id: WorkspaceId,
        /// The snapshot.
        name: String,
    },
    /// The baseline stays.
    #[error("cannot delete the baseline snapshot")]
    BaselineStays,
    /// The disk's top is another layer than the caller holds.
    #[error("the disk of workspace {id} has moved on: its top is layer {found}, not {expected}")]
    TopMoved {
        /// The workspace.
        id: WorkspaceId,
        /// What the caller holds.
        expected: LayerId,
        /// What is there.
        found: LayerId,
    },
    /// A layer does not fit the operation.
    #[error("layer {layer} {fault}")]
    Layer {
        /// The layer.
        layer: LayerId,
        /// Why.
        fault: LayerFault,
    },
    /// No such command, or a reset has cleared it.
    #[error("command #{sequence} does not exist in workspace '{id}'")]
    NoCommand {
        /// The workspace.
        id: WorkspaceId,
        /// The command.
        sequence: u64,
    },
    /// The command's end is known already.
    #[error("command #{sequence} of workspace '{id}' has already ended")]
    CommandEnded {
        /// The workspace.
        id: WorkspaceId,
        /// The command.
        sequence: u64,
    },
    /// The workspace has no shell of this id, or no longer.
    #[error("shell '{shell}' does not exist in workspace '{id}'")]
    NoShell {
        /// The workspace.
        id: WorkspaceId,
        /// The shell, as the caller writes it.
        shell: String,
    },
    /// Several shells begin like this.
    #[error("shell '{shell}' is ambiguous in workspace '{id}'")]
    AmbiguousShell {
        /// The workspace.
        id: WorkspaceId,
        /// The shell, as the caller writes it.
        shell: String,
    },
    /// The id is in use; draw another.
    #[error("shell '{0}' already exists")]
    ShellTaken(ShellId),
    /// The workspace has no service of this name.
    #[error("service '{name}' does not exist in workspace '{id}'")]
    NoService {
        /// The workspace.
        id: WorkspaceId,
        /// The service.
        name: String,
    },
    /// A service of this name lives.
    #[error("service '{name}' is already running in workspace '{id}'")]
    ServiceRuns {
        /// The workspace.
        id: WorkspaceId,
        /// The service.
        name: String,
    },
    /// As many services live as there may be.
    #[error("{} services run in workspace '{id}' already", super::services::SERVICES)]
    TooManyServices {
        /// The workspace.
        id: WorkspaceId,
    },
    /// A record does not make sense; others are not concerned.
    #[error(transparent)]
    Damaged(#[from] Damaged),
}

/// What is wrong with a layer.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum LayerFault {
    /// No row.
    #[error("does not exist")]
    Missing,
    /// A row of this id is there already.
    #[error("already exists")]
    Exists,
    /// The other state is wanted.
    #[error("is {0}")]
    State(LayerState),
    /// Nothing needs it, so its file may be gone.
    #[error("is no longer in use")]
    Garbage,
    /// The other layer named does not stand on it.
    #[error("is not right below the other")]
    Elsewhere,
    /// Something needs it.
    #[error("is still in use")]
    Used,
    /// It belongs to another base image.
    #[error("has another base image")]
    OtherBase,
    /// The stack on it would be higher than [`super::CHAIN_LAYERS`].
    #[error("has too many layers below it")]
    TooDeep,
    /// Its ancestors never end.
    #[error("is its own ancestor")]
    Loop,
}

fn expected(wanted: &[WorkspaceState]) -> String {
    let words: Vec<String> = wanted.iter().map(|state| format!("'{state}'")).collect();
    words.join(" or ")
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            _ => Self::Database(error),
        }
    }
}

impl StoreError {
    /// Whether the same call may succeed later.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Busy)
    }
}

impl Explain for StoreError {
    fn explain(&self) -> Problem {
        let tell = |code, blame| Problem::new(code, blame, self);
        match self {
            Self::Open { .. } => tell("state_unavailable", Blame::Host)
                .with_hint("PYRO_STATE_DIR must name a directory that you can write to"),
            Self::Database(error) => explain_database(error, self),
            Self::Busy => tell("state_busy", Blame::Host).with_hint("try again"),
            Self::TooNew { .. } => tell("state_too_new", Blame::Host)
                .with_hint("use the newer pyro, or another directory with PYRO_STATE_DIR"),
            Self::Foreign { .. } => tell("state_unavailable", Blame::Host)
                .with_hint("PYRO_STATE_DIR must name a directory of pyro's own"),
            Self::NoWorkspace(_) => tell("no_such_workspace", Blame::Caller)
                .with_hint("`pyro workspace list` shows what there is"),
            Self::Expired(_) => tell("workspace_expired", Blame::Caller)
                .with_hint("create it with a longer --ttl-seconds, or with 0 for no end"),
            Self::Ambiguous { .. } => {
                tell("ambiguous_workspace", Blame::Caller).with_hint("give the whole id, or more of it")
            }
            Self::Name(error) => error.explain(),
            Self::Network(error) => error.explain(),
            Self::Taken(_) => tell("workspace_exists", Blame::Caller),
            Self::NothingToChange => tell("nothing_to_change", Blame::Caller).with_hint(
                "give another name or label than it has: --name, --clear-name, --label, --clear-label",
            ),
            Self::Conflict { found, .. } => explain_conflict(*found, self),
            Self::NoSnapshot { id, .. } => tell("no_such_snapshot", Blame::Caller)
                .with_hint(format!("`pyro workspace snapshot list {id}` shows what there is")),
            Self::SnapshotExists { .. } => tell("snapshot_exists", Blame::Caller)
                .with_hint("take another name, or delete that snapshot first"),
            Self::BaselineStays => tell("baseline_stays", Blame::Caller),
            Self::TopMoved { .. } => tell("workspace_changed", Blame::Caller).with_hint("try again"),
            Self::Layer { .. } => tell("layer_unusable", Blame::Bug),
            Self::NoCommand { id, .. } => tell("no_such_command", Blame::Caller)
                .with_hint(format!("`pyro workspace exec list {id}` shows what there is")),
            Self::CommandEnded { .. } => tell("command_ended", Blame::Caller),
            Self::NoShell { id, .. } => tell("no_such_shell", Blame::Caller)
                .with_hint(format!("`pyro workspace shell list {id}` shows what there is")),
            Self::AmbiguousShell { .. } => {
                tell("ambiguous_shell", Blame::Caller).with_hint("give the whole id, or more of it")
            }
            Self::ShellTaken(_) => tell("shell_exists", Blame::Bug),
            Self::NoService { id, .. } => tell("no_such_service", Blame::Caller)
                .with_hint(format!("`pyro workspace service list {id}` shows what there is")),
            Self::ServiceRuns { id, name } => tell("service_running", Blame::Caller).with_hint(format!(
                "`pyro workspace service restart {id} {name}` starts it anew, `service stop` ends it"
            )),
            Self::TooManyServices { id } => tell("too_many_services", Blame::Caller)
                .with_hint(format!("`pyro workspace service stop {id} NAME` ends one")),
            Self::Damaged(damaged) => damaged.explain(),
        }
    }
}

fn explain_conflict(found: WorkspaceState, shown: &StoreError) -> Problem {
    let problem = Problem::new("wrong_state", Blame::Caller, shown);
    match found {
        WorkspaceState::Creating => problem.with_hint("wait until it has been created"),
        WorkspaceState::Started => problem.with_hint("stop it first: `pyro workspace stop`"),
        WorkspaceState::Stopped => problem.with_hint("start it first: `pyro workspace start`"),
        WorkspaceState::Deleting => problem.with_hint("it is being deleted"),
    }
}

fn explain_database(error: &rusqlite::Error, shown: &StoreError) -> Problem {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            Problem::new("disk_full", Blame::Host, shown).with_hint("free space in the state directory")
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            Problem::new("state_damaged", Blame::Host, shown)
                .with_hint("`pyro fsck` tells what is damaged; PYRO_STATE_DIR names the directory")
        }
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            Problem::new("state_unavailable", Blame::Host, shown)
                .with_hint("PYRO_STATE_DIR must name a directory that you can write to")
        }
        Some(ErrorCode::SystemIoFailure) => Problem::new("state_failed", Blame::Host, shown),
        _ => Problem::new("state_failed", Blame::Bug, shown),
    }
}
