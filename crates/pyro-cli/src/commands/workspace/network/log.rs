use crate::cli::{answer, with_pyro};
use crate::commands::session::EXIT_BROKEN_PIPE;
use crate::commands::workspace::{Addressed, show};
use crate::output::{self, Format};
use clap::Args;
use pyro_core::network::FlowEvent;
use pyro_core::workspace::{LogTail, NetworkRecords, Pyro, WorkspaceError};
use std::process::ExitCode;

/// Show where the guest's connections went and what was denied, one line each.
///
/// A line is written when a flow is denied or has ended; flows that go on follow, with what has passed so far (not
/// with --follow). The log is kept over stops and resets: the last 16 MiB at
/// least, 32 MiB at most. With --follow pyro goes on until the machine ends; with --json then one object a line.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pyro workspace network log fix --denied
  pyro workspace network log fix --follow --json")]
pub(super) struct Log {
    #[command(flatten)]
    target: Addressed,
    /// Show this many lines, the last ones.
    #[arg(long, value_name = "COUNT", default_value_t = 200, conflicts_with = "all")]
    tail_lines: usize,
    /// Show all that is kept.
    #[arg(long)]
    all: bool,
    /// Show only what was denied.
    #[arg(long)]
    denied: bool,
    /// Show more as it comes, until the machine ends.
    #[arg(short, long)]
    follow: bool,
}

impl Log {
    pub(super) fn run(self) -> ExitCode {
        let (address, format) = (self.target.workspace, self.target.output.format());
        let tail = if self.all { LogTail::All } else { LogTail::Lines(self.tail_lines) };
        let records = if self.denied { NetworkRecords::Denied } else { NetworkRecords::All };
        if self.follow {
            let followed =
                with_pyro(format, async |pyro| follow(pyro, &address, records, tail, format).await);
            return followed.unwrap_or_else(|code| code);
        }
        answer(
            format,
            async |pyro| pyro.network_log(&address, records, tail).await,
            |log| {
                for event in &log.flows {
                    output::line(show::flow(event));
                }
                for flow in &log.open {
                    output::line(show::open_flow(flow));
                }
                if log.truncated {
                    output::note("[workspace-network-log] there was more before");
                }
                if log.open_truncated {
                    output::note("[workspace-network-log] more flows go on than are told here");
                }
            },
        )
    }
}

async fn follow(
    pyro: &Pyro,
    address: &str,
    records: NetworkRecords,
    tail: LogTail,
    format: Format,
) -> Result<ExitCode, WorkspaceError> {
    let mut follow = pyro.network_follow(address, records, tail)?;
    while let Some(events) = follow.next().await? {
        let text: String = events.iter().map(|event| line(event, format)).collect();
        if output::both_streams(text.as_bytes(), b"").is_err() {
            return Ok(ExitCode::from(EXIT_BROKEN_PIPE));
        }
    }
    if follow.lost_bytes > 0 {
        let lost = follow.lost_bytes;
        output::note(format_args!(
            "[workspace-network-log] {lost} bytes were gone before they could be read"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn line(event: &FlowEvent, format: Format) -> String {
    match format {
        Format::Json => format!("{}\n", event.to_json_line()),
        Format::Human => format!("{}\n", show::flow(event)),
    }
}
