//! Commands of a workspace since its last reset, with what they printed.

use super::ids::WorkspaceId;
use super::row::{self, Damaged, Fields};
use super::values::{CommandState, WorkspaceState};
use super::{Durability, Millis, StateStore, StoreError, life, workspaces};
use rusqlite::{OptionalExtension, Transaction, params};
use serde::{Deserialize, Serialize};

/// Output kept of one command, of each stream. More is cut and said so.
pub const OUTPUT_BYTES: usize = 1 << 20;
/// Output kept of all commands of one workspace; that of the oldest goes first.
pub const HISTORY_BYTES: u64 = 64 << 20;
/// Commands kept of one workspace; the oldest go first.
pub const COMMANDS_KEPT: u64 = 10_000;
/// Text kept of one command; Linux takes arguments of 128 KiB.
pub const COMMAND_BYTES: usize = 128 << 10;

/// One command, for ever: a command that a reset has cleared is not taken for a later one of its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CommandKey {
    /// Its workspace.
    pub workspace: WorkspaceId,
    /// Its number, from 1 since the last reset.
    pub sequence: u64,
    token: i64,
}

/// A command about to run.
#[derive(Clone, Debug)]
pub struct NewCommand {
    /// One line, as a shell would take it.
    pub command: String,
    /// Working directory.
    pub cwd: String,
    /// Whether it runs on without whoever started it.
    pub detached: bool,
}

/// A command on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandRecord {
    /// Its workspace and number.
    pub key: CommandKey,
    /// One line, as a shell would take it.
    pub command: String,
    /// Working directory.
    pub cwd: String,
    /// Whether it runs on without whoever started it.
    pub detached: bool,
    /// What has become of it.
    pub state: CommandState,
    /// Its exit code, as far as it has one.
    pub exit_code: Option<i32>,
    /// How long it ran.
    pub duration_ms: Option<u64>,
    /// When it was started.
    pub started_at: Millis,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandOutcome {
    /// By itself, with this code.
    Exited(i32),
    /// It was ended, and has this code if any.
    Killed(Option<i32>),
    /// It went away unseen.
    Lost,
}

/// What a command printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandOutput {
    /// The first [`OUTPUT_BYTES`] of standard output.
    pub stdout: Vec<u8>,
    /// The first [`OUTPUT_BYTES`] of standard error.
    pub stderr: Vec<u8>,
    /// Whether there was more on standard output.
    pub stdout_truncated: bool,
    /// Whether there was more on standard error.
    pub stderr_truncated: bool,
}

