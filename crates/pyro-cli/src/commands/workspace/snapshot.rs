use super::{Addressed, show};
use crate::cli::answer;
use crate::output;
use clap::{Args, Subcommand};
use pyro_core::workspace::{EXECUTION_MODE, SnapshotView};
use serde::Serialize;
use std::process::ExitCode;

/// Points in a workspace's life to go back to.
///
/// A snapshot holds the whole disk: installed packages as well as /workspace.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Example:\n  pyro workspace snapshot create fix checkpoint"
)]
pub(super) struct Snapshot {
    #[command(subcommand)]
    command: SnapshotCommand,
}

#[derive(Debug, Subcommand)]
enum SnapshotCommand {
    Create(Create),
    List(List),
    Delete(Delete),
}

/// Take a snapshot.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace snapshot create fix checkpoint")]
struct Create {
    #[command(flatten)]
    target: Addressed,
    /// What to call it.
    name: String,
}

/// List the snapshots: the baseline, then the newest first.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace snapshot list fix")]
struct List {
    #[command(flatten)]
    target: Addressed,
}

/// Delete a snapshot. The workspace and its other snapshots stay as they are.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace snapshot delete fix checkpoint")]
struct Delete {
    #[command(flatten)]
    target: Addressed,
    /// Its name.
    name: String,
}

#[derive(Serialize)]
struct Created {
    workspace_id: String,
    snapshot: SnapshotView,
    execution_mode: &'static str,
}

#[derive(Serialize)]
struct Listed {
    workspace_id: String,
    count: usize,
    snapshots: Vec<SnapshotView>,
}

impl Snapshot {
    pub(super) fn run(self) -> ExitCode {
        match self.command {
            SnapshotCommand::Create(command) => command.run(),
            SnapshotCommand::List(command) => command.run(),
            SnapshotCommand::Delete(command) => command.run(),
        }
    }
}

impl Create {
    fn run(self) -> ExitCode {
        answer(
            self.target.output.format(),
            async |pyro| {
                let snapshot = pyro.snapshot_create(&self.target.workspace, &self.name).await?;
                let workspace_id = snapshot.workspace_id.clone();
                Ok(Created { workspace_id, snapshot, execution_mode: EXECUTION_MODE })
            },
            |created| output::line(show::snapshot_created(&created.snapshot)),
        )
    }
}

impl List {
    fn run(self) -> ExitCode {
        answer(
            self.target.output.format(),
            async |pyro| {
                let snapshots = pyro.snapshot_list(&self.target.workspace)?;
                // Every workspace has its baseline.
                let id = snapshots.first().map(|first| first.workspace_id.clone());
                let workspace_id = id.unwrap_or_else(|| self.target.workspace.clone());
                Ok(Listed { workspace_id, count: snapshots.len(), snapshots })
            },
            |listed| listed.snapshots.iter().for_each(|one| output::line(show::snapshot_listed(one))),
        )
    }
}

impl Delete {
    fn run(self) -> ExitCode {
        answer(
            self.target.output.format(),
            async |pyro| pyro.snapshot_delete(&self.target.workspace, &self.name).await,
            |deleted| {
                output::line(format_args!("Deleted workspace snapshot: {}", deleted.snapshot_name));
            },
        )
    }
}
