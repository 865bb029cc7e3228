use super::AddressedCommand;
use crate::cli::answer;
use crate::commands::workspace::show;
use crate::output;
use clap::{Args, ValueEnum};
use pyro_core::workspace::KillSignal;
use std::process::ExitCode;

/// End a detached command with all its processes.
///
/// The signal goes to the command's process group. Where the command runs on for 10 seconds, everything that
/// it started is killed. Returns when it has ended.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace exec kill fix 5 --signal INT")]
pub(super) struct Kill {
    #[command(flatten)]
    target: AddressedCommand,
    /// The signal that asks it to end; KILL goes to everything that it started.
    #[arg(long, value_enum, ignore_case = true, default_value_t = Signal::Term, value_name = "NAME")]
    signal: Signal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
enum Signal {
    #[value(alias = "SIGTERM")]
    Term,
    #[value(alias = "SIGINT")]
    Int,
    #[value(alias = "SIGHUP")]
    Hup,
    #[value(alias = "SIGQUIT")]
    Quit,
    #[value(alias = "SIGUSR1")]
    Usr1,
    #[value(alias = "SIGUSR2")]
    Usr2,
    #[value(alias = "SIGKILL")]
    Kill,
}

impl From<Signal> for KillSignal {
    fn from(signal: Signal) -> Self {
        match signal {
            Signal::Term => Self::Term,
            Signal::Int => Self::Int,
            Signal::Hup => Self::Hup,
            Signal::Quit => Self::Quit,
            Signal::Usr1 => Self::Usr1,
            Signal::Usr2 => Self::Usr2,
            Signal::Kill => Self::Kill,
        }
    }
}

impl Kill {
    pub(super) fn run(self) -> ExitCode {
        let AddressedCommand { target, sequence } = self.target;
        answer(
            target.output.format(),
            async |pyro| pyro.command_kill(&target.workspace, sequence, self.signal.into()).await,
            |command| output::line(show::command_killed(command)),
        )
    }
}
