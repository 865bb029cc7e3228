mod list;
mod logs;
mod restart;
mod start;
mod status;
mod stop;
mod wait;

use super::Addressed;
use clap::{Args, Subcommand};
use std::process::ExitCode;

/// Programs that go on running in a workspace.
///
/// A service has a name, a log, and a way to tell that it is ready. It runs on without the pyro that started it,
/// and ends with its workspace's stop, reset or deletion. What it has printed can be read until it is started
/// anew or the workspace is reset.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:
  pyro workspace service start fix web --ready-http http://127.0.0.1:8080/ -- ./serve --port 8080
  pyro workspace service logs fix web --follow
  pyro workspace service stop fix web"
)]
pub(super) struct Service {
    #[command(subcommand)]
    command: ServiceCommand,
}

#[derive(Debug, Subcommand)]
enum ServiceCommand {
    Start(Box<start::Start>),
    List(list::List),
    Status(status::Status),
    Logs(logs::Logs),
    Stop(stop::Stop),
    Restart(restart::Restart),
    Wait(wait::Wait),
}

impl Service {
    pub(super) fn run(self) -> ExitCode {
        match self.command {
            ServiceCommand::Start(command) => command.run(),
            ServiceCommand::List(command) => command.run(),
            ServiceCommand::Status(command) => command.run(),
            ServiceCommand::Logs(command) => command.run(),
            ServiceCommand::Stop(command) => command.run(),
            ServiceCommand::Restart(command) => command.run(),
            ServiceCommand::Wait(command) => command.run(),
        }
    }
}

// What the commands about one service take. A doc comment here would replace their help.
#[derive(Debug, Args)]
struct AddressedService {
    #[command(flatten)]
    target: Addressed,
    /// Its name.
    name: String,
}

#[cfg(test)]
mod tests;
