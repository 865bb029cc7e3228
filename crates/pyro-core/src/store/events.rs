//! What was done to a workspace since its last reset, for a review.

use super::ids::WorkspaceId;
use super::row::{self, Fields};
use super::values::EventKind;
use super::{Durability, Millis, StateStore, StoreError, life, workspaces};
use rusqlite::params;
use serde_json::{Value, json};

/// Detail kept of one event. More is replaced by `{"omitted_bytes": N}`.
pub const DETAIL_BYTES: usize = 16 << 10;
/// Events kept of one workspace; the oldest go first.
pub const EVENTS_KEPT: u64 = 10_000;

/// One thing that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: Millis,
    /// What.
    pub kind: EventKind,
    /// More about it; its form depends on the kind.
    pub detail: Value,
}

impl StateStore {
    /// Adds an event. Kinds that are activity renew the workspace's time.
    pub fn record_event(
        &self,
        id: WorkspaceId,
        kind: EventKind,
        detail: &Value,
        now: Millis,
    ) -> Result<(), StoreError> {
        let mut detail = detail.to_string();
        if detail.len() > DETAIL_BYTES {
            detail = json!({ "omitted_bytes": detail.len() }).to_string();
        }
        self.write(Durability::System, |tx| {
            workspaces::require(tx, id)?;
            tx.execute(
                "INSERT INTO events (workspace, at, kind, detail) VALUES (?1, ?2, ?3, ?4)",
                params![id, now, kind, detail],
            )?;
            tx.execute(
                "DELETE FROM events WHERE number = \
                    (SELECT number FROM events WHERE workspace = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2)",
                params![id, row::stored(EVENTS_KEPT)],
            )?;
            if kind.is_activity() {
                life::renew(tx, id, now)?;
            }
            Ok(())
        })
    }

    /// A workspace's events since its last reset, in order. The newest [`EVENTS_KEPT`] are there.
    pub fn events(&self, id: WorkspaceId) -> Result<Vec<Event>, StoreError> {
        self.events_like(id, None)
    }

    /// Those of one kind.
    pub fn events_of(&self, id: WorkspaceId, kind: EventKind) -> Result<Vec<Event>, StoreError> {
        self.events_like(id, Some(kind))
    }

    fn events_like(&self, id: WorkspaceId, kind: Option<EventKind>) -> Result<Vec<Event>, StoreError> {
        self.read(|tx| {
            workspaces::require(tx, id)?;
            let mut select = tx.prepare(
                "SELECT * FROM events WHERE workspace = ?1 AND (?2 IS NULL OR kind = ?2) ORDER BY number",
            )?;
            let mut rows = select.query(params![id, kind])?;
            let mut events = Vec::new();
            while let Some(row) = rows.next()? {
                let fields = Fields::new(row, "workspace");
                let detail: String = fields.get("detail")?;
                events.push(Event {
                    at: fields.get("at")?,
                    kind: fields.get("kind")?,
                    detail: serde_json::from_str(&detail).map_err(|error| fields.damaged("detail", error))?,
                });
            }
            Ok(events)
        })
    }
}
