use super::arguments::{Filter, host_path};
use super::export::LinkArgs;
use super::{Addressed, export, show};
use crate::cli::answer;
use crate::output::{self, TreeProgress};
use clap::{Args, Subcommand};
use pyro_core::workspace::{ExportOptions, Overwrite};
use std::path::PathBuf;
use std::process::ExitCode;

/// Copy trees between the host and a workspace.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true, after_help = "Example:\n  pyro workspace sync push fix ./changes")]
pub(super) struct Sync {
    #[command(subcommand)]
    command: SyncCommand,
}

#[derive(Debug, Subcommand)]
enum SyncCommand {
    Push(Push),
    Pull(Pull),
}

/// Copy a directory or an archive of the host into a workspace.
///
/// Nothing is deleted there. The tree arrives whole or not at all.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pyro workspace sync push fix ./changes
  pyro workspace sync push fix ./notes.tar.gz --dest src")]
struct Push {
    #[command(flatten)]
    target: Addressed,
    /// A directory, or a .tar, .tar.gz, .tgz or .tar.zst archive.
    source: PathBuf,
    /// Where to, in the workspace; relative to /workspace.
    #[arg(long, default_value = "/workspace", value_name = "PATH")]
    dest: String,
    /// What to take of a directory.
    #[arg(long, value_enum, default_value_t = Filter::All)]
    filter: Filter,
}

/// Copy a directory of a workspace to the host.
///
/// It is put together beside --output and takes its place only when it is complete. With --force what was
/// there is gone then, also files that the workspace does not have.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pyro workspace sync pull fix src --output ./src-of-fix
  pyro workspace sync pull fix src --output ./src-of-fix --force")]
struct Pull {
    #[command(flatten)]
    target: Addressed,
    /// What to copy; relative to /workspace.
    path: String,
    /// The directory to make, or with --force to replace.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Replace what is there.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    links: LinkArgs,
}

impl Sync {
    pub(super) fn run(self) -> ExitCode {
        match self.command {
            SyncCommand::Push(command) => command.run(),
            SyncCommand::Pull(command) => command.run(),
        }
    }
}

impl Push {
    fn run(self) -> ExitCode {
        let format = self.target.output.format();
        let source = host_path(&self.source);
        answer(
            format,
            async |pyro| {
                let progress = TreeProgress::new(format, "sending");
                let moved = |bytes| progress.moved(bytes);
                let filter = self.filter.into();
                pyro.sync_push(&self.target.workspace, &source, filter, &self.dest, &moved).await
            },
            |synced| output::line(show::synced(synced)),
        )
    }
}

impl Pull {
    fn run(self) -> ExitCode {
        let format = self.target.output.format();
        let output = host_path(&self.output);
        let overwrite = if self.force { Overwrite::Replace } else { Overwrite::Refuse };
        let options = ExportOptions { links: self.links.policy(), overwrite };
        answer(
            format,
            async |pyro| {
                let progress = TreeProgress::new(format, "receiving");
                let moved = |bytes| progress.moved(bytes);
                pyro.sync_pull(&self.target.workspace, &self.path, &output, options, &moved).await
            },
            |exported| export::tell("workspace-sync-pull", exported),
        )
    }
}
