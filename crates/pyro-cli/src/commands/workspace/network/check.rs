use crate::cli::with_pyro;
use crate::commands::network::check::tell_check;
use crate::commands::workspace::Addressed;
use clap::Args;
use std::process::ExitCode;

/// Tell whether the workspace's policy lets its guest reach something, by which rule, and what would allow it.
///
/// A name that the guest may ask for is looked up as this host does; nothing else is sent, and no machine need
/// run. The exit code is 0 where it is allowed and 1 where it is denied.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pyro workspace network check fix https://example.com/
  pyro workspace network check fix 10.0.0.5:5432")]
pub(super) struct Check {
    #[command(flatten)]
    target: Addressed,
    /// A URL, or HOST:PORT, or udp://HOST:PORT.
    destination: String,
}

impl Check {
    pub(super) fn run(self) -> ExitCode {
        let format = self.target.output.format();
        let checked =
            with_pyro(format, async |pyro| pyro.network_check(&self.target.workspace, &self.destination));
        match checked {
            Ok(check) => tell_check(&check, format),
            Err(code) => code,
        }
    }
}
