//! Shells of the machines that run.

use super::ids::{ShellId, WorkspaceId};
use super::row::{Damaged, Fields};
use super::values::{ShellState, WorkspaceState};
use super::{Durability, Millis, StateStore, StoreError, life, workspaces};
use rusqlite::{Transaction, params};
use serde::{Deserialize, Serialize};

/// A shell that has just been opened.
#[derive(Clone, Debug)]
pub struct NewShell {
    /// Its id, drawn at random.
    pub shell: ShellId,
    /// Where it began.
    pub cwd: String,
    /// Columns of its terminal.
    pub cols: u16,
    /// Rows of its terminal.
    pub rows: u16,
}

/// A shell on record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShellRecord {
    /// Its workspace.
    pub workspace: WorkspaceId,
    /// Its id.
    pub shell: ShellId,
    /// Where it began.
    pub cwd: String,
    /// Columns of its terminal.
    pub cols: u16,
    /// Rows of its terminal.
    pub rows: u16,
    /// Whether it runs.
    pub is_running: bool,
    /// When it was opened.
    pub started_at: Millis,
    /// When it ended.
    pub ended_at: Option<Millis>,
    /// Its exit code, as far as it has one.
    pub exit_code: Option<i32>,
}

impl StateStore {
    /// Puts a shell on record. Only a started workspace has shells.
    pub fn open_shell(
        &self,
        id: WorkspaceId,
        new: &NewShell,
        now: Millis,
    ) -> Result<ShellRecord, StoreError> {
        self.write(Durability::System, |tx| {
            life::require_state(tx, id, &[WorkspaceState::Started])?;
            let sql = "INSERT INTO shells (workspace, shell_id, cwd, cols, rows, state, started_at) \
                VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING";
            let NewShell { shell, cwd, cols, rows } = new;
            let made = tx.execute(sql, params![id, shell, cwd, cols, rows, ShellState::Running, now])?;
            if made == 0 {
                return Err(StoreError::ShellTaken(*shell));
            }
            life::renew(tx, id, now)?;
            one(tx, id, *shell)
        })
    }

    /// Notes that a shell has ended, and how.
    pub fn end_shell(
        &self,
        id: WorkspaceId,
        shell: ShellId,
        exit_code: Option<i32>,
        now: Millis,
    ) -> Result<ShellRecord, StoreError> {
        self.write(Durability::System, |tx| {
            let sql = "UPDATE shells SET state = ?3, exit_code = ?4, ended_at = ?5 \
                WHERE workspace = ?1 AND shell_id = ?2 AND state = ?6";
            tx.execute(sql, params![id, shell, ShellState::Stopped, exit_code, now, ShellState::Running])?;
            one(tx, id, shell)
        })
    }

    /// Notes a shell's new size.
    pub fn resize_shell(
        &self,
        id: WorkspaceId,
        shell: ShellId,
        cols: u16,
        rows: u16,
    ) -> Result<ShellRecord, StoreError> {
        self.write(Durability::System, |tx| {
            let sql = "UPDATE shells SET cols = ?3, rows = ?4 WHERE workspace = ?1 AND shell_id = ?2";
            tx.execute(sql, params![id, shell, cols, rows])?;
            one(tx, id, shell)
        })
    }

    /// Forgets a shell.
    pub fn close_shell(&self, id: WorkspaceId, shell: ShellId, now: Millis) -> Result<(), StoreError> {
        self.write(Durability::System, |tx| {
            tx.execute("DELETE FROM shells WHERE workspace = ?1 AND shell_id = ?2", params![id, shell])?;
            Ok(life::renew(tx, id, now)?)
        })
    }

    /// Shells of a workspace, the oldest first.
    pub fn shells(&self, id: WorkspaceId) -> Result<Vec<ShellRecord>, StoreError> {
        self.read(|tx| {
            workspaces::require(tx, id)?;
            let sql = "SELECT * FROM shells WHERE workspace = ?1 ORDER BY started_at, shell_id";
            let mut select = tx.prepare(sql)?;
            let mut rows = select.query([id])?;
            let mut shells = Vec::new();
            while let Some(row) = rows.next()? {
                shells.push(parse(&Fields::new(row, "workspace"))?);
            }
            Ok(shells)
        })
    }

    /// One shell of a workspace.
    pub fn shell(&self, id: WorkspaceId, shell: ShellId) -> Result<ShellRecord, StoreError> {
        self.read(|tx| one(tx, id, shell))
    }
}

fn one(tx: &Transaction<'_>, id: WorkspaceId, shell: ShellId) -> Result<ShellRecord, StoreError> {
    let mut select = tx.prepare("SELECT * FROM shells WHERE workspace = ?1 AND shell_id = ?2")?;
    let mut rows = select.query(params![id, shell])?;
    match rows.next()? {
        Some(row) => Ok(parse(&Fields::new(row, "workspace"))?),
        None => Err(StoreError::NoShell { id, shell: shell.to_string() }),
    }
}

fn parse(fields: &Fields<'_>) -> Result<ShellRecord, Damaged> {
    let cells = |column| u16::try_from(fields.count(column)?).map_err(|error| fields.damaged(column, error));
    let state: ShellState = fields.get("state")?;
    Ok(ShellRecord {
        workspace: fields.get("workspace")?,
        shell: fields.get("shell_id")?,
        cwd: fields.get("cwd")?,
        cols: cells("cols")?,
        rows: cells("rows")?,
        is_running: state == ShellState::Running,
        started_at: fields.get("started_at")?,
        ended_at: fields.get("ended_at")?,
        exit_code: fields.get("exit_code")?,
    })
}

/// Shells end with their machine.
pub(super) fn forget(tx: &Transaction<'_>, id: WorkspaceId) -> rusqlite::Result<()> {
    tx.execute("DELETE FROM shells WHERE workspace = ?1", [id])?;
    Ok(())
}
