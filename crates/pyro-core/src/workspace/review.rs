//! What was done in a workspace: its commands with their output, and a summary since the last reset.

use super::views::seconds;
use super::{EXECUTION_MODE, Pyro, WorkspaceError};
use crate::network::{NetworkDenial, NetworkDenials};
use crate::store::{CommandOutput, CommandRecord, CommandState, EventKind};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// One command with what it printed.
#[derive(Clone, Debug, Serialize)]
pub struct LogEntry {
    /// Its number since the last reset, from 1.
    pub sequence: u64,
    /// As a shell would take it.
    pub command: String,
    /// Where it ran.
    pub cwd: String,
    /// `running`, `exited`, `killed` or `lost`.
    pub state: &'static str,
    /// How it ended; `None` while it runs or when that was never told.
    pub exit_code: Option<i32>,
    /// Milliseconds that it ran.
    pub duration_ms: Option<u64>,
    /// `guest_vsock`.
    pub execution_mode: &'static str,
    /// When it was started, seconds since the Unix epoch.
    pub recorded_at: f64,
    /// Standard output.
    pub stdout: String,
    /// Whether there was more.
    pub stdout_truncated: bool,
    /// Standard error.
    pub stderr: String,
    /// Whether there was more.
    pub stderr_truncated: bool,
    /// What the guest was denied while it ran, each once; also by others that ran at the time. Told when it has
    /// ended.
    pub network_denials: Vec<NetworkDenial>,
    /// Whether there was more.
    pub network_denials_truncated: bool,
}

/// What was done since the workspace was made or last reset, for a reader with little time.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The workspace.
    pub workspace_id: String,
    /// What it is called.
    pub name: Option<String>,
    /// `started` or `stopped`.
    pub state: String,
    /// How often it was reset.
    pub reset_count: u64,
    /// Commands by how they ended.
    pub commands: CommandCounts,
    /// Shells that are open.
    pub shell_count: u64,
    /// The last commands that failed, the newest last.
    pub failed_commands: Vec<SummaryCommand>,
    /// The last command.
    pub last_command: Option<SummaryCommand>,
    /// Services.
    pub service_count: u64,
    /// Services that run.
    pub running_service_count: u64,
    /// Everything else that was done, in order, the newest last.
    pub events: Vec<SummaryEvent>,
    /// How often each kind of thing was done.
    pub event_counts: BTreeMap<String, u64>,
}

/// Commands by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CommandCounts {
    /// All of them.
    pub total: u64,
    /// With exit code 0.
    pub succeeded: u64,
    /// With another one, or by a signal or for lack of time.
    pub failed: u64,
    /// Nobody knows how.
    pub lost: u64,
    /// Not yet.
    pub running: u64,
}

/// A command in a summary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SummaryCommand {
    /// Its number.
    pub sequence: u64,
    /// As a shell would take it.
    pub command: String,
    /// How it ended.
    pub exit_code: Option<i32>,
}

/// Something that was done.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SummaryEvent {
    /// When, seconds since the Unix epoch.
    pub at: f64,
    /// What.
    pub kind: String,
    /// More about it.
    pub detail: Value,
}

/// Failed commands and events that a summary tells one by one.
const SUMMARY_ITEMS: usize = 20;

impl Pyro {
    /// The commands of a workspace since its last reset, with their output.
    pub fn logs(&self, address: &str) -> Result<Vec<LogEntry>, WorkspaceError> {
        let id = self.resolve(address)?;
        let mut entries = Vec::new();
        let mut denied = self.denied_by_command(id)?;
        for command in self.store.commands(id)? {
            let output = self.store.output(command.key)?;
            let denied = denied.remove(&command.key.sequence).unwrap_or_default();
            entries.push(log_entry(command, &output, denied));
        }
        Ok(entries)
    }

    /// What was done since the workspace was made or last reset.
    pub fn summary(&self, address: &str) -> Result<Summary, WorkspaceError> {
        let id = self.resolve(address)?;
        let workspace = self.view(id)?;
        let commands = self.store.commands(id)?;
        let failed: Vec<_> = commands.iter().filter(|command| is_failed(command)).map(short).collect();
        let mut event_counts = BTreeMap::new();
        let mut events = Vec::new();
        // Commands are told above.
        for event in self.store.events(id)?.into_iter().filter(|event| event.kind != EventKind::Exec) {
            *event_counts.entry(event.kind.to_string()).or_default() += 1;
            events.push(SummaryEvent {
                at: seconds(event.at),
                kind: event.kind.to_string(),
                detail: short_detail(event.kind, event.detail),
            });
        }
        Ok(Summary {
            workspace_id: workspace.workspace_id,
            name: workspace.name,
            state: workspace.state.to_owned(),
            reset_count: workspace.reset_count,
            commands: count(&commands),
            shell_count: workspace.shell_count,
            failed_commands: last(failed),
            last_command: commands.last().map(short),
            service_count: workspace.service_count,
            running_service_count: workspace.running_service_count,
            events: last(events),
            event_counts,
        })
    }
}

/// Denials are told with their command; here where they would have gone is enough.
fn short_detail(kind: EventKind, mut detail: Value) -> Value {
    if let (EventKind::Denial, Some(fields)) = (kind, detail.as_object_mut()) {
        fields.retain(|name, _| !matches!(name.as_str(), "denials" | "truncated"));
    }
    detail
}

/// A command and what it printed.
pub(super) fn log_entry(command: CommandRecord, output: &CommandOutput, denied: NetworkDenials) -> LogEntry {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    LogEntry {
        sequence: command.key.sequence,
        command: command.command,
        cwd: command.cwd,
        state: command.state.as_str(),
        exit_code: command.exit_code,
        duration_ms: command.duration_ms,
        execution_mode: EXECUTION_MODE,
        recorded_at: seconds(command.started_at),
        stdout: text(&output.stdout),
        stdout_truncated: output.stdout_truncated,
        stderr: text(&output.stderr),
        stderr_truncated: output.stderr_truncated,
        network_denials: denied.denials,
        network_denials_truncated: denied.truncated,
    }
}

fn is_failed(command: &CommandRecord) -> bool {
    match command.state {
        CommandState::Exited => command.exit_code != Some(0),
        CommandState::Killed => true,
        CommandState::Running | CommandState::Lost => false,
    }
}

fn count(commands: &[CommandRecord]) -> CommandCounts {
    let mut counts = CommandCounts { total: commands.len() as u64, ..CommandCounts::default() };
    for command in commands {
        match command.state {
            CommandState::Running => counts.running += 1,
            CommandState::Lost => counts.lost += 1,
            CommandState::Exited | CommandState::Killed if is_failed(command) => counts.failed += 1,
            CommandState::Exited | CommandState::Killed => counts.succeeded += 1,
        }
    }
    counts
}

fn short(command: &CommandRecord) -> SummaryCommand {
    SummaryCommand {
        sequence: command.key.sequence,
        command: command.command.clone(),
        exit_code: command.exit_code,
    }
}

fn last<T>(mut items: Vec<T>) -> Vec<T> {
    items.drain(..items.len().saturating_sub(SUMMARY_ITEMS));
    items
}
