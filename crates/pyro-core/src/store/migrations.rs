//! The forms that the database has had. `PRAGMA user_version` tells which one a file has.

use super::StoreError;
use rusqlite::{Connection, Transaction};
use std::path::Path;

/// Marks a file as pyro's: "pyro" in ASCII.
const APPLICATION_ID: i64 = 0x7079_726f;

type Migration = fn(&Transaction<'_>) -> rusqlite::Result<()>;

/// Each leads from the version of its index to the next. Released ones never change: a new form is a new
/// line, a new golden database and a new test that reads it.
const MIGRATIONS: &[Migration] = &[create_v1, create_v2, create_v3];

/// The form that this program reads and writes.
pub(super) const VERSION: i64 = MIGRATIONS.len() as i64;

fn create_v1(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    tx.execute_batch(include_str!("migrations/v1.sql"))
}

fn create_v2(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    tx.execute_batch(include_str!("migrations/v2.sql"))
}

fn create_v3(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    tx.execute_batch(include_str!("migrations/v3.sql"))
}

/// Whether the database has the present form; an error when it can never get it. To be called in a
/// transaction: between its reads another process may migrate.
pub(super) fn is_current(connection: &Connection, path: &Path) -> Result<bool, StoreError> {
    let version = version(connection)?;
    if version > VERSION {
        return Err(StoreError::TooNew { path: path.to_owned(), found: version, known: VERSION });
    }
    let application: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: i64 = connection.query_one("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let is_new = application == 0 && version == 0 && tables == 0;
    if !is_new && (application != APPLICATION_ID || version < 1) {
        return Err(StoreError::Foreign { path: path.to_owned() });
    }
    Ok(version == VERSION)
}

/// Brings the database to the present form, all of it or nothing.
pub(super) fn migrate(tx: &Transaction<'_>, path: &Path) -> Result<(), StoreError> {
    // Another process may have done it while this one waited for the lock.
    if is_current(tx, path)? {
        return Ok(());
    }
    let version = usize::try_from(version(tx)?).expect("is_current refuses negative versions");
    for migration in &MIGRATIONS[version..] {
        migration(tx)?;
    }
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.pragma_update(None, "user_version", VERSION)?;
    Ok(())
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}
