//! The command tree.

use crate::commands;
use crate::commands::session::Signals;
use crate::output::{self, Format};
use crate::settings;
use clap::{CommandFactory, Parser, Subcommand};
use pyro_core::workspace::{Pyro, WorkspaceError};
use pyro_core::{Blame, Config, Explain, Problem};
use serde::Serialize;
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
  pyro run debian:12 -- git --version
  pyro workspace create debian:12 --seed-path .";

#[derive(Debug, Subcommand)]
enum Command {
    Doctor(commands::doctor::Doctor),
    Env(commands::env::Env),
    Run(commands::run::Run),
    Workspace(commands::workspace::Workspace),
    Network(commands::network::check::Network),
    Mcp(commands::mcp::Mcp),
    Fsck(commands::fsck::Fsck),
    Demo(commands::demo::Demo),
    Completion(commands::completion::Completion),
    #[command(hide = true)]
    Man(commands::man::Man),
}

impl Cli {
    pub(crate) fn run(self) -> ExitCode {
        match self.command {
            Command::Doctor(command) => command.run(),
            Command::Env(command) => command.run(),
            Command::Run(command) => command.run(),
            Command::Workspace(command) => command.run(),
            Command::Network(command) => command.run(),
            Command::Mcp(command) => command.run(),
            Command::Fsck(command) => command.run(),
            Command::Demo(command) => command.run(),
            Command::Completion(command) => command.run(&mut Self::command()),
            Command::Man(command) => command.run(Self::command()),
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

/// Opens the state and does `work`; a signal drops the work and is the exit code.
pub(crate) fn with_pyro<T>(
    format: Format,
    work: impl AsyncFnOnce(&Pyro) -> Result<T, WorkspaceError>,
) -> Result<T, ExitCode> {
    let config = config(format)?;
    let told = |error: WorkspaceError| output::problem(&error.explain(), format);
    block_on(format, async {
        let mut signals = Signals::listen().map_err(|problem| output::problem(&problem, format))?;
        let pyro = Pyro::open(config).map_err(told)?;
        let code = tokio::select! {
            done = work(&pyro) => return done.map_err(told),
            code = signals.next() => code,
        };
        // What was begun is undone first; a second signal leaves that to the next command.
        tokio::select! {
            _ = pyro.settle() => {}
            _ = signals.next() => {}
        }
        Err(ExitCode::from(code))
    })?
}

/// Does `work` as [`with_pyro`] and shows what it gives: as JSON, or by `show`.
pub(crate) fn answer<T: Serialize>(
    format: Format,
    work: impl AsyncFnOnce(&Pyro) -> Result<T, WorkspaceError>,
    show: impl FnOnce(&T),
) -> ExitCode {
    match with_pyro(format, work) {
        Err(code) => return code,
        Ok(value) => match format {
            Format::Json => output::json(&value),
            Format::Human => show(&value),
        },
    }
    ExitCode::SUCCESS
}
