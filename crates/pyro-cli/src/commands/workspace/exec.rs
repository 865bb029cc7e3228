use super::Addressed;
use super::arguments::{self, ArgumentError};
use super::show;
use crate::cli::with_pyro;
use crate::commands::command_line::CommandLine;
use crate::commands::session::{EXIT_BROKEN_PIPE, EXIT_UNKNOWN, Ended, Keep, Sink, converse, exit_code};
use crate::output::{self, Format};
use clap::Args;
use pyro_core::Explain;
use pyro_core::exec::{AgentError, ExecRequest};
use pyro_core::workspace::{Captured, Pyro, WorkspaceCommand, WorkspaceError};
use std::process::ExitCode;

const EXAMPLE: &str = "pyro workspace exec WORKSPACE -- git status";

/// Run one command in a workspace.
///
/// The command's output goes to standard output and standard error as it comes, and its exit code is
/// pyro's. It runs in /workspace unless --cwd says otherwise. Ctrl-C ends it with all its children.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pyro workspace exec fix -- make test
  pyro workspace exec fix --secret-env API_TOKEN=TOKEN --shell 'curl -H \"Auth: $TOKEN\" ...'
  pyro workspace exec fix --stdin -- tar x < more.tar
  pyro workspace exec fix -t -- bash")]
pub(super) struct Exec {
    #[command(flatten)]
    target: Addressed,
    /// Show one of the workspace's secrets to the command as a variable; repeatable.
    #[arg(long, value_name = "SECRET[=VARIABLE]")]
    secret_env: Vec<String>,
    #[command(flatten)]
    command_line: CommandLine,
}

impl Exec {
    pub(super) fn run(self) -> ExitCode {
        let format = self.target.output.format();
        let address = self.target.workspace.clone();
        let command = match self.command() {
            Ok(command) => command,
            Err(error) => return output::problem(&error.explain(), format),
        };
        with_pyro(format, async |pyro| execute(pyro, &address, &command, format).await)
            .unwrap_or_else(|code| code)
    }

    fn command(self) -> Result<WorkspaceCommand, ArgumentError> {
        let secret_env = arguments::secret_env(&self.secret_env)?;
        let checked = self.command_line.check(EXAMPLE)?;
        let exec = ExecRequest { secret_env, ..checked.exec };
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
    match running.finish(&exit, captured(sink)) {
        Ok(record) if format == Format::Json => output::json(&record),
        Ok(_) => output::note(format_args!("{separator}{}", show::executed(&facts, &exit))),
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
