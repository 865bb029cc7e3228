use clap::{Args, Command};
use clap_complete::Shell;
use std::io;
use std::process::ExitCode;

/// Print the completion script of a shell.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro completion bash > ~/.local/share/bash-completion/completions/pyro")]
pub(crate) struct Completion {
    /// The shell to complete in.
    shell: Shell,
}

impl Completion {
    pub(crate) fn run(self, command: &mut Command) -> ExitCode {
        clap_complete::generate(self.shell, command, "pyro", &mut io::stdout());
        ExitCode::SUCCESS
    }
}
