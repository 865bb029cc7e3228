//! The state database: what pyro knows of workspaces, their disks' layers, snapshots, commands and events.
//!
//! One SQLite file for all processes of a user. Each method of [`StateStore`] is one transaction: it happens
//! as a whole or not at all, whatever ends the process or the host meanwhile. The methods block for a
//! moment (a commit waits for the disk), never for a guest. Time and randomness are arguments.
//!
//! The database names files but never touches them. What keeps the two together:
//! - a file is made before anything needs it, and removed after nothing does. A layer's is announced before
//!   that, as one that nothing needs, so that it is not forgotten when its maker dies;
//! - but for those just announced, a layer that nothing needs never comes to be needed again. Makers and
//!   collectors exclude each other by a lock, so between [`StateStore::garbage_layers`]
//!   and [`StateStore::forget_layer`] its file can be removed, and both can be repeated after a crash;
//! - commits that change what exists are on the disk when the call returns (`synchronous=FULL`): with less,
//!   a power cut could bring back a row that names a file removed since. Only commands, events and activity
//!   wait for the next such commit; a cut takes the last of them away as a whole, and with them the machine
//!   in which they happened. It saves each command the disk's slowest operation.
//!
//! This module must not know supervisors, running machines or the agent.

mod address;
mod authorities;
mod check;
mod commands;
mod error;
mod events;
mod ids;
mod layers;
mod life;
mod migrations;
pub mod names;
mod row;
mod services;
mod shells;
mod snapshots;
mod values;
mod workspaces;

pub use check::Finding;
pub use commands::{
    COMMAND_BYTES, COMMANDS_KEPT, CommandKey, CommandOutcome, CommandOutput, CommandRecord, HISTORY_BYTES,
    NewCommand, OUTPUT_BYTES,
};
pub use error::{LayerFault, StoreError};
pub use events::{DETAIL_BYTES, EVENTS_KEPT, Event};
pub use ids::{IdError, LayerId, ShellId, WorkspaceId};
pub use layers::{CHAIN_LAYERS, LayerRecord};
pub use life::{TOMBSTONES, Tombstone};
pub use names::NameError;
pub use row::Damaged;
pub use services::{NewService, PROBLEM_BYTES, SERVICES, ServiceChange, ServiceCounts, ServiceRecord};
pub use shells::{NewShell, ShellRecord};
pub use snapshots::{NewSnapshot, SnapshotRecord};
pub use values::{
    CommandState, Departure, EventKind, LayerState, NetworkPolicy, SecretSource, SeedMode, ServiceState,
    ServiceStop, ShellState, SnapshotKind, UnknownWord, WorkspaceState,
};
pub use workspaces::{
    Created, ImageDefaults, NameChange, NewBaseline, NewWorkspace, SecretRecord, Seed, SeedOrigin, Workspace,
    WorkspaceUpdate,
};

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Milliseconds since the epoch.
pub type Millis = i64;

/// How long a call waits for other processes' transactions, which take milliseconds each.
pub const BUSY_TIME: Duration = Duration::from_secs(10);

/// Between two looks at a lock that another process holds. SQLite's own waiting grows to 100 ms, by which
/// one of many busy processes can miss its turn for seconds.
const BUSY_STEP: Duration = Duration::from_millis(2);

/// The log is cut to this once its pages are in the database.
const WAL_BYTES: i64 = 16 << 20;

/// The state database, opened. Cheap to share: threads take turns.
#[derive(Debug)]
pub struct StateStore {
    path: PathBuf,
    connection: Mutex<Connection>,
}

/// What a commit waits for.
#[derive(Clone, Copy)]
enum Durability {
    /// The disk.
    Disk,
    /// The operating system: survives the process, not a power cut.
    System,
}

impl StateStore {
    /// Opens the database at `path`; makes it, and its directory, when they are not there. Only the user
    /// can read either.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Open { path: path.to_owned(), source };
        make_file(path).map_err(failed)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        // Making the log and recovering it can find the file locked without SQLite waiting for it.
        let mut left = BUSY_TIME.as_millis() / BUSY_STEP.as_millis();
        loop {
            match prepare(path, flags) {
                Err(StoreError::Busy) if left > 0 => {
                    left -= 1;
                    std::thread::sleep(BUSY_STEP);
                }
                prepared => return Ok(Self { path: path.to_owned(), connection: Mutex::new(prepared?) }),
            }
        }
    }

    /// The database's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads with `work` one state of the database.
    fn read<T>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut connection = self.lock();
        let tx = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
        work(&tx)
    }

    /// Changes the database with `work`: all of it when that succeeds, nothing otherwise.
    fn write<T>(
        &self,
        durability: Durability,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut connection = self.lock();
        let synchronous = match durability {
            Durability::Disk => "FULL",
            Durability::System => "NORMAL",
        };
        connection.pragma_update(None, "synchronous", synchronous)?;
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let value = work(&tx)?;
        tx.commit()?;
        Ok(value)
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic in the middle of a transaction has rolled it back.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the directory and an empty file. The file appears under its name closed: closing any descriptor
/// of a database drops the locks that this process holds on it.
fn make_file(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    match fs::metadata(path) {
        Ok(metadata) if metadata.permissions().mode() & 0o077 == 0 => return Ok(()),
        Ok(_) => return fs::set_permissions(path, Permissions::from_mode(0o600)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let file = tempfile::Builder::new()
        .prefix(".state-")
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(directory)?
        .into_temp_path();
    match file.persist_noclobber(path) {
        Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => return Err(error.error),
        Ok(()) | Err(_) => {}
    }
    File::open(directory)?.sync_all()
}

fn prepare(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_handler(Some(wait_for_turn))?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "journal_size_limit", WAL_BYTES)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // Before anything is changed, the file must be known to be pyro's.
    let tx = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
    let is_current = migrations::is_current(&tx, path)?;
    tx.finish()?;
    let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    if mode != "wal" {
        connection.pragma_update(None, "journal_mode", "WAL")?;
    }
    if !is_current {
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        migrations::migrate(&tx, path)?;
        tx.commit()?;
    }
    Ok(connection)
}

fn wait_for_turn(times: i32) -> bool {
    let waited = BUSY_STEP * u32::try_from(times).unwrap_or(u32::MAX);
    if waited >= BUSY_TIME {
        return false;
    }
    std::thread::sleep(BUSY_STEP);
    true
}

#[cfg(test)]
pub(crate) mod tests;
