use super::AddressedShell;
use crate::cli::answer;
use crate::commands::workspace::show;
use crate::output;
use clap::Args;
use std::process::ExitCode;

/// End a shell with everything that runs in it, and forget it.
///
/// What runs in it is hung up, as by a terminal that is closed; what goes on for 5 seconds is killed.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace shell close fix SHELL")]
pub(super) struct Close {
    #[command(flatten)]
    shell: AddressedShell,
}

impl Close {
    pub(super) fn run(self) -> ExitCode {
        let AddressedShell { target, shell } = self.shell;
        answer(
            target.output.format(),
            async |pyro| pyro.shell_close(&target.workspace, &shell).await,
            |closed| output::note(show::shell("close", &closed.shell)),
        )
    }
}
