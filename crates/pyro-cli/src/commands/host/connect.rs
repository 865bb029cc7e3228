use super::{Manner, Shape, settle};
use crate::clients::{Client, Scope};
use crate::output::{self, Format};
use clap::Args;
use std::process::ExitCode;

/// Give a client pyro's tools.
///
/// Where the programs of Claude Code and Codex are there, they add the entry themselves. Otherwise, and where an
/// entry is there but another one, the client's configuration file is edited: what changes is shown as a patch, and
/// everything else in the file stays as it is. What is connected already is left alone.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pyro host connect claude-code
  pyro host connect codex --mode repro-fix
  pyro host connect cursor --scope project --dry-run
  pyro host connect vscode --command-style uvx")]
pub(super) struct Connect {
    /// The client.
    #[arg(value_enum)]
    host: Client,
    /// For all of the user's projects, or for everybody in this one. [default: user; project for vscode]
    #[arg(long, value_enum)]
    scope: Option<Scope>,
    #[command(flatten)]
    shape: Shape,
    #[command(flatten)]
    manner: Manner,
}

impl Connect {
    pub(super) fn run(self) -> ExitCode {
        let format = Format::from_flag(self.manner.json);
        let looked = match self.shape.look() {
            Ok(looked) => looked,
            Err(problem) => return output::problem(&problem, format),
        };
        let scope = self.scope.unwrap_or_else(|| self.host.default_scope());
        match settle(self.host, &[scope], &looked, &self.manner) {
            Err(code) => return code,
            Ok(done) if format == Format::Json => done.iter().for_each(output::json),
            Ok(_) => {}
        }
        ExitCode::SUCCESS
    }
}
