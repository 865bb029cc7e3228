use crate::output::{self, Format};
use clap::{Args, Command};
use pyro_core::{Blame, Problem};
use std::path::PathBuf;
use std::process::ExitCode;

/// Write a manual page for every command into a directory.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro man ~/.local/share/man/man1")]
pub(crate) struct Man {
    /// The directory, which exists.
    directory: PathBuf,
}

impl Man {
    pub(crate) fn run(self, command: Command) -> ExitCode {
        match clap_mangen::generate_to(command, &self.directory) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let problem = Problem::new("manual_not_written", Blame::Caller, &error);
                output::problem(&problem, Format::Human)
            }
        }
    }
}
