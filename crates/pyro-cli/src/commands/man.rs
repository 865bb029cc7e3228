use crate::output::{self, Format};
use clap::{Args, Command};
use pyro_core::{Blame, Problem};
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

/// Write the man pages, one a command, into a directory. For who packages pyro.
#[derive(Debug, Args)]
#[command(hide = true, after_help = "Example:\n  pyro man target/man")]
pub(crate) struct Man {
    /// The directory, which is made where it is missing.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

impl Man {
    pub(crate) fn run(self, command: Command) -> ExitCode {
        let written = fs::create_dir_all(&self.directory)
            .and_then(|()| clap_mangen::generate_to(command, &self.directory));
        match written {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                output::problem(&Problem::new("man_pages_not_written", Blame::Host, &error), Format::Human)
            }
        }
    }
}
