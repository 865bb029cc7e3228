use super::AddressedShell;
use crate::cli::answer;
use crate::commands::workspace::show;
use crate::output;
use clap::Args;
use std::process::ExitCode;

/// Give a shell's terminal another size.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace shell resize fix SHELL --cols 200 --rows 50")]
pub(super) struct Resize {
    #[command(flatten)]
    shell: AddressedShell,
    /// Columns.
    #[arg(long)]
    cols: u64,
    /// Rows.
    #[arg(long)]
    rows: u64,
}

impl Resize {
    pub(super) fn run(self) -> ExitCode {
        let AddressedShell { target, shell } = self.shell;
        answer(
            target.output.format(),
            async |pyro| pyro.shell_resize(&target.workspace, &shell, self.cols, self.rows).await,
            |shell| output::note(show::shell("resize", shell)),
        )
    }
}
