use super::AddressedService;
use crate::cli::answer;
use crate::commands::workspace::show;
use crate::output;
use clap::Args;
use std::process::ExitCode;

/// Stop a service where it runs, start it again as it was, and wait until it is ready.
///
/// Its log goes on. A service that has failed again is an error of exit code 3.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace service restart fix web")]
pub(super) struct Restart {
    #[command(flatten)]
    service: AddressedService,
}

impl Restart {
    pub(super) fn run(self) -> ExitCode {
        let AddressedService { target, name } = self.service;
        answer(
            target.output.format(),
            async |pyro| pyro.service_restart(&target.workspace, &name).await,
            |service| output::note(show::service_started("restart", service)),
        )
    }
}
