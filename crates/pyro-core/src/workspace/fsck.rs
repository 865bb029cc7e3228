//! Whether records and files agree, in full.

use super::{Pyro, WorkspaceError, WorkspaceId, garbage};
use crate::places::{FileLock, Hold};
use crate::store::{Finding, LayerId, Workspace, WorkspaceState};
use pyro_vmm::block::DiskReader;
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
        let mut known: HashSet<WorkspaceId> = HashSet::new();
        let mut workspaces: Vec<Workspace> = Vec::new();
        for workspace in self.store.list()? {
            match workspace {
                Ok(workspace) => {
                    known.insert(workspace.id);
                    workspaces.push(workspace);
                }
                // Its files are its own however its record reads.
                Err(damaged) => known.extend(damaged.id.parse::<WorkspaceId>()),
            }
        }
        for workspace in &workspaces {
            if let Err(problem) = self.check_disk(workspace) {
                report.problems.push(format!("workspace '{}': {problem}", workspace.id));
            }
        }
        self.check_layers(repair, &mut report)?;
        for dir in [self.places.workspaces(), self.places.all_secrets()] {
            self.check_directories(&dir, &known, repair, &mut report)?;
        }
        Ok(report)
    }

    /// Opens the disk's layers, which checks that they are there and stand on each other.
    fn check_disk(&self, workspace: &Workspace) -> Result<(), String> {
        let chain = self.store.chain(workspace.top_layer).map_err(|error| error.to_string())?;
        // The top of a running machine is its own; the layers below it never change.
        let is_running = !garbage::is_free(&self.places.machine_lock(workspace.id));
        let is_making = workspace.state == WorkspaceState::Creating;
        let skipped = (is_running || is_making).then_some(workspace.top_layer);
        let layers = chain.iter().filter(|layer| Some(layer.id) != skipped);
        let open = |path: PathBuf| File::open(&path).map_err(|error| format!("{}: {error}", path.display()));
        let layers = layers.map(|layer| open(self.places.layer(layer.id))).collect::<Result<Vec<_>, _>>()?;
        DiskReader::open(open(self.places.base_of(workspace))?, layers).map_err(|error| error.to_string())?;
        Ok(())
    }

    fn check_layers(&self, repair: Repair, report: &mut FsckReport) -> Result<(), WorkspaceError> {
        let path = self.places.layers_lock();
        let alone =
            FileLock::try_take(&path, Hold::Exclusive).map_err(WorkspaceError::state("lock", path))?;
        // Somebody is making a layer that no record names yet.
        let Some(_alone) = alone else { return Ok(()) };
        let known: HashSet<LayerId> = self.store.layers()?.iter().map(|layer| layer.id).collect();
        for path in children(&self.places.layers())? {
            let id = path.file_stem().and_then(OsStr::to_str).and_then(|stem| stem.parse::<LayerId>().ok());
            if id.is_none_or(|id| !known.contains(&id)) {
                settle(&path, repair, report, |path| std::fs::remove_file(path));
            }
        }
        Ok(())
    }

    fn check_directories(
        &self,
        dir: &Path,
        known: &HashSet<WorkspaceId>,
        repair: Repair,
        report: &mut FsckReport,
    ) -> Result<(), WorkspaceError> {
        // Made and removed by whoever holds the workspace's operation lock.
        for path in children(dir)? {
            let id: Option<WorkspaceId> =
                path.file_name().and_then(OsStr::to_str).and_then(|name| name.parse().ok());
            if id.is_some_and(|id| known.contains(&id)) {
                continue;
            }
            // Whoever makes a workspace holds its lock before its record is there.
            let held = id.is_some_and(|id| {
                [self.places.operation_lock(id), self.places.machine_lock(id)]
                    .iter()
                    .any(|lock| lock.exists() && !garbage::is_free(lock))
            });
            if !held {
                settle(&path, repair, report, |path| std::fs::remove_dir_all(path));
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
