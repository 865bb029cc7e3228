use super::AddressedCommand;
use crate::cli::{answer, with_pyro};
use crate::commands::network::tell_denials;
use crate::commands::session::EXIT_BROKEN_PIPE;
use crate::output;
use clap::Args;
use pyro_core::workspace::{LogEntry, Pyro, WorkspaceError};
use std::process::ExitCode;

/// Show what a command has printed so far, each stream on its own.
///
/// The first MiB of each stream is kept. With --follow pyro goes on until the command has ended.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace exec logs fix 5 --follow")]
pub(super) struct Logs {
    #[command(flatten)]
    target: AddressedCommand,
    /// Show more as it comes, until the command has ended.
    #[arg(short, long, conflicts_with = "json")]
    follow: bool,
}

impl Logs {
    pub(super) fn run(self) -> ExitCode {
        let AddressedCommand { target, sequence } = self.target;
        let (address, format) = (target.workspace, target.output.format());
        if self.follow {
            let followed = with_pyro(format, async |pyro| follow(pyro, &address, sequence).await);
            return followed.unwrap_or_else(|code| code);
        }
        answer(
            format,
            async |pyro| pyro.command_output(&address, sequence).await,
            |entry| {
                output::bytes(entry.stdout.as_bytes());
                output::error_bytes(entry.stderr.as_bytes());
                tell_more(entry);
            },
        )
    }
}

async fn follow(pyro: &Pyro, address: &str, sequence: u64) -> Result<ExitCode, WorkspaceError> {
    let mut follow = pyro.command_follow(address, sequence)?;
    while let Some(new) = follow.next().await? {
        if output::both_streams(&new.stdout, &new.stderr).is_err() {
            return Ok(ExitCode::from(EXIT_BROKEN_PIPE));
        }
    }
    tell_more(&pyro.command_output(address, sequence).await?);
    Ok(ExitCode::SUCCESS)
}

fn tell_more(entry: &LogEntry) {
    if entry.stdout_truncated || entry.stderr_truncated {
        output::note(format_args!("[workspace-exec-logs] #{}: more output than is kept", entry.sequence));
    }
    tell_denials(&entry.network_denials, entry.network_denials_truncated);
}
