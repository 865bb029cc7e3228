use crate::cli::answer;
use crate::commands::workspace::{Addressed, arguments, show};
use crate::output;
use clap::Args;
use pyro_core::Explain;
use pyro_core::workspace::OpenShell;
use std::process::ExitCode;

/// Open a shell: bash where the guest has it, otherwise its /bin/sh, without start-up files.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pyro workspace shell open fix
  pyro workspace shell open fix --cwd src --cols 200 --secret-env API_TOKEN")]
pub(super) struct Open {
    #[command(flatten)]
    target: Addressed,
    /// Where it begins; relative to /workspace, and below it.
    #[arg(long, value_name = "DIR", default_value = "/workspace")]
    cwd: String,
    /// Columns of its terminal.
    #[arg(long, default_value_t = 120)]
    cols: u64,
    /// Rows of its terminal.
    #[arg(long, default_value_t = 30)]
    rows: u64,
    /// Show one of the workspace's secrets to the shell as a variable; repeatable.
    #[arg(long, value_name = "SECRET[=VARIABLE]")]
    secret_env: Vec<String>,
    /// Print the shell's id and nothing else.
    #[arg(long, conflicts_with = "json")]
    id_only: bool,
}

impl Open {
    pub(super) fn run(self) -> ExitCode {
        let format = self.target.output.format();
        let secret_env = match arguments::secret_env(&self.secret_env) {
            Ok(secret_env) => secret_env,
            Err(error) => return output::problem(&error.explain(), format),
        };
        let new = OpenShell { cwd: Some(self.cwd), cols: self.cols, rows: self.rows, secret_env };
        answer(
            format,
            async |pyro| pyro.shell_open(&self.target.workspace, &new).await,
            |shell| match self.id_only {
                true => output::line(&shell.shell_id),
                false => output::note(show::shell("open", shell)),
            },
        )
    }
}
