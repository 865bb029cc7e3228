//! Snapshots and what moves a disk's top: sealing and resetting.

use super::ids::{LayerId, WorkspaceId};
use super::row::{self, Damaged, Fields};
use super::values::{LayerState, SnapshotKind, WorkspaceState};
use super::workspaces::{self, Workspace};
use super::{Durability, Millis, StateStore, StoreError, layers, life, names};
use rusqlite::{OptionalExtension, Transaction, params};

/// States in which a disk's layers can move.
const AT_REST_OR_RUNNING: &[WorkspaceState] = &[WorkspaceState::Started, WorkspaceState::Stopped];

/// A snapshot on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// Its workspace.
    pub workspace: WorkspaceId,
    /// Its name.
    pub name: String,
    /// Who made it.
    pub kind: SnapshotKind,
    /// The sealed layer that it is.
    pub layer: LayerId,
    /// When it was made.
    pub created_at: Millis,
    /// Files, directories and links in `/workspace`.
    pub entry_count: u64,
    /// Bytes of files in `/workspace`.
    pub bytes_written: u64,
}

/// A snapshot to be made.
#[derive(Clone, Debug)]
pub struct NewSnapshot {
    /// Its name, which follows [`names::snapshot_name`].
    pub name: String,
    /// Files, directories and links in `/workspace`.
    pub entry_count: u64,
    /// Bytes of files in `/workspace`.
    pub bytes_written: u64,
}

impl StateStore {
    /// Seals the workspace's top layer `sealed` and goes on with `new_top`; the sealed layer becomes a
    /// snapshot where one is asked for, and otherwise serves as the parent of a fork.
    pub fn seal_and_push(
        &self,
        id: WorkspaceId,
        snapshot: Option<&NewSnapshot>,
        sealed: LayerId,
        new_top: LayerId,
        now: Millis,
    ) -> Result<(), StoreError> {
        let name = snapshot.map(|snapshot| names::snapshot_name(&snapshot.name)).transpose()?;
        self.write(Durability::Disk, |tx| {
            life::require_state(tx, id, AT_REST_OR_RUNNING)?;
            push(tx, id, sealed, new_top, now)?;
            if let (Some(snapshot), Some(name)) = (snapshot, name) {
                let new = NewSnapshot { name, ..snapshot.clone() };
                insert(tx, id, SnapshotKind::Named, &new, sealed, now)?;
            }
            Ok(life::renew(tx, id, now)?)
        })
    }

    /// A workspace's snapshots: the baseline, then the newest first, then by name.
    pub fn snapshots(&self, id: WorkspaceId) -> Result<Vec<SnapshotRecord>, StoreError> {
        self.read(|tx| {
            workspaces::require(tx, id)?;
            let mut select = tx.prepare(
                "SELECT * FROM snapshots WHERE workspace = ?1 ORDER BY kind <> 'baseline', created_at DESC, name",
            )?;
            let mut rows = select.query([id])?;
            let mut snapshots = Vec::new();
            while let Some(row) = rows.next()? {
                snapshots.push(parse(&Fields::new(row, "workspace"))?);
            }
            Ok(snapshots)
        })
    }

    /// One snapshot of a workspace.
    pub fn snapshot(&self, id: WorkspaceId, name: &str) -> Result<SnapshotRecord, StoreError> {
        let name = names::existing_snapshot_name(name)?;
        self.read(|tx| {
            workspaces::require(tx, id)?;
            select(tx, id, &name)
        })
    }

    /// That a snapshot can be made under `name`: asked before the work of making it.
    pub fn check_new_snapshot(&self, id: WorkspaceId, name: &str) -> Result<(), StoreError> {
        let name = names::snapshot_name(name)?;
        self.read(|tx| {
            workspaces::require(tx, id)?;
            match select(tx, id, &name) {
                Ok(_) => Err(StoreError::SnapshotExists { id, name }),
                Err(StoreError::NoSnapshot { .. }) => Ok(()),
                Err(error) => Err(error),
            }
        })
    }

