mod attach;
mod close;
mod keys;
mod list;
mod open;
mod read;
mod resize;
mod signal;
mod write;

use super::Addressed;
use clap::{Args, Subcommand};
use std::process::ExitCode;

/// Shells in a terminal of the guest, which go on by themselves.
///
/// A shell lives until it is closed or its machine ends. What it prints can be read in parts, as bytes or as
/// the lines that a person would see.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:
  pyro workspace shell open fix
  pyro workspace shell write fix SHELL --input 'make test'
  pyro workspace shell read fix SHELL --plain --wait-for-prompt
  pyro workspace shell attach fix SHELL"
)]
pub(super) struct Shell {
    #[command(subcommand)]
    command: ShellCommand,
}

#[derive(Debug, Subcommand)]
enum ShellCommand {
    Open(open::Open),
    List(list::List),
    Read(read::Read),
    Write(write::Write),
    Resize(resize::Resize),
    Signal(signal::Signal),
    Attach(attach::Attach),
    Close(close::Close),
}

impl Shell {
    pub(super) fn run(self) -> ExitCode {
        match self.command {
            ShellCommand::Open(command) => command.run(),
            ShellCommand::List(command) => command.run(),
            ShellCommand::Read(command) => command.run(),
            ShellCommand::Write(command) => command.run(),
            ShellCommand::Resize(command) => command.run(),
            ShellCommand::Signal(command) => command.run(),
            ShellCommand::Attach(command) => command.run(),
            ShellCommand::Close(command) => command.run(),
        }
    }
}

// What the commands about one shell take. A doc comment here would replace their help.
#[derive(Debug, Args)]
struct AddressedShell {
    #[command(flatten)]
    target: Addressed,
    /// Its id, or a unique beginning of it, as `shell open` and `shell list` tell it.
    shell: String,
}

#[cfg(test)]
mod tests;
