use super::arguments::{self, ArgumentError};
use super::{Addressed, show};
use crate::cli::answer;
use crate::output;
use clap::Args;
use pyro_core::Explain;
use pyro_core::workspace::UpdateWorkspace;
use std::process::ExitCode;

/// Change a workspace's name or labels.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pyro workspace update fix --label state=done --clear-label task
  pyro workspace update fix --name fixed")]
pub(super) struct Update {
    #[command(flatten)]
    target: Addressed,
    /// Its new name.
    #[arg(long)]
    name: Option<String>,
    /// Take its name away.
    #[arg(long)]
    clear_name: bool,
    /// Set a label; repeatable.
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Remove a label; repeatable.
    #[arg(long, value_name = "KEY")]
    clear_label: Vec<String>,
}

impl Update {
    pub(super) fn run(self) -> ExitCode {
        let format = self.target.output.format();
        let change = match self.change() {
            Ok(change) => change,
            Err(error) => return output::problem(&error.explain(), format),
        };
        answer(
            format,
            async |pyro| pyro.update(&self.target.workspace, &change),
            |workspace| output::line(show::workspace("Workspace ID", workspace)),
        )
    }

    fn change(&self) -> Result<UpdateWorkspace, ArgumentError> {
        Ok(UpdateWorkspace {
            name: self.name.clone(),
            clear_name: self.clear_name,
            labels: arguments::labels(&self.label)?,
            clear_labels: arguments::label_keys(&self.clear_label)?,
        })
    }
}
