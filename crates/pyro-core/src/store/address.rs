//! From what a caller writes to a workspace: id, name, or the beginning of an id.

use super::ids::WorkspaceId;
use super::row;
use super::values::Departure;
use super::{StateStore, StoreError};
use rusqlite::{OptionalExtension, Transaction};
use std::collections::HashMap;

/// Candidates that an ambiguous address is explained with.
const SHOWN: usize = 5;

/// An id's beginning as short as this could be that of many that are gone.
const TOMBSTONE_PREFIX: usize = 4;

impl StateStore {
    /// The workspace that `address` means: the one with this id, else the one with this name, else the one
    /// whose id begins like this.
    pub fn resolve(&self, address: &str) -> Result<WorkspaceId, StoreError> {
        let address = address.trim();
        self.read(|tx| {
            let known = known(tx)?;
            let is_named = |one: &&Known| one.name.as_deref() == Some(address);
            let begins = |one: &&Known| !address.is_empty() && one.id.starts_with(address);
            if let Some(one) = known.iter().find(|one| one.id == address) {
                return one.parse();
            }
            let mut found: Vec<&Known> = known.iter().filter(is_named).collect();
            if found.is_empty() {
                found = known.iter().filter(begins).collect();
            }
            match found[..] {
                [] => Err(not_found(tx, address)?),
                [one] => one.parse(),
                _ => {
                    Err(StoreError::Ambiguous { address: shortened(address), candidates: candidates(&found) })
                }
            }
        })
    }

    /// The names of all workspaces that have one, for front ends that show ids which they hold already.
    pub fn names(&self) -> Result<HashMap<String, String>, StoreError> {
        self.read(|tx| {
            Ok(known(tx)?.into_iter().filter_map(|one| one.name.map(|name| (one.id, name))).collect())
        })
    }
}

struct Known {
    id: String,
    name: Option<String>,
}

impl Known {
    fn parse(&self) -> Result<WorkspaceId, StoreError> {
        Ok(self.id.parse().map_err(|error| super::Damaged::new(&self.id, "id", error))?)
    }
}

/// Only ids and names are read, so that a damaged record can still be addressed.
fn known(tx: &Transaction<'_>) -> Result<Vec<Known>, StoreError> {
    let mut select = tx.prepare("SELECT id, name FROM workspaces ORDER BY id")?;
    let known = select.query_map([], |row| {
        Ok(Known { id: row::text(row, "id"), name: row.get("name").unwrap_or_default() })
    })?;
    Ok(known.collect::<Result<_, _>>()?)
}

fn candidates(found: &[&Known]) -> Vec<String> {
    let mut shown: Vec<String> = found
        .iter()
        .take(SHOWN)
        .map(|one| match &one.name {
            Some(name) => format!("{} ({name})", one.id),
            None => one.id.clone(),
        })
        .collect();
    if found.len() > SHOWN {
        shown.push(format!("{} more", found.len() - SHOWN));
    }
    shown
}

/// What to say of an address that means nothing now. It may have meant something that expired.
pub(super) fn not_found(tx: &Transaction<'_>, address: &str) -> Result<StoreError, StoreError> {
    let reason: Option<String> = tx
        .query_row(
            "SELECT reason FROM tombstones \
             WHERE id = ?1 OR name = ?1 OR (length(?1) >= ?2 AND substr(id, 1, length(?1)) = ?1) \
             ORDER BY id = ?1 DESC, number DESC LIMIT 1",
            rusqlite::params![address, row::stored(TOMBSTONE_PREFIX as u64)],
            |row| Ok(row::text(row, "reason")),
        )
        .optional()?;
    let address = shortened(address);
    Ok(match reason.as_deref() == Some(Departure::Expired.as_str()) {
        true => StoreError::Expired(address),
        false => StoreError::NoWorkspace(address),
    })
}

/// What was written may be long, and it is shown.
fn shortened(address: &str) -> String {
    address.chars().take(super::names::TEXT_CHARS).flat_map(char::escape_debug).collect()
}
