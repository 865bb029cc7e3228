use super::{OutputArgs, show};
use crate::cli::answer;
use crate::output;
use clap::Args;
use pyro_core::workspace::WorkspaceView;
use serde::Serialize;
use std::process::ExitCode;

/// List the workspaces, the last worked with first.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace list --json")]
pub(super) struct List {
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
struct Listed {
    count: usize,
    workspaces: Vec<WorkspaceView>,
}

impl List {
    pub(super) fn run(self) -> ExitCode {
        answer(
            self.output.format(),
            async |pyro| {
                let workspaces = pyro.list()?;
                Ok(Listed { count: workspaces.len(), workspaces })
            },
            |listed| {
                if listed.workspaces.is_empty() {
                    output::line("No workspaces.");
                }
                listed.workspaces.iter().for_each(|workspace| output::line(show::listed(workspace)));
            },
        )
    }
}
