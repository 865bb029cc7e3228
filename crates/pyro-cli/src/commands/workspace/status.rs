use super::{Addressed, show};
use crate::cli::answer;
use crate::output;
use clap::Args;
use std::process::ExitCode;

/// Show a workspace: its state, its limits, what runs it.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace status fix")]
pub(super) struct Status {
    #[command(flatten)]
    target: Addressed,
}

impl Status {
    pub(super) fn run(self) -> ExitCode {
        answer(
            self.target.output.format(),
            async |pyro| pyro.status(&self.target.workspace).await,
            |workspace| output::line(show::status(workspace)),
        )
    }
}
