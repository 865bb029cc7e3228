use crate::commands::run::{Observe, Plan, run_plan};
use crate::output::Format;
use clap::Args;
use pyro_core::exec::ExecRequest;
use pyro_core::machine::MachineRequest;
use std::process::ExitCode;
use std::time::Duration;

/// Prove that machines work here: start one, run `git --version` in it, delete it.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro demo")]
pub(crate) struct Demo {}

impl Demo {
    pub(crate) fn run(self) -> ExitCode {
        let argv = ["git", "--version"].map(str::to_owned).to_vec();
        run_plan(Plan {
            environment: "debian:12".to_owned(),
            shown_command: "git --version".to_owned(),
            machine: MachineRequest::default(),
            exec: ExecRequest { timeout: Some(Duration::from_secs(30)), ..ExecRequest::new(argv) },
            observe: Observe::Nothing,
            format: Format::Json,
        })
    }
}
