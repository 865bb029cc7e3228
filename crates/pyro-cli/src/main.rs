//! The `pyro` command: parses arguments, calls pyro-core, shows the result.
//!
//! One file per command under `commands`; everything printed goes through `output`; the environment and
//! `config.toml` are read in `settings` alone.

mod cli;
mod clients;
mod commands;
mod output;
mod readiness;
#[cfg(test)]
mod reference;
mod settings;

use clap::Parser;
use pyro_core::Blame;
use std::process::ExitCode;

fn main() -> ExitCode {
    // The supervisor of a machine is this same executable, started by pyro-core; it is no command of its own.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == settings::SUPERVISE) {
        return match pyro_core::supervisor::serve_stdin() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(Blame::Bug.exit_code()),
        };
    }
    cli::Cli::parse().run()
}
