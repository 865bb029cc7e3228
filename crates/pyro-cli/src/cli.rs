//! The command tree.

use crate::commands;
use crate::output::{self, Format};
use crate::settings;
use clap::{CommandFactory, Parser, Subcommand};
use pyro_core::{Blame, Config, Explain, Problem};
use std::future::Future;
use std::process::ExitCode;

/// Disposable Linux machines: run a command in a microVM, safely and without root.
#[derive(Debug, Parser)]
#[command(name = "pyro", version, arg_required_else_help = true, propagate_version = false, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  pyro doctor
  pyro env pull debian:12
  pyro run debian:12 -- git --version";

#[derive(Debug, Subcommand)]
enum Command {
    Doctor(commands::doctor::Doctor),
    Env(commands::env::Env),
    Run(commands::run::Run),
    Demo(commands::demo::Demo),
    Completion(commands::completion::Completion),
}

impl Cli {
    pub(crate) fn run(self) -> ExitCode {
        match self.command {
            Command::Doctor(command) => command.run(),
            Command::Env(command) => command.run(),
            Command::Run(command) => command.run(),
            Command::Demo(command) => command.run(),
            Command::Completion(command) => command.run(&mut Self::command()),
        }
    }
}

/// Loads the settings or tells why not.
pub(crate) fn config(format: Format) -> Result<Config, ExitCode> {
    settings::load().map_err(|error| output::problem(&error.explain(), format))
}

/// Runs a command's future on a runtime of one thread.
pub(crate) fn block_on<T>(format: Format, work: impl Future<Output = T>) -> Result<T, ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| output::problem(&Problem::new("no_runtime", Blame::Host, &error), format))?;
    let result = runtime.block_on(work);
    // A read of a terminal's standard input cannot be cancelled; nobody waits for it.
    runtime.shutdown_background();
    Ok(result)
}
