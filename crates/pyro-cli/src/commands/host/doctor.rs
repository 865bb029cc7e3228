use super::{Shape, show};
use crate::clients::{Client, ClientReport, examine};
use crate::output::{self, Format};
use clap::Args;
use serde_json::json;
use std::process::ExitCode;

/// Tell which clients are there, and whether they have pyro as it is wanted.
///
/// An entry is present when it starts the server that the options name, and drifted when it starts another one.
/// Nothing is changed, and the exit code is 0 whatever is found.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pyro host doctor
  pyro host doctor codex --mode repro-fix --json")]
pub(super) struct Doctor {
    /// Only these clients.
    #[arg(value_enum)]
    hosts: Vec<Client>,
    #[command(flatten)]
    shape: Shape,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(super) fn run(self) -> ExitCode {
        let format = Format::from_flag(self.json);
        let (around, launch) = match self.shape.look() {
            Ok(looked) => looked,
            Err(problem) => return output::problem(&problem, format),
        };
        let clients = if self.hosts.is_empty() { Client::ALL.to_vec() } else { self.hosts };
        let reports: Vec<ClientReport> =
            clients.into_iter().map(|client| examine(client, &launch, &around)).collect();
        match format {
            Format::Json => output::json(&json!({ "wanted_command": launch.words, "hosts": reports })),
            Format::Human => show::reports(&reports),
        }
        ExitCode::SUCCESS
    }
}
