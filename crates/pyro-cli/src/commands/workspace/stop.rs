use super::{Addressed, show};
use crate::cli::answer;
use crate::output;
use clap::Args;
use std::process::ExitCode;

/// Stop a workspace's machine; its disk stays.
///
/// Stopping a stopped one does nothing.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace stop fix")]
pub(super) struct Stop {
    #[command(flatten)]
    target: Addressed,
}

impl Stop {
    pub(super) fn run(self) -> ExitCode {
        answer(
            self.target.output.format(),
            async |pyro| pyro.stop(&self.target.workspace).await,
            |workspace| output::line(show::workspace("Stopped workspace ID", workspace)),
        )
    }
}