impl StateStore {
    /// Puts a command on record as running, under the next number. Only a started workspace runs commands.
    pub fn begin_command(
        &self,
        id: WorkspaceId,
        new: &NewCommand,
        now: Millis,
    ) -> Result<CommandKey, StoreError> {
        let command = cut_text(&new.command, COMMAND_BYTES);
        self.write(Durability::System, |tx| {
            let workspace = life::require_state(tx, id, &[WorkspaceState::Started])?;
            let sequence = workspace.next_sequence;
            tx.execute(
                "INSERT INTO commands (workspace, sequence, command, cwd, detached, state, started_at) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    id,
                    row::stored(sequence),
                    command,
                    new.cwd,
                    new.detached,
                    CommandState::Running,
                    now
                ],
            )?;
            let token = tx.last_insert_rowid();
            tx.execute("UPDATE workspaces SET next_sequence = next_sequence + 1 WHERE id = ?1", [id])?;
            if let Some(oldest) = sequence.checked_sub(COMMANDS_KEPT) {
                forget_command(tx, id, oldest)?;
            }
            life::renew(tx, id, now)?;
            Ok(CommandKey { workspace: id, sequence, token })
        })
    }

    /// Notes how a command ended and what it printed. One that was given up as lost may end after all; one
    /// that ended otherwise, or was cleared by a reset, may not.
    pub fn finish_command(
        &self,
        key: CommandKey,
        outcome: CommandOutcome,
        duration_ms: u64,
        output: &CommandOutput,
        now: Millis,
    ) -> Result<(), StoreError> {
        let (state, exit_code) = match outcome {
            CommandOutcome::Exited(code) => (CommandState::Exited, Some(code)),
            CommandOutcome::Killed(code) => (CommandState::Killed, code),
            CommandOutcome::Lost => (CommandState::Lost, None),
        };
        self.write(Durability::System, |tx| {
            require_unfinished(tx, key)?;
            tx.execute(
                "UPDATE commands SET state = ?2, exit_code = ?3, duration_ms = ?4 WHERE token = ?1",
                params![key.token, state, exit_code, row::stored(duration_ms)],
            )?;
            store_output(tx, key, output)?;
            Ok(life::renew(tx, key.workspace, now)?)
        })
    }

    /// Keeps what a running command has printed so far, in place of what was kept before.
    pub fn save_output(&self, key: CommandKey, output: &CommandOutput) -> Result<(), StoreError> {
        self.write(Durability::System, |tx| {
            require_unfinished(tx, key)?;
            Ok(store_output(tx, key, output)?)
        })
    }

    /// Commands of a workspace in order. The newest [`COMMANDS_KEPT`] are there.
    pub fn commands(&self, id: WorkspaceId) -> Result<Vec<CommandRecord>, StoreError> {
        self.read(|tx| {
            workspaces::require(tx, id)?;
            let mut select = tx.prepare("SELECT * FROM commands WHERE workspace = ?1 ORDER BY sequence")?;
            let mut rows = select.query([id])?;
            let mut commands = Vec::new();
            while let Some(row) = rows.next()? {
                commands.push(parse(&Fields::new(row, "workspace"))?);
            }
            Ok(commands)
        })
    }

    /// One command of a workspace.
    pub fn command(&self, id: WorkspaceId, sequence: u64) -> Result<CommandRecord, StoreError> {
        self.read(|tx| {
            workspaces::require(tx, id)?;
            let sql = "SELECT * FROM commands WHERE workspace = ?1 AND sequence = ?2";
            let found = tx
                .query_row(sql, params![id, row::stored(sequence)], |row| {
                    Ok(parse(&Fields::new(row, "workspace")))
                })
                .optional()?;
            Ok(found.ok_or(StoreError::NoCommand { id, sequence })??)
        })
    }

    /// The command of a workspace that was begun last.
    pub fn last_command(&self, id: WorkspaceId) -> Result<Option<CommandRecord>, StoreError> {
        self.read(|tx| {
            workspaces::require(tx, id)?;
            let sql = "SELECT * FROM commands WHERE workspace = ?1 ORDER BY sequence DESC LIMIT 1";
            let found =
                tx.query_row(sql, [id], |row| Ok(parse(&Fields::new(row, "workspace")))).optional()?;
            Ok(found.transpose()?)
        })
    }

    /// What is kept of a command's output. Output that was dropped for newer ones is told as cut.
    pub fn output(&self, key: CommandKey) -> Result<CommandOutput, StoreError> {
        self.read(|tx| {
            let state = state(tx, key)?;
            let found = tx
                .query_row("SELECT * FROM outputs WHERE token = ?1", [key.token], |row| {
                    Ok(CommandOutput {
                        stdout: row.get("stdout")?,
                        stderr: row.get("stderr")?,
                        stdout_truncated: row.get("stdout_truncated")?,
                        stderr_truncated: row.get("stderr_truncated")?,
                    })
                })
                .optional()?;
            let has_ended = matches!(state, CommandState::Exited | CommandState::Killed);
            Ok(found.unwrap_or_else(|| CommandOutput {
                stdout_truncated: has_ended,
                stderr_truncated: has_ended,
                ..CommandOutput::default()
            }))
        })
    }
}

fn parse(fields: &Fields<'_>) -> Result<CommandRecord, Damaged> {
    Ok(CommandRecord {
        key: CommandKey {
            workspace: fields.get("workspace")?,
            sequence: fields.count("sequence")?,
            token: fields.get("token")?,
        },
        command: fields.get("command")?,
        cwd: fields.get("cwd")?,
        detached: fields.get("detached")?,
        state: fields.get("state")?,
        exit_code: fields.get("exit_code")?,
        duration_ms: fields.optional_count("duration_ms")?,
        started_at: fields.get("started_at")?,
    })
}

