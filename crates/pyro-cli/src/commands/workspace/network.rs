mod check;
mod log;

use clap::{Args, Subcommand};
use std::process::ExitCode;

/// What a workspace's guest may reach, and what it has.
///
/// `workspace update` changes it.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:
  pyro workspace network check fix https://example.com/
  pyro workspace network log fix --denied --follow"
)]
pub(super) struct Network {
    #[command(subcommand)]
    command: NetworkCommand,
}

#[derive(Debug, Subcommand)]
enum NetworkCommand {
    Check(check::Check),
    Log(log::Log),
}

impl Network {
    pub(super) fn run(self) -> ExitCode {
        match self.command {
            NetworkCommand::Check(command) => command.run(),
            NetworkCommand::Log(command) => command.run(),
        }
    }
}
