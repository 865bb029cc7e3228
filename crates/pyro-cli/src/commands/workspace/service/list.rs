use crate::cli::answer;
use crate::commands::workspace::{Addressed, show};
use crate::output;
use clap::Args;
use std::process::ExitCode;

/// List the services of a workspace, those that run and those that have ended.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace service list fix")]
pub(super) struct List {
    #[command(flatten)]
    target: Addressed,
}

impl List {
    pub(super) fn run(self) -> ExitCode {
        answer(
            self.target.output.format(),
            async |pyro| pyro.service_list(&self.target.workspace).await,
            |services| output::line(show::services_listed(services)),
        )
    }
}
