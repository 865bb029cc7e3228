//! Workspaces: machines that are kept, with files, snapshots and a difference from where they began.
//!
//! ```text
//! creating --seeded, baseline sealed--> started <--stop, start--> stopped --delete--> (gone)
//!                                          |  machine died, expired                  ^
//!                                          +-----------------------------------------+
//! ```
//! Records are rows of one database, disks are stacks of layers; whoever changes a workspace's life holds
//! its operation lock, and its supervisor holds the machine lock as long as the machine runs. A process that
//! dies leaves its locks to the kernel and its half-done work to the next call, see [`Pyro::open`].

mod commands;
mod create;
mod diff;
mod disk;
mod error;
mod exec;
mod files;
mod fsck;
pub(crate) mod garbage;
pub(crate) mod layers;
mod lifecycle;
mod network;
mod origin;
mod review;
pub(crate) mod secrets;
mod service;
mod shell;
mod snapshots;
mod sync;
#[cfg(test)]
mod tests;
mod views;
mod waiting;

pub use commands::{CommandFollow, CommandView, DetachedCommand, KillSignal, NewOutput, WaitedCommand};
pub use create::{CreatePhase, CreateProgress, CreateWorkspace};
pub use diff::{Diff, DiffEntry, DiffSummary};
pub use disk::DiskExport;
pub use error::WorkspaceError;
pub(crate) use exec::outcome;
pub use exec::{Captured, ExecFacts, ExecRecord, WorkspaceCommand, WorkspaceExec};
pub use files::{
    FileChanged, FileContent, FileEntry, FileListing, FileStat, FileWritten, PatchEntry, PatchReport,
    PatchSummary,
};
pub use fsck::{FsckReport, Repair};
pub use lifecycle::{NetworkEffect, UpdateWorkspace, UpdatedWorkspace};
pub use network::{NetworkFollow, NetworkLog, NetworkRecords};
pub use origin::ForkWorkspace;
pub use review::{CommandCounts, LogEntry, Summary, SummaryCommand, SummaryEvent};
pub use secrets::{SecretSpec, SecretValue};
pub use service::{
    LogTail, Ports, PublishedPort, ServiceDenials, ServiceFollow, ServiceLogs, ServicePort, ServiceRequest,
    ServiceUntil, ServiceUsage, ServiceView, Services, WaitedService,
};
pub use shell::{
    AttachInput, AttachOutput, AttachRestore, Attached, Attachment, Newline, OpenShell, ReadShell,
    ShellClosed, ShellOutput, ShellSignalled, ShellView, ShellWait, ShellWritten,
};
pub use snapshots::{Reset, ResetFacts, SnapshotDeleted, SnapshotView};
pub use sync::{ExportOptions, Exported, Moved, SkippedEntry, SyncFacts, Synced};
pub use views::{LastCommand, SecretFacts, SeedView, WORKSPACE_PATH, WorkspaceView};
pub use waiting::{Awaited, WaitedWorkspace};

pub use crate::store::WorkspaceId;
pub use crate::transfer::{LinkPolicy, Overwrite, SeedFilter};

use crate::config::Config;
use crate::places::{Places, create_private_dir};
use crate::store::{EventKind, StateStore};
use std::time::{SystemTime, UNIX_EPOCH};

/// What every result says of how it was had: in a real guest, over vsock.
pub const EXECUTION_MODE: &str = "guest_vsock";

/// The way in: a configuration and the records of its state directory. Any number of processes may have one
/// for the same directory.
#[derive(Debug)]
pub struct Pyro {
    config: Config,
    places: Places,
    store: StateStore,
}

impl Pyro {
    /// Opens the state directory, which is made where it is missing, and settles what processes that died
    /// have left there.
    pub fn open(config: Config) -> Result<Self, WorkspaceError> {
        let places = Places::new(&config.state_dir).with_fault(config.fault.clone());
        create_private_dir(places.root()).map_err(WorkspaceError::state("make", places.root()))?;
        let store = StateStore::open(&places.database())?;
        garbage::recover(&store, &places)?;
        Ok(Self { config, places, store })
    }

    /// Removes what an interrupted operation of this process has left, as soon as its machine has ended.
    /// Without this the next [`Pyro::open`] does it, but for unfinished outputs.
    pub async fn settle(&self) -> Result<(), WorkspaceError> {
        crate::transfer::settle().await;
        garbage::await_machines(&self.store, &self.places).await?;
        garbage::recover(&self.store, &self.places)
    }

    /// The workspace that an id, a unique prefix of one, or a name means.
    fn resolve(&self, address: &str) -> Result<WorkspaceId, WorkspaceError> {
        Ok(self.store.resolve(address)?)
    }

    /// Notes for the review what was done. What was done stays done where that fails.
    fn record(&self, id: WorkspaceId, kind: EventKind, detail: &serde_json::Value) {
        let _ = self.store.record_event(id, kind, detail, now());
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
