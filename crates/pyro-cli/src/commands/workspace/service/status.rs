use super::AddressedService;
use crate::cli::answer;
use crate::commands::network::tell_denials;
use crate::commands::workspace::show;
use crate::output;
use clap::Args;
use std::process::ExitCode;

/// Show what has become of a service, what it uses, and what the guest was denied since its last start.
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
            |service| {
                output::line(show::service_status(service));
                if let Some(denied) = &service.denied {
                    tell_denials(&denied.network_denials, denied.network_denials_truncated);
                }
            },
        )
    }
}
