//! pyro for models.

pub(crate) mod serve;

use clap::{Args, Subcommand};
use std::process::ExitCode;

/// Serve pyro's tools to AI clients, over the Model Context Protocol.
#[derive(Debug, Args)]
pub(crate) struct Mcp {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
}

impl Mcp {
    pub(crate) fn run(self) -> ExitCode {
        match self.command {
            Command::Serve(command) => command.run(),
        }
    }
}
