//! A command for a guest, as `run` and `workspace exec` take it.

use super::session;
use crate::output;
use clap::Args;
use pyro_core::exec::ExecRequest;
use pyro_core::{Blame, Explain, Problem, limits};
use std::time::Duration;

// A doc comment here would replace the help of the commands that take these arguments.
#[derive(Debug, Args)]
pub(crate) struct CommandLine {
    /// Kill the command after this many seconds; pyro then exits with 124. [default: 30]
    #[arg(long, value_name = "SECONDS")]
    timeout_seconds: Option<u64>,
    /// Set a variable for the command; repeatable.
    #[arg(long, value_parser = parse_variable, value_name = "KEY=VALUE")]
    env: Vec<(String, String)>,
    /// Directory to run the command in; it must exist in the guest.
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Run the command as this user of the guest, by name or number.
    #[arg(long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Send pyro's standard input to the command.
    #[arg(long)]
    stdin: bool,
    /// Run TEXT by a login shell instead of a command after `--`.
    #[arg(long, value_name = "TEXT", conflicts_with = "command")]
    shell: Option<String>,
    /// Run the command in a terminal; standard input is sent to it.
    #[arg(short, long, conflicts_with = "json")]
    tty: bool,
    /// The command and its arguments, executed as they are.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Time of a command that says nothing of it.
const TIMEOUT_SECONDS: u64 = 30;

/// A command that is known to be well formed.
#[derive(Debug)]
pub(crate) struct CheckedCommand {
    pub(crate) exec: ExecRequest,
    /// As a shell would take it.
    pub(crate) shown: String,
}

/// What is wrong with a command beyond its syntax.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandLineError {
    #[error("command is required after `--`")]
    NoCommand {
        /// A command line that works.
        example: &'static str,
    },
    #[error("a terminal was asked for, but standard input is not one")]
    NoTerminal,
    #[error(transparent)]
    OutOfRange(#[from] limits::OutOfRange),
}

impl Explain for CommandLineError {
    fn explain(&self) -> Problem {
        match self {
            Self::NoCommand { example } => Problem::new("command_required", Blame::Caller, self)
                .with_hint(format!("for example: {example}")),
            Self::NoTerminal => Problem::new("no_terminal", Blame::Caller, self)
                .with_hint("leave out -t; --stdin sends standard input without a terminal"),
            Self::OutOfRange(error) => error.explain(),
        }
    }
}

impl CommandLine {
    pub(crate) fn sets_timeout(&self) -> bool {
        self.timeout_seconds.is_some()
    }

    /// The command; `example` is told where there is none.
    pub(crate) fn check(self, example: &'static str) -> Result<CheckedCommand, CommandLineError> {
        let timeout = self.timeout_seconds.unwrap_or(TIMEOUT_SECONDS);
        let timeout = limits::check("timeout_seconds", timeout, &limits::TIMEOUT_SECONDS)?;
        let (base, shown) = match self.shell {
            Some(text) => (ExecRequest::shell(&text), text),
            None if self.command.is_empty() => return Err(CommandLineError::NoCommand { example }),
            None => {
                let shown = output::shell_words(&self.command);
                (ExecRequest::new(self.command), shown)
            }
        };
        let tty = match self.tty {
            true => Some(session::terminal_size().ok_or(CommandLineError::NoTerminal)?),
            false => None,
        };
        let exec = ExecRequest {
            env: self.env,
            cwd: self.cwd,
            user: self.user,
            stdin: self.stdin || self.tty,
            tty,
            timeout: Some(Duration::from_secs(timeout)),
            ..base
        };
        Ok(CheckedCommand { exec, shown })
    }
}

/// `KEY=VALUE` with a name that environ(7) allows.
pub(crate) fn parse_variable(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not KEY=VALUE"))?;
    if key.is_empty() || key.contains('\0') || value.contains('\0') {
        return Err(format!("`{text}` does not name a variable"));
    }
    Ok((key.to_owned(), value.to_owned()))
}
