//! Trees to and from a running workspace.

use super::{EXECUTION_MODE, Pyro, WORKSPACE_PATH, WorkspaceError, files};
use crate::faults::FaultPoint;
use crate::store::EventKind;
use crate::transfer::{
    self, ExportTarget, LinkPolicy, Overwrite, PullOptions, SeedFilter, SeedSource, SkipReason,
};
use pyro_agent::wire::{GuestPath, Operation};
use serde::Serialize;
use serde_json::json;
use std::path::{Path, PathBuf};

/// How a tree is taken out of a workspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExportOptions {
    /// What to do when something is at the output.
    pub overwrite: Overwrite,
    /// Which symbolic links are made; those left out are told.
    pub links: LinkPolicy,
}

/// Told the bytes of a tree, names and all, that have gone over so far.
pub type Moved<'a> = &'a (dyn Fn(u64) + Sync);

/// A tree that was sent.
#[derive(Clone, Debug, Serialize)]
pub struct Synced {
    /// The workspace.
    pub workspace_id: String,
    /// `guest_vsock`.
    pub execution_mode: &'static str,
    /// What was sent.
    pub workspace_sync: SyncFacts,
}

/// What was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SyncFacts {
    /// `directory` or `tar_archive`.
    pub mode: &'static str,
    /// Where it came from.
    pub source_path: PathBuf,
    /// Where it went.
    pub destination: String,
    /// Files, directories and links.
    pub entry_count: u64,
    /// Bytes of file contents.
    pub bytes_written: u64,
}

/// A tree that was taken.
#[derive(Clone, Debug, Serialize)]
pub struct Exported {
    /// The workspace.
    pub workspace_id: String,
    /// Where it was.
    pub workspace_path: String,
    /// Where it is now.
    pub output_path: PathBuf,
    /// `file`, `directory` or `symlink`.
    pub artifact_type: &'static str,
    /// Files, directories and links.
    pub entry_count: u64,
    /// Bytes of file contents.
    pub bytes_written: u64,
    /// How many entries were left out.
    pub skipped_count: u64,
    /// The first of them.
    pub skipped: Vec<SkippedEntry>,
    /// `guest_vsock`.
    pub execution_mode: &'static str,
}

/// An entry that was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SkippedEntry {
    /// Its path in the tree.
    pub path: String,
    /// Why.
    pub reason: String,
}

impl Pyro {
    /// Sends a directory or an archive into the workspace. It is put together apart and merged into `dest`
    /// only when it is complete: directories are merged, files replaced, nothing is removed.
    pub async fn sync_push(
        &self,
        address: &str,
        source: &Path,
        filter: SeedFilter,
        dest: &str,
        moved: Moved<'_>,
    ) -> Result<Synced, WorkspaceError> {
        let id = self.resolve(address)?;
        let destination = files::workspace_path(dest)?;
        let link = self.started(id, "workspace_sync_push")?;
        let seed = SeedSource::open(source, filter).await?;
        let mode = seed.mode().as_str();
        let operation = Operation::SyncIn {
            root: GuestPath::from(WORKSPACE_PATH),
            path: GuestPath::from(destination.as_str()),
        };
        let push = async {
            let stream = link.agent().await?;
            self.places.reach(FaultPoint::SyncConnected);
            let sending = |bytes| {
                self.places.reach(FaultPoint::SyncSending);
                moved(bytes);
            };
            Ok(transfer::push(stream, operation, seed, sending).await?)
        };
        let stats = self.during(id, &link, push).await?;
        self.places.reach(FaultPoint::SyncMerged);
        let workspace_sync = SyncFacts {
            mode,
            source_path: source.to_owned(),
            destination,
            entry_count: stats.entry_count,
            bytes_written: stats.bytes_written,
        };
        let detail = json!({
            "source": source.display().to_string(),
            "destination": workspace_sync.destination,
            "entry_count": stats.entry_count,
        });
        self.record(id, EventKind::SyncPush, &detail);
        Ok(Synced { workspace_id: id.to_string(), execution_mode: EXECUTION_MODE, workspace_sync })
    }

    /// Copies a file or tree out of the workspace. It appears at `output` whole or not at all, and nothing
    /// is written elsewhere.
    pub async fn export(
        &self,
        address: &str,
        path: &str,
        output: &Path,
        options: ExportOptions,
        moved: Moved<'_>,
    ) -> Result<Exported, WorkspaceError> {
        self.take(address, path, output, options, (EventKind::Export, moved)).await
    }

    /// The same as [`Pyro::export`], for a tree that is worked on at both ends.
    pub async fn sync_pull(
        &self,
        address: &str,
        path: &str,
        output: &Path,
        options: ExportOptions,
        moved: Moved<'_>,
    ) -> Result<Exported, WorkspaceError> {
        self.take(address, path, output, options, (EventKind::SyncPull, moved)).await
    }

    async fn take(
        &self,
        address: &str,
        path: &str,
        output: &Path,
        options: ExportOptions,
        (event, moved): (EventKind, Moved<'_>),
    ) -> Result<Exported, WorkspaceError> {
        let id = self.resolve(address)?;
        let workspace_path = files::workspace_path(path)?;
        let link = self.started(id, "workspace_export")?;
        let target = ExportTarget::new(output, options.overwrite)?;
        let operation = Operation::TreeOut { path: workspace_path.clone() };
        let pull = PullOptions { links: options.links, ..PullOptions::default() };
        let pull = async { Ok(transfer::pull(link.agent().await?, operation, target, pull, moved).await?) };
        let report = self.during(id, &link, pull).await?;
        let detail = json!({
            "path": workspace_path,
            "output": output.display().to_string(),
            "entry_count": report.entry_count,
        });
        self.record(id, event, &detail);
        let skipped = report.skipped.iter().map(|skipped| SkippedEntry {
            path: String::from_utf8_lossy(&skipped.path).into_owned(),
            reason: describe(&skipped.reason),
        });
        Ok(Exported {
            workspace_id: id.to_string(),
            workspace_path,
            output_path: output.to_owned(),
            artifact_type: report.artifact.as_str(),
            entry_count: report.entry_count,
            bytes_written: report.bytes_written,
            skipped_count: report.skipped_count,
            skipped: skipped.collect(),
            execution_mode: EXECUTION_MODE,
        })
    }
}

fn describe(reason: &SkipReason) -> String {
    match reason {
        SkipReason::Socket => "a socket".to_owned(),
        SkipReason::Device => "a device".to_owned(),
        SkipReason::Fifo => "a named pipe".to_owned(),
        SkipReason::LinkOutside { target } => {
            format!("a link that leads out, to {}", String::from_utf8_lossy(target))
        }
        SkipReason::NameOfSkipped => "another name of something left out".to_owned(),
    }
}
