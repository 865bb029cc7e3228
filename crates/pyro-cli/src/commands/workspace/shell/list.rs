use crate::cli::answer;
use crate::commands::workspace::{Addressed, show};
use crate::output;
use clap::Args;
use pyro_core::workspace::ShellView;
use serde::Serialize;
use std::process::ExitCode;

/// List the shells that are open, the oldest first.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace shell list fix")]
pub(super) struct List {
    #[command(flatten)]
    target: Addressed,
}

#[derive(Serialize)]
struct Listed {
    count: usize,
    shells: Vec<ShellView>,
}

impl List {
    pub(super) fn run(self) -> ExitCode {
        answer(
            self.target.output.format(),
            async |pyro| {
                let shells = pyro.shell_list(&self.target.workspace)?;
                Ok(Listed { count: shells.len(), shells })
            },
            |listed| match listed.shells.is_empty() {
                true => output::line("No shells."),
                false => listed.shells.iter().for_each(|shell| output::line(show::shell_listed(shell))),
            },
        )
    }
}
