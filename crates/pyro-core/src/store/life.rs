//! States, time and the end of workspaces.

use super::ids::WorkspaceId;
use super::row::{self, Damaged};
use super::values::{CommandState, Departure, ServiceStop, WorkspaceState};
use super::workspaces::{self, Workspace};
use super::{Durability, Millis, StateStore, StoreError, address, services, shells};
use rusqlite::{OptionalExtension, Transaction, params};

/// Workspaces that are gone and still told about.
pub const TOMBSTONES: u64 = 1000;

/// A workspace that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: Option<String>,
    /// When it went.
    pub at: Millis,
    /// Why.
    pub reason: Departure,
}

impl StateStore {
    /// Moves a workspace to `to` if it is in one of `from`; a [`StoreError::Conflict`] tells where it is
    /// otherwise. Nothing leaves `deleting`. A stopped workspace's running commands are lost, and no service
    /// goes on over any change. Starting renews
    /// its time, and so does stopping without a reason, which is what a caller does.
    pub fn set_state(
        &self,
        id: WorkspaceId,
        from: &[WorkspaceState],
        to: WorkspaceState,
        reason: Option<&str>,
        now: Millis,
    ) -> Result<(), StoreError> {
        self.write(Durability::Disk, |tx| {
            let found = match state(tx, id) {
                // Even a workspace whose record is damaged can be deleted.
                Err(StoreError::Damaged(_)) if to == WorkspaceState::Deleting => None,
                found => Some(found?),
            };
            if let Some(found) = found {
                let is_final = found == WorkspaceState::Deleting && to != WorkspaceState::Deleting;
                if is_final || !from.contains(&found) {
                    return Err(StoreError::Conflict { id, wanted: from.to_vec(), found });
                }
            }
            let reason = reason.filter(|_| to != WorkspaceState::Started);
            tx.execute(
                "UPDATE workspaces SET state = ?2, stop_reason = ?3 WHERE id = ?1",
                params![id, to, reason],
            )?;
            if matches!(to, WorkspaceState::Stopped | WorkspaceState::Deleting) {
                lose_commands(tx, id)?;
            }
            // Its machine has ended, or has just come up.
            shells::forget(tx, id)?;
            // None outlives its machine, and a machine that has just come up has none.
            let why = match (to, reason) {
                (WorkspaceState::Stopped | WorkspaceState::Deleting, None) => ServiceStop::WorkspaceStopped,
                (WorkspaceState::Stopped | WorkspaceState::Deleting, Some(_))
                | (WorkspaceState::Creating | WorkspaceState::Started, _) => ServiceStop::MachineEnded,
            };
            services::end_all(tx, id, why, now)?;
            if to == WorkspaceState::Started || (to == WorkspaceState::Stopped && reason.is_none()) {
                renew(tx, id, now)?;
            }
            Ok(())
        })
    }

    /// Notes use of a workspace, which renews its time.
    pub fn touch(&self, id: WorkspaceId, now: Millis) -> Result<(), StoreError> {
        self.write(Durability::System, |tx| {
            require_state(tx, id, &[WorkspaceState::Started, WorkspaceState::Stopped])?;
            Ok(renew(tx, id, now)?)
        })
    }

    /// Notes that no command of a workspace runs any more; tells how many were thought to.
    pub fn mark_lost(&self, id: WorkspaceId) -> Result<u64, StoreError> {
        self.write(Durability::System, |tx| Ok(lose_commands(tx, id)?))
    }

    /// Workspaces whose time is over and where no command runs, and the damaged ones among them too.
    pub fn expired(&self, now: Millis) -> Result<Vec<WorkspaceId>, StoreError> {
        self.read(|tx| {
            let mut select = tx.prepare(&format!("SELECT id FROM workspaces WHERE {EXPIRED} ORDER BY id"))?;
            let ids = select.query_map([now], |row| Ok(row::text(row, "id")))?;
            let ids = ids.collect::<Result<Vec<String>, _>>()?;
            Ok(ids.iter().filter_map(|id| id.parse().ok()).collect())
        })
    }

    /// Moves a workspace to `deleting` if its time is still over and no command runs; tells whether.
    pub fn begin_expiry(&self, id: WorkspaceId, now: Millis) -> Result<bool, StoreError> {
        self.write(Durability::Disk, |tx| {
            let sql =
                format!("UPDATE workspaces SET state = ?2, stop_reason = ?3 WHERE id = ?4 AND {EXPIRED}");
            let reason = Departure::Expired.as_str();
            Ok(tx.execute(&sql, params![now, WorkspaceState::Deleting, reason, id])? == 1)
        })
    }

