use super::{Addressed, show};
use crate::cli::answer;
use crate::output;
use clap::Args;
use std::process::ExitCode;

/// Start a stopped workspace's machine again.
///
/// Starting a started one does nothing.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace start fix")]
pub(super) struct Start {
    #[command(flatten)]
    target: Addressed,
}

impl Start {
    pub(super) fn run(self) -> ExitCode {
        answer(
            self.target.output.format(),
            async |pyro| pyro.start(&self.target.workspace).await,
            |workspace| output::line(show::workspace("Started workspace ID", workspace)),
        )
    }
}
