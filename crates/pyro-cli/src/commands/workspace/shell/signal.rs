use super::AddressedShell;
use crate::cli::answer;
use crate::commands::workspace::exec::SignalName;
use crate::commands::workspace::show;
use crate::output;
use clap::Args;
use std::process::ExitCode;

/// Send a signal to what runs in a shell's foreground: a command, or the shell itself.
///
/// KILL ends the shell with everything in it.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace shell signal fix SHELL --signal INT")]
pub(super) struct Signal {
    #[command(flatten)]
    shell: AddressedShell,
    /// The signal.
    #[arg(long, value_enum, ignore_case = true, default_value_t = SignalName::Int, value_name = "NAME")]
    signal: SignalName,
}

impl Signal {
    pub(super) fn run(self) -> ExitCode {
        let AddressedShell { target, shell } = self.shell;
        answer(
            target.output.format(),
            async |pyro| pyro.shell_signal(&target.workspace, &shell, self.signal.into()).await,
            |signalled| output::note(show::shell("signal", &signalled.shell)),
        )
    }
}
