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
    #[arg(long, value_enum, ignore_case = true, default_value_t = SignalName::Term, value_name = "NAME")]
    signal: SignalName,
}

/// A signal's name, with or without `SIG`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
pub(in super::super) enum SignalName {
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

impl From<SignalName> for KillSignal {
    fn from(signal: SignalName) -> Self {
        match signal {
            SignalName::Term => Self::Term,
            SignalName::Int => Self::Int,
            SignalName::Hup => Self::Hup,
            SignalName::Quit => Self::Quit,
            SignalName::Usr1 => Self::Usr1,
            SignalName::Usr2 => Self::Usr2,
            SignalName::Kill => Self::Kill,
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
