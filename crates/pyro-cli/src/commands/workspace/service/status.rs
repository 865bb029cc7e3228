use super::AddressedService;
use crate::cli::answer;
use crate::commands::workspace::show;
use crate::output;
use clap::Args;
use std::process::ExitCode;

/// Show what has become of a service, and what it uses.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace service status fix web --json")]
pub(super) struct Status {
    #[command(flatten)]
    service: AddressedService,
}

impl Status {
    pub(super) fn run(self) -> ExitCode {
        let AddressedService { target, name } = self.service;
        answer(
            target.output.format(),
            async |pyro| pyro.service_status(&target.workspace, &name).await,
            |service| output::line(show::service_status(service)),
        )
    }
}
