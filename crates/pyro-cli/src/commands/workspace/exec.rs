mod kill;
mod list;
mod logs;
mod wait;

pub(super) use kill::SignalName;

use super::Addressed;
use super::arguments::{self, ArgumentError};
use super::show;
use crate::cli::{answer, with_pyro};
use crate::commands::command_line::CommandLine;
use crate::commands::network::tell_denials;
use crate::commands::session::{EXIT_BROKEN_PIPE, EXIT_UNKNOWN, Ended, Keep, Sink, converse, exit_code};
use crate::output::{self, Format};
use clap::{ArgMatches, Args, FromArgMatches, Subcommand};
use pyro_core::Explain;
use pyro_core::exec::{AgentError, ExecRequest};
use pyro_core::workspace::{Captured, DetachedCommand, Pyro, WorkspaceCommand, WorkspaceError};
use std::process::ExitCode;

const EXAMPLE: &str = "pyro workspace exec WORKSPACE -- git status";

/// A command to run, or a subcommand about those that run.
// By hand, for clap cannot derive arguments that are there only where a subcommand is not.
#[derive(Debug)]
pub(super) struct Exec(Parsed);

#[derive(Debug)]
enum Parsed {
    Execution(Box<Execution>),
    OfCommands(OfCommands),
}

impl Args for Exec {
    fn augment_args(command: clap::Command) -> clap::Command {
        OfCommands::augment_subcommands(Execution::augment_args(command))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        OfCommands::augment_subcommands_for_update(Execution::augment_args_for_update(command))
    }
}

impl FromArgMatches for Exec {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        match matches.subcommand_name() {
            Some(_) => OfCommands::from_arg_matches(matches).map(|command| Self(Parsed::OfCommands(command))),
            None => Execution::from_arg_matches(matches).map(|one| Self(Parsed::Execution(Box::new(one)))),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Exec {
    pub(super) fn run(self) -> ExitCode {
        match self.0 {
            Parsed::Execution(execution) => execution.run(),
            Parsed::OfCommands(OfCommands::List(command)) => command.run(),
            Parsed::OfCommands(OfCommands::Wait(command)) => command.run(),
            Parsed::OfCommands(OfCommands::Kill(command)) => command.run(),
            Parsed::OfCommands(OfCommands::Logs(command)) => command.run(),
        }
    }
}

#[derive(Debug, Subcommand)]
enum OfCommands {
    List(list::List),
    Wait(wait::Wait),
    Kill(kill::Kill),
    Logs(logs::Logs),
}

// What the commands about one command take. A doc comment here would replace their help.
#[derive(Debug, Args)]
struct AddressedCommand {
    #[command(flatten)]
    target: Addressed,
    /// Its number, as `exec` and `exec list` tell it.
    sequence: u64,
}

/// Run one command in a workspace, or see to those that run.
///
/// The command's output goes to standard output and standard error as it comes, and its exit code is
/// pyro's. It runs in /workspace unless --cwd says otherwise. Ctrl-C ends it with all its children.
/// With --detach it runs on by itself, until its end or that of the machine.
///
/// A workspace whose name is list, wait, kill or logs is meant by its id here.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    after_help = "Examples:
  pyro workspace exec fix -- make test
  pyro workspace exec fix --secret-env API_TOKEN=TOKEN --shell 'curl -H \"Auth: $TOKEN\" ...'
  pyro workspace exec fix --stdin -- tar x < more.tar
  pyro workspace exec fix -t -- bash
  pyro workspace exec fix --detach -- make release
  pyro workspace exec wait fix 5"
)]
struct Execution {
    #[command(flatten)]
    target: Addressed,
    /// Return as soon as the command runs, and let it run on; without --timeout-seconds, for as long as it
    /// likes.
    #[arg(short, long, conflicts_with_all = ["stdin", "tty"])]
    detach: bool,
    /// Show one of the workspace's secrets to the command as a variable; repeatable.
    #[arg(long, value_name = "SECRET[=VARIABLE]")]
    secret_env: Vec<String>,
    #[command(flatten)]
    command_line: CommandLine,
}

impl Execution {
    fn run(self) -> ExitCode {
        let format = self.target.output.format();
        let address = self.target.workspace.clone();
        let detach = self.detach;
        let command = match self.command() {
            Ok(command) => command,
            Err(error) => return output::problem(&error.explain(), format),
        };
        if detach {
            let show = |started: &DetachedCommand| output::line(show::detached(started));
            return answer(format, async |pyro| pyro.exec_detached(&address, &command).await, show);
        }
        with_pyro(format, async |pyro| execute(pyro, &address, &command, format).await)
            .unwrap_or_else(|code| code)
    }

    fn command(self) -> Result<WorkspaceCommand, ArgumentError> {
        let secret_env = arguments::secret_env(&self.secret_env)?;
        let is_unlimited = self.detach && !self.command_line.sets_timeout();
        let checked = self.command_line.check(EXAMPLE)?;
        let timeout = checked.exec.timeout.filter(|_| !is_unlimited);
        let exec = ExecRequest { secret_env, timeout, ..checked.exec };
        Ok(WorkspaceCommand { exec, shown_command: checked.shown })
    }
}

async fn execute(
    pyro: &Pyro,
    address: &str,
    command: &WorkspaceCommand,
    format: Format,
) -> Result<ExitCode, WorkspaceError> {
    let (running, mut input, mut output) = pyro.exec(address, command).await?;
    let mut sink = Sink::new(format, Keep::All);
    let exit = match converse(&mut input, &mut output, &command.exec, &mut sink).await {
        Ok(Ended::Exited(exit)) => exit,
        Ok(Ended::OutputClosed) => return Ok(ExitCode::from(EXIT_BROKEN_PIPE)),
        Err(error) => {
            let problem = match error {
                AgentError::Disconnected => running.why_disconnected().await.explain(),
                error => error.explain(),
            };
            output::problem(&problem, format);
            return Ok(ExitCode::from(EXIT_UNKNOWN));
        }
    };
    let facts = running.facts.clone();
    let separator = sink.separator();
    match running.finish(&exit, captured(sink)).await {
        Ok(record) if format == Format::Json => output::json(&record),
        Ok(record) => {
            output::note(format_args!("{separator}{}", show::executed(&facts, &exit)));
            tell_denials(&record.network_denials, record.network_denials_truncated);
        }
        // The command did end: its exit code is the answer, with a word on the record that is missing.
        Err(error) => {
            output::problem(&error.explain(), format);
        }
    }
    Ok(exit_code(exit.status()))
}

fn captured(sink: Sink) -> Captured {
    Captured {
        stdout: sink.stdout.bytes,
        stdout_truncated: sink.stdout.truncated,
        stderr: sink.stderr.bytes,
        stderr_truncated: sink.stderr.truncated,
    }
}

#[cfg(test)]
mod tests;
