use super::AddressedService;
use crate::cli::with_pyro;
use crate::commands::session::EXIT_TIMED_OUT;
use crate::commands::workspace::{show, wait};
use crate::output::{self, Format};
use clap::{Args, ValueEnum};
use pyro_core::workspace::{ServiceUntil, WaitedService};
use pyro_core::{Blame, Explain};
use std::process::ExitCode;

/// Wait until a service is ready, or has ended.
///
/// Exits with 0 when it is as awaited, with 3 when it has failed or, awaited to be ready, has ended, and with 124
/// when the time for waiting was over first.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  pyro workspace service wait fix migrate --until ended --timeout-seconds 60"
)]
pub(super) struct Wait {
    #[command(flatten)]
    service: AddressedService,
    /// What to wait for.
    #[arg(long, value_enum, default_value_t = Until::Ready, value_name = "WHAT")]
    until: Until,
    /// Wait this long at most; otherwise as long as it takes.
    #[arg(long, value_name = "SECONDS")]
    timeout_seconds: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Until {
    /// It is ready.
    Ready,
    /// It has ended for good.
    Ended,
}

impl From<Until> for ServiceUntil {
    fn from(until: Until) -> Self {
        match until {
            Until::Ready => Self::Ready,
            Until::Ended => Self::Ended,
        }
    }
}

impl Wait {
    pub(super) fn run(self) -> ExitCode {
        let AddressedService { target, name } = self.service;
        let format = target.output.format();
        let limit = match wait::limit(self.timeout_seconds) {
            Ok(limit) => limit,
            Err(error) => return output::problem(&error.explain(), format),
        };
        let until = self.until.into();
        let waited =
            with_pyro(format, async |pyro| pyro.service_wait(&target.workspace, &name, until, limit).await);
        let waited = match waited {
            Ok(waited) => waited,
            Err(code) => return code,
        };
        match format {
            Format::Json => output::json(&waited),
            Format::Human => output::line(show::service_waited(&waited)),
        }
        meaning(&waited, self.until)
    }
}

fn meaning(waited: &WaitedService, until: Until) -> ExitCode {
    match (waited.wait_timed_out, waited.service.state, until) {
        (true, ..) => ExitCode::from(EXIT_TIMED_OUT),
        (false, "running", _) | (false, "exited" | "stopped", Until::Ended) => ExitCode::SUCCESS,
        (false, _, Until::Ready | Until::Ended) => ExitCode::from(Blame::Guest.exit_code()),
    }
}
