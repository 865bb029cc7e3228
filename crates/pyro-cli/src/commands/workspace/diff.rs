use super::{Addressed, show};
use crate::cli::answer;
use crate::output;
use clap::Args;
use pyro_core::workspace;
use std::process::ExitCode;

/// Compare /workspace with what it began with.
///
/// The patch is one that `git apply` takes. The exit code is 0 whether or not there are changes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pyro workspace diff fix
  pyro workspace diff fix --stat
  pyro workspace diff fix --against checkpoint --name-only")]
pub(super) struct Diff {
    #[command(flatten)]
    target: Addressed,
    /// Compare with this snapshot instead.
    #[arg(long, default_value = "baseline", value_name = "SNAPSHOT")]
    against: String,
    /// Print how much each file changed instead of how.
    #[arg(long, conflicts_with_all = ["json", "name_only"])]
    stat: bool,
    /// Print the changed paths alone, one a line.
    #[arg(long, conflicts_with = "json")]
    name_only: bool,
}

impl Diff {
    pub(super) fn run(self) -> ExitCode {
        answer(
            self.target.output.format(),
            async |pyro| pyro.diff(&self.target.workspace, &self.against).await,
            |diff| self.tell(diff),
        )
    }

    fn tell(&self, diff: &workspace::Diff) {
        if self.name_only {
            diff.entries.iter().for_each(|entry| output::line(output::printable(&entry.path)));
        } else if !diff.changed {
            output::line("No workspace changes.");
        } else if self.stat {
            output::line(show::diff_stat(diff));
        } else {
            output::line(show::diff_header(diff));
            output::bytes(&diff.patch);
        }
    }
}
