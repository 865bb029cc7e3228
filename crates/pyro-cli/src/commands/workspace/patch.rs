use super::arguments::ArgumentError;
use super::{Addressed, content, show};
use crate::cli::answer;
use crate::output;
use clap::{Args, Subcommand};
use pyro_core::Explain;
use std::path::PathBuf;
use std::process::ExitCode;

/// Change files of a workspace by a patch.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Example:\n  git diff | pyro workspace patch apply fix --stdin"
)]
pub(super) struct Patch {
    #[command(subcommand)]
    command: PatchCommand,
}

#[derive(Debug, Subcommand)]
enum PatchCommand {
    Apply(Apply),
}

/// Apply what `git diff` or `diff -u` wrote, wholly or not at all.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pyro workspace patch apply fix --patch-file ./fix.patch
  git diff | pyro workspace patch apply fix --stdin")]
struct Apply {
    #[command(flatten)]
    target: Addressed,
    #[command(flatten)]
    content: PatchArgs,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct PatchArgs {
    /// The patch itself.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    patch: Option<String>,
    /// A file of the host with the patch.
    #[arg(long, value_name = "HOST_PATH")]
    patch_file: Option<PathBuf>,
    /// Take the patch from standard input.
    #[arg(long)]
    stdin: bool,
}

impl Patch {
    pub(super) fn run(self) -> ExitCode {
        match self.command {
            PatchCommand::Apply(command) => command.run(),
        }
    }
}

impl PatchArgs {
    fn bytes(self) -> Result<Vec<u8>, ArgumentError> {
        match (self.patch, self.patch_file) {
            (Some(text), _) => Ok(text.into_bytes()),
            (None, Some(path)) => content::file("--patch-file", &path),
            // The group wants one of the three.
            (None, None) => content::stdin(),
        }
    }
}

impl Apply {
    fn run(self) -> ExitCode {
        let format = self.target.output.format();
        let patch = match self.content.bytes() {
            Ok(patch) => patch,
            Err(error) => return output::problem(&error.explain(), format),
        };
        answer(
            format,
            async |pyro| pyro.patch_apply(&self.target.workspace, &patch).await,
            |report| output::line(show::patched(report)),
        )
    }
}
