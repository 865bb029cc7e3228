use super::{Addressed, show};
use crate::cli::answer;
use crate::output;
use clap::Args;
use pyro_core::workspace::LogEntry;
use serde::Serialize;
use std::process::ExitCode;

/// Show the commands that ran in a workspace, with their output.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace logs fix")]
pub(super) struct Logs {
    #[command(flatten)]
    target: Addressed,
}

#[derive(Serialize)]
struct Logged {
    workspace_id: String,
    count: usize,
    entries: Vec<LogEntry>,
}

impl Logs {
    pub(super) fn run(self) -> ExitCode {
        answer(
            self.target.output.format(),
            async |pyro| {
                let workspace_id = pyro.status(&self.target.workspace).await?.workspace_id;
                let entries = pyro.logs(&workspace_id)?;
                Ok(Logged { workspace_id, count: entries.len(), entries })
            },
            |logged| {
                if logged.entries.is_empty() {
                    output::line("No workspace logs found.");
                }
                logged.entries.iter().for_each(tell);
            },
        )
    }
}

fn tell(entry: &LogEntry) {
    output::line(show::log_entry(entry));
    output::bytes(show::whole_lines(entry.stdout.as_bytes()).as_ref());
    output::error_bytes(show::whole_lines(entry.stderr.as_bytes()).as_ref());
    if entry.stdout_truncated || entry.stderr_truncated {
        output::note(format_args!("[workspace-logs] #{}: more output than is kept", entry.sequence));
    }
}
