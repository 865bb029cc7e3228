use super::Shape;
use crate::clients::{Client, Entry, Scope, fragment};
use crate::output::{self, Format};
use clap::Args;
use std::process::ExitCode;

/// Print what a client's configuration file must hold, and change nothing.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pyro host print-config opencode
  pyro host print-config codex --mode inspect")]
pub(super) struct PrintConfig {
    /// The client.
    #[arg(value_enum)]
    host: Client,
    /// For all of the user's projects, or for everybody in this one. [default: user; project for vscode]
    #[arg(long, value_enum)]
    scope: Option<Scope>,
    #[command(flatten)]
    shape: Shape,
}

impl PrintConfig {
    pub(super) fn run(self) -> ExitCode {
        let (around, launch) = match self.shape.look() {
            Ok(looked) => looked,
            Err(problem) => return output::problem(&problem, Format::Human),
        };
        let scope = self.scope.unwrap_or_else(|| self.host.default_scope());
        let place = self.host.place(scope, &around);
        output::bytes(fragment(&place, &Entry::new(self.host, &launch)).as_bytes());
        output::note(format_args!(
            "[host-print-config] host={} path={}",
            self.host.as_str(),
            place.path.display()
        ));
        ExitCode::SUCCESS
    }
}
