//! Certificate authorities of workspaces: their text, and where it came from.

use super::ids::WorkspaceId;
use super::row::{Damaged, Fields};
use super::values::WorkspaceState;
use super::workspaces::{self, Workspace};
use super::{Durability, Millis, StateStore, StoreError, life};
use crate::authorities::{Authorities, AuthoritySource};
use rusqlite::{OptionalExtension, Transaction, params};

impl StateStore {
    /// Puts certificate authorities in place of those that the workspace has.
    pub fn set_authorities(
        &self,
        id: WorkspaceId,
        authorities: &Authorities,
        now: Millis,
    ) -> Result<Workspace, StoreError> {
        self.write(Durability::Disk, |tx| {
            life::require_state(tx, id, &[WorkspaceState::Started, WorkspaceState::Stopped])?;
            put(tx, id, authorities)?;
            life::renew(tx, id, now)?;
            workspaces::require(tx, id)
        })
    }

    /// The certificate authorities that a workspace's guest trusts beside its image's own.
    pub fn authorities(&self, id: WorkspaceId) -> Result<Authorities, StoreError> {
        self.read(|tx| {
            let select = "SELECT workspace, sources, pem FROM authorities WHERE workspace = ?1";
            let found = tx.query_row(select, [id], |row| {
                let fields = Fields::new(row, "workspace");
                Ok(sources(&fields).and_then(|sources| Ok(Authorities::stored(sources, fields.get("pem")?))))
            });
            Ok(found.optional()?.transpose()?.unwrap_or_default())
        })
    }
}

/// Puts authorities in place of those that a workspace has.
pub(super) fn put(tx: &Transaction<'_>, id: WorkspaceId, authorities: &Authorities) -> rusqlite::Result<()> {
    tx.execute("DELETE FROM authorities WHERE workspace = ?1", [id])?;
    if !authorities.is_empty() {
        let sources = serde_json::to_string(authorities.sources()).expect("texts and numbers are JSON");
        tx.execute(
            "INSERT INTO authorities (workspace, sources, pem) VALUES (?1, ?2, ?3)",
            params![id, sources, authorities.pem()],
        )?;
    }
    Ok(())
}

/// Where a row's authorities came from.
pub(super) fn sources(fields: &Fields<'_>) -> Result<Vec<AuthoritySource>, Damaged> {
    let text: String = fields.get("sources")?;
    serde_json::from_str(&text).map_err(|error| fields.damaged("sources", error))
}
