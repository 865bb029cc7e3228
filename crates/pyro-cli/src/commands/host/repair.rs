use super::{Manner, Shape, settle};
use crate::clients::{Client, ClientReport, Scope, examine};
use crate::output::{self, Format};
use clap::Args;
use serde_json::json;
use std::process::ExitCode;

/// Put a client's entry for pyro right where it is missing or another one.
///
/// Without --scope, every entry that drifted is rewritten, and one is added only where the client has none at all.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pyro host repair codex
  pyro host repair claude-code --mode repro-fix --dry-run")]
pub(super) struct Repair {
    /// The client.
    #[arg(value_enum)]
    host: Client,
    /// Only the user's own entry, or only this project's.
    #[arg(long, value_enum)]
    scope: Option<Scope>,
    #[command(flatten)]
    shape: Shape,
    #[command(flatten)]
    manner: Manner,
}

impl Repair {
    pub(super) fn run(self) -> ExitCode {
        let format = Format::from_flag(self.manner.json);
        let looked = match self.shape.look() {
            Ok(looked) => looked,
            Err(problem) => return output::problem(&problem, format),
        };
        let scopes = match self.scope {
            Some(scope) => vec![scope],
            None => self.scopes(&examine(self.host, &looked.1, &looked.0)),
        };
        let done = match settle(self.host, &scopes, &looked, &self.manner) {
            Ok(done) => done,
            Err(code) => return code,
        };
        match format {
            Format::Json => output::json(&json!({ "host": self.host, "repaired": done })),
            Format::Human if done.is_empty() => {
                output::line(format_args!("{}: nothing to repair", self.host.as_str()));
            }
            Format::Human => {}
        }
        ExitCode::SUCCESS
    }

    /// Where there is something to do. What cannot be read is gone into, so that its reason is told.
    fn scopes(&self, report: &ClientReport) -> Vec<Scope> {
        let of = |state: &str| {
            let places = report.places.iter().filter(|place| place.state == state);
            places.map(|place| place.scope).collect::<Vec<_>>()
        };
        let wrong = [of("unreadable"), of("drifted")].concat();
        match wrong.is_empty() && of("present").is_empty() {
            true => vec![self.host.default_scope()],
            false => wrong,
        }
    }
}
