use super::{Addressed, show};
use crate::cli::answer;
use crate::output;
use clap::Args;
use std::process::ExitCode;

/// Put a workspace's whole disk back to a snapshot and start it afresh.
///
/// What ran is ended, and the command history begins anew; name, labels, secrets and snapshots stay.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pyro workspace reset fix
  pyro workspace reset fix --snapshot checkpoint")]
pub(super) struct Reset {
    #[command(flatten)]
    target: Addressed,
    /// The snapshot to go back to.
    #[arg(long, default_value = "baseline", value_name = "SNAPSHOT")]
    snapshot: String,
}

impl Reset {
    pub(super) fn run(self) -> ExitCode {
        answer(
            self.target.output.format(),
            async |pyro| pyro.reset(&self.target.workspace, &self.snapshot).await,
            |reset| output::line(show::reset(reset)),
        )
    }
}
