use super::AddressedService;
use crate::cli::answer;
use crate::commands::workspace::show;
use crate::output;
use clap::Args;
use std::process::ExitCode;

/// Stop a service with all its processes.
///
/// Each is asked to end by SIGTERM; what is left after 5 seconds is killed. A service that has ended stays as it
/// is.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace service stop fix web")]
pub(super) struct Stop {
    #[command(flatten)]
    service: AddressedService,
}

impl Stop {
    pub(super) fn run(self) -> ExitCode {
        let AddressedService { target, name } = self.service;
        answer(
            target.output.format(),
            async |pyro| pyro.service_stop(&target.workspace, &name).await,
            |service| output::note(show::service_stopped(service)),
        )
    }
}
