//! Patches onto a workspace's tree: all of one or nothing.

use crate::guest::{self, Expected, FetchedKind, GuestPath, Transaction};
use crate::store::EventKind;
use crate::workspace::{EXECUTION_MODE, Pyro, WORKSPACE_PATH, WorkspaceError};
use pyro_diff::limits::MAX_PATCHED_BYTES;
use pyro_diff::{Change, Side, SideKind};
use serde::Serialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use tokio::net::UnixStream;

/// A patch that was applied.
#[derive(Clone, Debug, Serialize)]
pub struct PatchReport {
    /// The workspace.
    pub workspace_id: String,
    /// Whether anything is different now.
    pub changed: bool,
    /// How many files.
    pub summary: PatchSummary,
    /// Which files.
    pub entries: Vec<PatchEntry>,
    /// The patch, as text.
    pub patch: String,
    /// `guest_vsock`.
    pub execution_mode: &'static str,
}

/// How many files a patch concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PatchSummary {
    /// All of them.
    pub total: u64,
    /// New ones.
    pub added: u64,
    /// Those with other contents or modes.
    pub modified: u64,
    /// Those that are gone.
    pub deleted: u64,
}

/// One file of a patch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PatchEntry {
    /// Below `/workspace`.
    pub path: String,
    /// `added`, `modified` or `deleted`.
    pub status: &'static str,
}

impl Pyro {
    /// Applies what `git diff` or `diff -u` wrote to `/workspace`: all of it, or nothing where one file does
    /// not fit or has changed meanwhile.
    pub async fn patch_apply(&self, address: &str, patch: &[u8]) -> Result<PatchReport, WorkspaceError> {
        let parsed = pyro_diff::parse(patch)?;
        let id = self.resolve(address)?;
        let link = self.started(id, "workspace_patch_apply")?;
        let root = GuestPath::from(WORKSPACE_PATH);
        let paths: Vec<Vec<u8>> = parsed.paths().map(<[u8]>::to_vec).collect();
        let apply = async {
            let sides = fetch_sides(link.agent().await?, &root, paths).await?;
            let changes = pyro_diff::plan(&parsed, |path| sides.get(path).cloned())?;
            let mut transaction = guest::apply(link.agent().await?, &root, true).await?;
            for change in &changes {
                send(&mut transaction, change, &sides).await?;
            }
            transaction.commit().await?;
            Ok((changes, sides))
        };
        let (changes, sides) = self.during(id, &link, apply).await?;
        let entries = entries(&changes, &sides);
        let summary = summary(&entries);
        let files: Vec<&str> = entries.iter().take(RECORDED_FILES).map(|entry| entry.path.as_str()).collect();
        self.record(id, EventKind::Patch, &json!({ "total": summary.total, "files": files }));
        Ok(PatchReport {
            workspace_id: id.to_string(),
            changed: summary.total > 0,
            summary,
            entries,
            patch: String::from_utf8_lossy(patch).into_owned(),
            execution_mode: EXECUTION_MODE,
        })
    }
}

/// Files of a patch that its record names.
const RECORDED_FILES: usize = 50;

/// What is at each path now; a path with nothing is left out.
async fn fetch_sides(
    stream: UnixStream,
    root: &GuestPath,
    paths: Vec<Vec<u8>>,
) -> Result<BTreeMap<Vec<u8>, Side>, WorkspaceError> {
    let mut files = guest::files_out(stream, root, paths, MAX_PATCHED_BYTES as u64).await?;
    let mut sides = BTreeMap::new();
    while let Some(file) = files.next().await? {
        let side = match file.found {
            FetchedKind::Absent => continue,
            FetchedKind::TooLarge(facts) => {
                return Err(WorkspaceError::PatchedFileTooLarge {
                    path: String::from_utf8_lossy(&file.path).into_owned(),
                    size_bytes: facts.size_bytes,
                });
            }
            FetchedKind::File(facts, content) => Side { kind: SideKind::File, mode: facts.mode, content },
            FetchedKind::Other(facts) => match facts.link_target {
                Some(target) => {
                    Side { kind: SideKind::Symlink, mode: facts.mode, content: target.into_bytes() }
                }
                None => Side { kind: SideKind::Other, mode: facts.mode, content: Vec::new() },
            },
        };
        sides.insert(file.path, side);
    }
    Ok(sides)
}

/// Sends a change, on the condition that what it was planned for is still there.
async fn send(
    transaction: &mut Transaction,
    change: &Change,
    sides: &BTreeMap<Vec<u8>, Side>,
) -> Result<(), WorkspaceError> {
    let path = change.path();
    let expected = match sides.get(path) {
        None => Expected::Absent,
        Some(side) if side.kind == SideKind::Other => Expected::Any,
        Some(side) => Expected::Content(Sha256::digest(&side.content).into()),
    };
    match change {
        Change::Remove { .. } => transaction.remove(path, expected).await?,
        Change::Write { mode, content, .. } => {
            transaction.write(path, expected, Some(*mode), content).await?
        }
        Change::Chmod { mode, .. } => transaction.chmod(path, expected, *mode).await?,
        Change::Symlink { target, .. } => transaction.symlink(path, expected, target).await?,
    }
    Ok(())
}

/// The files that are different afterwards. One that is removed and written again is modified.
fn entries(changes: &[Change], sides: &BTreeMap<Vec<u8>, Side>) -> Vec<PatchEntry> {
    let mut statuses: BTreeMap<&[u8], &'static str> = BTreeMap::new();
    for change in changes {
        let path = change.path();
        let status = match change {
            Change::Remove { .. } => "deleted",
            Change::Write { .. } | Change::Chmod { .. } | Change::Symlink { .. }
                if sides.contains_key(path) =>
            {
                "modified"
            }
            Change::Write { .. } | Change::Chmod { .. } | Change::Symlink { .. } => "added",
        };
        statuses.insert(path, status);
    }
    let entry = |(path, status): (&[u8], &'static str)| PatchEntry {
        path: String::from_utf8_lossy(path).into_owned(),
        status,
    };
    statuses.into_iter().map(entry).collect()
}

fn summary(entries: &[PatchEntry]) -> PatchSummary {
    let count = |status: &str| entries.iter().filter(|entry| entry.status == status).count() as u64;
    PatchSummary {
        total: entries.len() as u64,
        added: count("added"),
        modified: count("modified"),
        deleted: count("deleted"),
    }
}
