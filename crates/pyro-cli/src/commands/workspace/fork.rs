use super::arguments;
use super::{Addressed, show};
use crate::cli::with_pyro;
use crate::output::{self, Format};
use clap::Args;
use pyro_core::Explain;
use pyro_core::workspace::ForkWorkspace;
use std::process::ExitCode;

/// Make another workspace that goes on where this one is, or where a snapshot of it was.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace fork fix --name other-way --snapshot checkpoint")]
pub(super) struct Fork {
    #[command(flatten)]
    target: Addressed,
    /// Go on from this snapshot instead of the present.
    #[arg(long, value_name = "SNAPSHOT")]
    snapshot: Option<String>,
    /// A name for the new workspace.
    #[arg(long)]
    name: Option<String>,
    /// Attach a label to the new workspace; repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Print the new workspace's id alone.
    #[arg(long, conflicts_with = "json")]
    id_only: bool,
}

impl Fork {
    pub(super) fn run(self) -> ExitCode {
        let format = self.target.output.format();
        let labels = match arguments::labels(&self.label) {
            Ok(labels) => labels,
            Err(error) => return output::problem(&error.explain(), format),
        };
        let request = ForkWorkspace { name: self.name, labels, snapshot: self.snapshot };
        let forked = with_pyro(format, async |pyro| pyro.fork(&self.target.workspace, &request).await);
        match forked {
            Err(code) => return code,
            Ok(forked) if self.id_only => output::line(&forked.workspace_id),
            Ok(forked) => match format {
                Format::Json => output::json(&forked),
                Format::Human => output::line(show::workspace("Workspace ID", &forked)),
            },
        }
        ExitCode::SUCCESS
    }
}
