use super::{Addressed, show};
use crate::cli::answer;
use crate::output;
use clap::Args;
use std::process::ExitCode;

/// List the ports of this machine that lead to services of a workspace.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace ports fix")]
pub(super) struct Ports {
    #[command(flatten)]
    target: Addressed,
}

impl Ports {
    pub(super) fn run(self) -> ExitCode {
        answer(
            self.target.output.format(),
            async |pyro| pyro.ports(&self.target.workspace),
            |ports| output::line(show::ports_listed(ports)),
        )
    }
}
