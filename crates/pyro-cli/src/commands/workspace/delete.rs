use super::OutputArgs;
use crate::cli::with_pyro;
use crate::output::{self, Format};
use clap::Args;
use pyro_core::workspace::{Pyro, WorkspaceError};
use pyro_core::{Explain, Problem};
use serde::Serialize;
use std::process::ExitCode;

/// Delete workspaces with their disks, snapshots and secrets.
///
/// One that cannot be deleted does not keep the others.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pyro workspace delete fix
  pyro workspace delete 3f2a 77c0
  pyro workspace delete --all")]
pub(super) struct Delete {
    /// Their ids, unique beginnings of ids, or names.
    #[arg(required_unless_present = "all", value_name = "WORKSPACE")]
    workspaces: Vec<String>,
    /// Delete all workspaces.
    #[arg(long, conflicts_with = "workspaces")]
    all: bool,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Deleted {
    workspace_id: String,
    deleted: bool,
    reason: &'static str,
}

#[derive(Debug, Serialize)]
struct Refused {
    workspace: String,
    error: Problem,
}

/// What became of each.
#[derive(Debug, Default, Serialize)]
struct Deletions {
    ok: bool,
    count: usize,
    deleted: Vec<Deleted>,
    failed: Vec<Refused>,
}

impl Delete {
    pub(super) fn run(self) -> ExitCode {
        let format = self.output.format();
        let many = self.all || self.workspaces.len() > 1;
        let done = with_pyro(format, async |pyro| self.delete(pyro, format).await);
        match done {
            Ok(done) => tell(done, many, format),
            Err(code) => code,
        }
    }

    async fn delete(&self, pyro: &Pyro, format: Format) -> Result<Deletions, WorkspaceError> {
        let addresses = match self.all {
            true => pyro.list()?.into_iter().map(|workspace| workspace.workspace_id).collect(),
            false => self.workspaces.clone(),
        };
        let mut done = Deletions::default();
        for workspace in addresses {
            match pyro.delete(&workspace).await {
                Ok(id) => {
                    if format == Format::Human {
                        output::line(format_args!("Deleted workspace: {id}"));
                    }
                    let workspace_id = id.to_string();
                    done.deleted.push(Deleted { workspace_id, deleted: true, reason: "explicit_delete" });
                }
                Err(error) => {
                    let error = error.explain();
                    if format == Format::Human {
                        output::problem(&error, format);
                    }
                    done.failed.push(Refused { workspace, error });
                }
            }
        }
        done.count = done.deleted.len();
        done.ok = done.failed.is_empty();
        Ok(done)
    }
}

/// The result of `--json` and the exit code: that of the first refusal.
fn tell(done: Deletions, many: bool, format: Format) -> ExitCode {
    let code = done.failed.first().map(|refused| ExitCode::from(refused.error.blame.exit_code()));
    if format == Format::Json {
        match (many, done.deleted.first(), done.failed.first()) {
            (false, Some(deleted), _) => output::json(deleted),
            (false, None, Some(refused)) => return output::problem(&refused.error, format),
            (true, _, _) | (false, None, None) => output::json(&done),
        }
    }
    code.unwrap_or(ExitCode::SUCCESS)
}
