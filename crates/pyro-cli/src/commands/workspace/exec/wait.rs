use super::AddressedCommand;
use crate::cli::with_pyro;
use crate::commands::network::tell_denials;
use crate::commands::session::{EXIT_TIMED_OUT, EXIT_UNKNOWN, exit_code};
use crate::commands::workspace::{show, wait};
use crate::output::{self, Format};
use clap::Args;
use pyro_core::Explain;
use pyro_core::workspace::WaitedCommand;
use std::process::ExitCode;

/// Wait until a command has ended.
///
/// The command's exit code is pyro's. It is 125 where nobody knows how the command ended, and 124 when the
/// time for waiting was over first; wait_timed_out=yes tells that from a command that exited with 124.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace exec wait fix 5 --timeout-seconds 60")]
pub(super) struct Wait {
    #[command(flatten)]
    target: AddressedCommand,
    /// Wait this long at most; otherwise as long as it takes.
    #[arg(long, value_name = "SECONDS")]
    timeout_seconds: Option<u64>,
}

impl Wait {
    pub(super) fn run(self) -> ExitCode {
        let AddressedCommand { target, sequence } = self.target;
        let format = target.output.format();
        let limit = match wait::limit(self.timeout_seconds) {
            Ok(limit) => limit,
            Err(error) => return output::problem(&error.explain(), format),
        };
        let waited =
            with_pyro(format, async |pyro| pyro.command_wait(&target.workspace, sequence, limit).await);
        let waited = match waited {
            Ok(waited) => waited,
            Err(code) => return code,
        };
        match format {
            Format::Json => output::json(&waited),
            Format::Human => {
                output::line(show::command_waited(&waited));
                let command = &waited.command;
                tell_denials(&command.network_denials, command.network_denials_truncated);
            }
        }
        meaning(&waited)
    }
}

fn meaning(waited: &WaitedCommand) -> ExitCode {
    match (waited.wait_timed_out, waited.command.exit_code) {
        (true, _) => ExitCode::from(EXIT_TIMED_OUT),
        (false, Some(status)) => exit_code(status),
        (false, None) => ExitCode::from(EXIT_UNKNOWN),
    }
}
