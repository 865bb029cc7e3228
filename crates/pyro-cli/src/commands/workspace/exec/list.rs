use crate::cli::answer;
use crate::commands::workspace::{Addressed, show};
use crate::output;
use clap::Args;
use pyro_core::workspace::CommandView;
use serde::Serialize;
use std::process::ExitCode;

/// List the commands of a workspace since its last reset, those that run and those that have ended.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace exec list fix")]
pub(super) struct List {
    #[command(flatten)]
    target: Addressed,
}

#[derive(Serialize)]
struct Listed {
    count: usize,
    commands: Vec<CommandView>,
}

impl List {
    pub(super) fn run(self) -> ExitCode {
        answer(
            self.target.output.format(),
            async |pyro| {
                let commands = pyro.command_list(&self.target.workspace)?;
                Ok(Listed { count: commands.len(), commands })
            },
            |listed| {
                if listed.commands.is_empty() {
                    output::line("No workspace commands found.");
                }
                listed.commands.iter().for_each(|command| output::line(show::command_listed(command)));
            },
        )
    }
}