    /// Forgets a workspace with its history and snapshots. Its layers become garbage where nothing else
    /// needs them. Works on damaged records. Tells whether it was there.
    pub fn delete(&self, id: WorkspaceId, reason: Departure, now: Millis) -> Result<bool, StoreError> {
        self.write(Durability::Disk, |tx| {
            let name: Option<Option<String>> = tx
                .query_row("SELECT name FROM workspaces WHERE id = ?1", [id], |row| {
                    Ok(row.get("name").unwrap_or_default())
                })
                .optional()?;
            let Some(name) = name else { return Ok(false) };
            tx.execute("DELETE FROM workspaces WHERE id = ?1", [id])?;
            tx.execute(
                "INSERT INTO tombstones (id, name, at, reason) VALUES (?1, ?2, ?3, ?4)",
                params![id, name, now, reason],
            )?;
            tx.execute(
                "DELETE FROM tombstones WHERE number <= (SELECT max(number) FROM tombstones) - ?1",
                [row::stored(TOMBSTONES)],
            )?;
            Ok(true)
        })
    }

    /// Workspaces that are gone, the last first.
    pub fn tombstones(&self) -> Result<Vec<Tombstone>, StoreError> {
        self.read(|tx| {
            let mut select = tx.prepare("SELECT * FROM tombstones ORDER BY number DESC")?;
            let mut rows = select.query([])?;
            let mut tombstones = Vec::new();
            while let Some(row) = rows.next()? {
                let fields = row::Fields::new(row, "id");
                tombstones.push(Tombstone {
                    id: fields.id().to_owned(),
                    name: fields.get("name")?,
                    at: fields.get("at")?,
                    reason: fields.get("reason")?,
                });
            }
            Ok(tombstones)
        })
    }
}

/// `?1` is the present time. What is being created or deleted is somebody's business already.
const EXPIRED: &str = "expires_at <= ?1 AND state IN ('started', 'stopped') AND NOT EXISTS \
    (SELECT 1 FROM commands WHERE commands.workspace = workspaces.id AND commands.state = 'running')";

/// When a workspace used at `now` expires.
pub(super) fn expiry(ttl_seconds: i64, now: Millis) -> Option<Millis> {
    (ttl_seconds != 0).then(|| now.saturating_add(ttl_seconds.saturating_mul(1000)))
}

/// Notes use at `now`. A clock that went back takes nothing away.
pub(super) fn renew(tx: &Transaction<'_>, id: WorkspaceId, now: Millis) -> rusqlite::Result<()> {
    let ttl: i64 =
        tx.query_row("SELECT ttl_seconds FROM workspaces WHERE id = ?1", [id], |row| row.get(0))?;
    tx.execute(
        "UPDATE workspaces SET last_activity_at = max(last_activity_at, ?2), \
            expires_at = CASE WHEN ?3 IS NULL THEN NULL ELSE max(coalesce(expires_at, ?3), ?3) END WHERE id = ?1",
        params![id, now, expiry(ttl, now)],
    )?;
    Ok(())
}

/// Only the state, so that other damage does not matter.
fn state(tx: &Transaction<'_>, id: WorkspaceId) -> Result<WorkspaceState, StoreError> {
    let sql = "SELECT state FROM workspaces WHERE id = ?1";
    let Some(text) = tx.query_row(sql, [id], |row| Ok(row::text(row, "state"))).optional()? else {
        return Err(address::not_found(tx, &id.to_string())?);
    };
    Ok(text.parse().map_err(|error| Damaged::new(id, "state", error))?)
}

/// The record of a workspace that has to be in one of the states `wanted`.
pub(super) fn require_state(
    tx: &Transaction<'_>,
    id: WorkspaceId,
    wanted: &[WorkspaceState],
) -> Result<Workspace, StoreError> {
    let workspace = workspaces::require(tx, id)?;
    if wanted.contains(&workspace.state) {
        return Ok(workspace);
    }
    Err(StoreError::Conflict { id, wanted: wanted.to_vec(), found: workspace.state })
}

fn lose_commands(tx: &Transaction<'_>, id: WorkspaceId) -> rusqlite::Result<u64> {
    let lost = tx.execute(
        "UPDATE commands SET state = ?2 WHERE workspace = ?1 AND state = ?3",
        params![id, CommandState::Lost, CommandState::Running],
    )?;
    Ok(lost as u64)
}
