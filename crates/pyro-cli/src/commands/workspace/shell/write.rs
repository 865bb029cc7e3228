use super::AddressedShell;
use crate::cli::answer;
use crate::commands::workspace::{content, show};
use crate::output;
use clap::Args;
use pyro_core::Explain;
use pyro_core::workspace::Newline;
use std::process::ExitCode;

/// Type into a shell, and press Enter.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pyro workspace shell write fix SHELL --input 'make test'
  pyro workspace shell write fix SHELL --input y --no-newline
  printf '\\003' | pyro workspace shell write fix SHELL --stdin --no-newline")]
pub(super) struct Write {
    #[command(flatten)]
    shell: AddressedShell,
    /// What to type.
    #[arg(long, value_name = "TEXT", required_unless_present = "stdin", allow_hyphen_values = true)]
    input: Option<String>,
    /// Type what comes on standard input, any bytes.
    #[arg(long, conflicts_with = "input")]
    stdin: bool,
    /// Do not press Enter after it.
    #[arg(long)]
    no_newline: bool,
}

impl Write {
    pub(super) fn run(self) -> ExitCode {
        let AddressedShell { target, shell } = self.shell;
        let format = target.output.format();
        let input = match self.input {
            Some(text) => text.into_bytes(),
            None => match content::stdin() {
                Ok(bytes) => bytes,
                Err(error) => return output::problem(&error.explain(), format),
            },
        };
        let newline = if self.no_newline { Newline::Omit } else { Newline::Append };
        answer(
            format,
            async |pyro| pyro.shell_write(&target.workspace, &shell, &input, newline).await,
            |written| output::note(show::shell("write", &written.shell)),
        )
    }
}