    /// Forgets a snapshot and tells what it was. Its layer becomes garbage where nothing else needs it, and
    /// may be mergeable with the next otherwise.
    pub fn delete_snapshot(
        &self,
        id: WorkspaceId,
        name: &str,
        now: Millis,
    ) -> Result<SnapshotRecord, StoreError> {
        let name = names::existing_snapshot_name(name)?;
        self.write(Durability::Disk, |tx| {
            life::require_state(tx, id, AT_REST_OR_RUNNING)?;
            let snapshot = select(tx, id, &name)?;
            if snapshot.kind == SnapshotKind::Baseline {
                return Err(StoreError::BaselineStays);
            }
            tx.execute("DELETE FROM snapshots WHERE workspace = ?1 AND name = ?2", params![id, name])?;
            life::renew(tx, id, now)?;
            Ok(snapshot)
        })
    }

    /// Throws the workspace's top layer away and goes on with `new_top` over the snapshot. Commands, services
    /// and events are cleared, the sequence starts again at 1. The state stays as it is.
    pub fn reset(
        &self,
        snapshot: &SnapshotRecord,
        new_top: LayerId,
        now: Millis,
    ) -> Result<Workspace, StoreError> {
        let id = snapshot.workspace;
        self.write(Durability::Disk, |tx| {
            let workspace = life::require_state(tx, id, AT_REST_OR_RUNNING)?;
            let found = select(tx, id, &snapshot.name)?;
            if found.layer != snapshot.layer {
                // Deleted and made anew since the caller looked; its new top stands on the old one.
                return Err(StoreError::NoSnapshot { id, name: found.name });
            }
            layers::insert(tx, new_top, Some(found.layer), &workspace.base_key, now)?;
            tx.execute(
                "UPDATE workspaces SET top_layer = ?2, reset_count = reset_count + 1, last_reset_at = ?3, \
                    next_sequence = 1, output_bytes = 0 WHERE id = ?1",
                params![id, new_top, now],
            )?;
            tx.execute("DELETE FROM commands WHERE workspace = ?1", [id])?;
            tx.execute("DELETE FROM events WHERE workspace = ?1", [id])?;
            tx.execute("DELETE FROM services WHERE workspace = ?1", [id])?;
            life::renew(tx, id, now)?;
            workspaces::require(tx, id)
        })
    }
}

/// Seals the top of a workspace's disk and puts `new_top` on it.
pub(super) fn push(
    tx: &Transaction<'_>,
    id: WorkspaceId,
    sealed: LayerId,
    new_top: LayerId,
    now: Millis,
) -> Result<(), StoreError> {
    let workspace = workspaces::require(tx, id)?;
    if workspace.top_layer != sealed {
        return Err(StoreError::TopMoved { id, expected: sealed, found: workspace.top_layer });
    }
    tx.execute("UPDATE layers SET state = ?2 WHERE id = ?1", params![sealed, LayerState::Sealed])?;
    layers::insert(tx, new_top, Some(sealed), &workspace.base_key, now)?;
    tx.execute("UPDATE workspaces SET top_layer = ?2 WHERE id = ?1", params![id, new_top])?;
    Ok(())
}

/// Puts a snapshot on record.
pub(super) fn insert(
    tx: &Transaction<'_>,
    id: WorkspaceId,
    kind: SnapshotKind,
    new: &NewSnapshot,
    layer: LayerId,
    now: Millis,
) -> Result<(), StoreError> {
    let inserted = tx.execute(
        "INSERT INTO snapshots (workspace, name, kind, layer, created_at, entry_count, bytes_written) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (workspace, name) DO NOTHING",
        params![id, new.name, kind, layer, now, row::stored(new.entry_count), row::stored(new.bytes_written)],
    )?;
    match inserted {
        0 => Err(StoreError::SnapshotExists { id, name: new.name.clone() }),
        _ => Ok(()),
    }
}

fn select(tx: &Transaction<'_>, id: WorkspaceId, name: &str) -> Result<SnapshotRecord, StoreError> {
    let sql = "SELECT * FROM snapshots WHERE workspace = ?1 AND name = ?2";
    let found =
        tx.query_row(sql, params![id, name], |row| Ok(parse(&Fields::new(row, "workspace")))).optional()?;
    Ok(found.ok_or_else(|| StoreError::NoSnapshot { id, name: name.to_owned() })??)
}

pub(super) fn parse(fields: &Fields<'_>) -> Result<SnapshotRecord, Damaged> {
    Ok(SnapshotRecord {
        workspace: fields.get("workspace")?,
        name: fields.get("name")?,
        kind: fields.get("kind")?,
        layer: fields.get("layer")?,
        created_at: fields.get("created_at")?,
        entry_count: fields.count("entry_count")?,
        bytes_written: fields.count("bytes_written")?,
    })
}
