//! Whether records and files agree, in full.

use super::{Pyro, WorkspaceError, garbage};
use crate::limits::MACHINE_LOCK_DEADLINE;
use crate::places::{FileLock, Hold};
use crate::store::{Finding, LayerId, StoreError, WorkspaceId, WorkspaceState};
use pyro_vmm::block::{DiskReader, OpenError};
use serde::Serialize;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// What to do with what is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Tell it.
    No,
    /// Remove files that no record names.
    Yes,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FsckReport {
    /// What is wrong, and still is.
    pub problems: Vec<String>,
    /// What was put right.
    pub repaired: Vec<String>,
}

impl Pyro {
    /// Checks every record, every layer of every disk, and every file of the state directory. What processes
    /// that died have left was settled when this was opened.
    pub async fn fsck(&self, repair: Repair) -> Result<FsckReport, WorkspaceError> {
        let mut report = FsckReport::default();
        report.problems.extend(self.store.check()?.into_iter().map(describe));
        for workspace in self.store.list()?.into_iter().flatten() {
            if let Err(problem) = self.check_disk(workspace.id) {
                report.problems.push(format!("workspace '{}': {problem}", workspace.id));
            }
        }
        // Who makes a workspace or a layer holds the lock until a record names it. A machine that comes up
        // takes longer than this waits; then files are left for another time.
        let path = self.places.layers_lock();
        let alone = FileLock::take_within(&path, Hold::Exclusive, MACHINE_LOCK_DEADLINE).await;
        if let Some(_alone) = alone.map_err(WorkspaceError::state("lock", path))? {
            self.check_files(repair, &mut report)?;
        }
        Ok(report)
    }

    /// Opens the disk's layers, which checks that they are there and stand on each other.
    fn check_disk(&self, id: WorkspaceId) -> Result<(), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        // Layers stay what they are until they are open.
        let _opening = self.keep_layers().map_err(|error| text(&error))?;
        let workspace = match self.store.get(id) {
            // Deleted meanwhile.
            Err(StoreError::NoWorkspace(_) | StoreError::Expired(_)) => return Ok(()),
            workspace => workspace.map_err(|error| text(&error))?,
        };
        let chain = self.store.chain(workspace.top_layer).map_err(|error| text(&error))?;
        // The top of a machine that runs, or is about to, is its own; the layers below it never change.
        let (mut may_run, _held) = match FileLock::try_take(&self.places.operation_lock(id), Hold::Shared) {
            Ok(held) => (held.is_none(), held),
            // Without its directory nothing is about to happen.
            Err(error) if error.kind() == io::ErrorKind::NotFound => (false, None),
            Err(error) => return Err(text(&error)),
        };
        may_run |= !garbage::is_free(&self.places.machine_lock(id));
        let skipped = (may_run || workspace.state == WorkspaceState::Creating).then_some(workspace.top_layer);
        let layers = chain.iter().filter(|layer| Some(layer.id) != skipped);
        let open = |path: PathBuf| File::open(&path).map_err(|error| format!("{}: {error}", path.display()));
        let layers = layers.map(|layer| open(self.places.layer(layer.id))).collect::<Result<Vec<_>, _>>()?;
        match DiskReader::open(open(self.places.base_of(&workspace))?, layers) {
            // A machine's last process is about to let go of it.
            Ok(_) | Err(OpenError::Busy) => Ok(()),
            Err(error) => Err(text(&error)),
        }
    }

    /// Finds files and directories that no record names. The caller keeps everybody from making any.
    fn check_files(&self, repair: Repair, report: &mut FsckReport) -> Result<(), WorkspaceError> {
        let layers: HashSet<LayerId> = self.store.layers()?.iter().map(|layer| layer.id).collect();
        for path in children(&self.places.layers())? {
            let id = path.file_stem().and_then(OsStr::to_str).and_then(|stem| stem.parse::<LayerId>().ok());
            if id.is_none_or(|id| !layers.contains(&id)) {
                settle(&path, repair, report, |path| std::fs::remove_file(path));
            }
        }
        let workspaces = garbage::recorded(&self.store)?;
        for dir in [self.places.workspaces(), self.places.all_secrets()] {
            for path in children(&dir)? {
                if garbage::owner(&path).is_none_or(|id| !workspaces.contains(&id)) {
                    settle(&path, repair, report, |path| std::fs::remove_dir_all(path));
                }
            }
        }
        Ok(())
    }
}

fn describe(finding: Finding) -> String {
    match finding {
        Finding::File(text) => format!("the state database is damaged: {text}"),
        Finding::Record(damaged) => damaged.to_string(),
        Finding::Rule(text) => text,
    }
}

fn settle(
    path: &Path,
    repair: Repair,
    report: &mut FsckReport,
    remove: impl FnOnce(&Path) -> io::Result<()>,
) {
    let found = format!("no record names {}", path.display());
    match repair {
        Repair::No => report.problems.push(found),
        Repair::Yes => match remove(path) {
            Ok(()) => report.repaired.push(format!("{found}: removed")),
            Err(error) => report.problems.push(format!("{found}, and it cannot be removed: {error}")),
        },
    }
}

/// What is in a directory; nothing where there is none.
fn children(dir: &Path) -> Result<Vec<PathBuf>, WorkspaceError> {
    let failed = || WorkspaceError::state("list", dir);
    match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries
            .map_err(failed())?
            .map(|entry| entry.map(|entry| entry.path()).map_err(failed()))
            .collect(),
    }
}
