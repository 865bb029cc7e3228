use super::AddressedService;
use crate::cli::{answer, with_pyro};
use crate::commands::session::EXIT_BROKEN_PIPE;
use crate::commands::workspace::show;
use crate::output;
use clap::Args;
use pyro_core::workspace::{LogTail, Pyro, WorkspaceError};
use std::process::ExitCode;

/// Show what a service has printed, each stream on its own.
///
/// The log is kept over restarts and stops of the workspace: of each stream the last 16 MiB at least, 32 MiB at
/// most. With --follow pyro goes on until the service has ended for good.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pyro workspace service logs fix web --tail-lines 50
  pyro workspace service logs fix web --follow")]
pub(super) struct Logs {
    #[command(flatten)]
    service: AddressedService,
    /// Show this many lines of each stream, the last ones.
    #[arg(long, value_name = "COUNT", default_value_t = 200, conflicts_with = "all")]
    tail_lines: usize,
    /// Show all that is kept.
    #[arg(long)]
    all: bool,
    /// Show more as it comes, until the service has ended.
    #[arg(short, long, conflicts_with = "json")]
    follow: bool,
}

impl Logs {
    pub(super) fn run(self) -> ExitCode {
        let AddressedService { target, name } = self.service;
        let (address, format) = (target.workspace, target.output.format());
        let tail = if self.all { LogTail::All } else { LogTail::Lines(self.tail_lines) };
        if self.follow {
            let followed = with_pyro(format, async |pyro| follow(pyro, &address, &name, tail).await);
            return followed.unwrap_or_else(|code| code);
        }
        answer(
            format,
            async |pyro| pyro.service_logs(&address, &name, tail).await,
            |logs| {
                output::line(show::service_log_heading(logs));
                output::bytes(logs.stdout.as_bytes());
                output::error_bytes(logs.stderr.as_bytes());
                if logs.truncated {
                    output::note(show::service_log_cut(logs));
                }
            },
        )
    }
}

async fn follow(pyro: &Pyro, address: &str, name: &str, tail: LogTail) -> Result<ExitCode, WorkspaceError> {
    let mut follow = pyro.service_follow(address, name, tail).await?;
    while let Some(new) = follow.next().await? {
        if output::both_streams(&new.stdout, &new.stderr).is_err() {
            return Ok(ExitCode::from(EXIT_BROKEN_PIPE));
        }
    }
    if follow.lost_bytes > 0 {
        let lost = follow.lost_bytes;
        output::note(format_args!(
            "[workspace-service-logs] {lost} bytes were gone before they could be read"
        ));
    }
    Ok(ExitCode::SUCCESS)
}
