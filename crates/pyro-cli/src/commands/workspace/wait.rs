use super::{Addressed, show};
use crate::cli::with_pyro;
use crate::commands::session::EXIT_TIMED_OUT;
use crate::output::{self, Format};
use clap::{Args, ValueEnum};
use pyro_core::workspace::Awaited;
use pyro_core::{Explain, limits};
use std::process::ExitCode;
use std::time::Duration;

/// Wait until a workspace is in a state.
///
/// The exit code is 0 when it is, and 124 when the time for waiting was over first. It is an error when the
/// workspace is deleted or expires meanwhile; waiting does not keep it from expiring.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pyro workspace wait fix --state idle
  pyro workspace wait fix --timeout-seconds 60")]
pub(super) struct Wait {
    #[command(flatten)]
    target: Addressed,
    /// The state.
    #[arg(long, value_enum, default_value_t = State::Stopped, value_name = "STATE")]
    state: State,
    /// Wait this long at most; otherwise as long as it takes.
    #[arg(long, value_name = "SECONDS")]
    timeout_seconds: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum State {
    /// Its machine runs and takes commands.
    Started,
    /// No machine runs.
    Stopped,
    /// No command runs.
    Idle,
}

impl From<State> for Awaited {
    fn from(state: State) -> Self {
        match state {
            State::Started => Self::Started,
            State::Stopped => Self::Stopped,
            State::Idle => Self::Idle,
        }
    }
}

impl Wait {
    pub(super) fn run(self) -> ExitCode {
        let format = self.target.output.format();
        let limit = match limit(self.timeout_seconds) {
            Ok(limit) => limit,
            Err(error) => return output::problem(&error.explain(), format),
        };
        let work =
            with_pyro(format, async |pyro| pyro.wait(&self.target.workspace, self.state.into(), limit).await);
        let waited = match work {
            Ok(waited) => waited,
            Err(code) => return code,
        };
        match format {
            Format::Json => output::json(&waited),
            Format::Human => output::line(show::workspace_waited(&waited)),
        }
        if waited.wait_timed_out { ExitCode::from(EXIT_TIMED_OUT) } else { ExitCode::SUCCESS }
    }
}

/// How long to wait at most.
pub(super) fn limit(seconds: Option<u64>) -> Result<Option<Duration>, limits::OutOfRange> {
    let check = |seconds| limits::check("timeout_seconds", seconds, &limits::WAIT_SECONDS);
    Ok(seconds.map(check).transpose()?.map(Duration::from_secs))
}
