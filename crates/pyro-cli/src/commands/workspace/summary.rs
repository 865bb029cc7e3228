use super::{Addressed, show};
use crate::cli::answer;
use crate::output;
use clap::Args;
use std::process::ExitCode;

/// Tell what has been done in a workspace since it was made or last reset, for a review.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace summary fix")]
pub(super) struct Summary {
    #[command(flatten)]
    target: Addressed,
}

impl Summary {
    pub(super) fn run(self) -> ExitCode {
        answer(
            self.target.output.format(),
            async |pyro| pyro.summary(&self.target.workspace),
            |summary| output::line(show::summary(summary)),
        )
    }
}