fn state(tx: &Transaction<'_>, key: CommandKey) -> Result<CommandState, StoreError> {
    let CommandKey { workspace: id, sequence, token } = key;
    let sql = "SELECT workspace, state FROM commands WHERE token = ?1 AND workspace = ?2";
    let found = tx
        .query_row(sql, params![token, id], |row| Ok(Fields::new(row, "workspace").get("state")))
        .optional()?;
    Ok(found.ok_or(StoreError::NoCommand { id, sequence })??)
}

fn require_unfinished(tx: &Transaction<'_>, key: CommandKey) -> Result<(), StoreError> {
    match state(tx, key)? {
        CommandState::Running | CommandState::Lost => Ok(()),
        CommandState::Exited | CommandState::Killed => {
            Err(StoreError::CommandEnded { id: key.workspace, sequence: key.sequence })
        }
    }
}

/// Keeps `output`, and drops that of the oldest commands while there is more than [`HISTORY_BYTES`].
fn store_output(tx: &Transaction<'_>, key: CommandKey, output: &CommandOutput) -> rusqlite::Result<()> {
    drop_output(tx, key.workspace, key.token)?;
    let stdout = &output.stdout[..output.stdout.len().min(OUTPUT_BYTES)];
    let stderr = &output.stderr[..output.stderr.len().min(OUTPUT_BYTES)];
    tx.execute(
        "INSERT INTO outputs (token, workspace, stdout_truncated, stderr_truncated, stdout, stderr) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![
            key.token,
            key.workspace,
            output.stdout_truncated || stdout.len() < output.stdout.len(),
            output.stderr_truncated || stderr.len() < output.stderr.len(),
            stdout,
            stderr,
        ],
    )?;
    let total = add_bytes(tx, key.workspace, row::stored((stdout.len() + stderr.len()) as u64))?;
    let mut excess = total - row::stored(HISTORY_BYTES);
    while excess > 0 {
        let sql = "SELECT token FROM outputs WHERE workspace = ?1 AND token <> ?2 ORDER BY token LIMIT 1";
        let oldest = tx.query_row(sql, params![key.workspace, key.token], |row| row.get(0)).optional()?;
        let Some(oldest) = oldest else { break };
        excess -= drop_output(tx, key.workspace, oldest)?;
    }
    Ok(())
}

/// Drops what is kept of one command's output; tells how many bytes that were.
fn drop_output(tx: &Transaction<'_>, id: WorkspaceId, token: i64) -> rusqlite::Result<i64> {
    let sql = "SELECT length(stdout) + length(stderr) FROM outputs WHERE token = ?1";
    let Some(bytes) = tx.query_row(sql, [token], |row| row.get::<_, i64>(0)).optional()? else {
        return Ok(0);
    };
    tx.execute("DELETE FROM outputs WHERE token = ?1", [token])?;
    add_bytes(tx, id, -bytes)?;
    Ok(bytes)
}

fn add_bytes(tx: &Transaction<'_>, id: WorkspaceId, bytes: i64) -> rusqlite::Result<i64> {
    tx.query_row(
        "UPDATE workspaces SET output_bytes = output_bytes + ?2 WHERE id = ?1 RETURNING output_bytes",
        params![id, bytes],
        |row| row.get(0),
    )
}

/// Forgets the command with the number `sequence` unless it still runs.
fn forget_command(tx: &Transaction<'_>, id: WorkspaceId, sequence: u64) -> rusqlite::Result<()> {
    let sql = "SELECT token FROM commands WHERE workspace = ?1 AND sequence = ?2 AND state <> ?3";
    let key = params![id, row::stored(sequence), CommandState::Running];
    if let Some(token) = tx.query_row(sql, key, |row| row.get(0)).optional()? {
        drop_output(tx, id, token)?;
        tx.execute("DELETE FROM commands WHERE token = ?1", [token])?;
    }
    Ok(())
}

fn cut_text(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}
