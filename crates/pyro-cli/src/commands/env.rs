mod show;

use crate::cli::{block_on, config};
use crate::output::{self, Format, PullProgress};
use clap::{Args, Subcommand};
use pyro_core::environments::{self, EnvironmentError};
use pyro_core::{Config, Explain};
use std::process::ExitCode;
use std::sync::Arc;

/// The root file systems that machines start from.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true, after_help = "Example:\n  pyro env list")]
pub(crate) struct Env {
    #[command(subcommand)]
    command: EnvCommand,
}

#[derive(Debug, Subcommand)]
enum EnvCommand {
    /// List the catalog and the images that were pulled.
    #[command(after_help = "Example:\n  pyro env list --json")]
    List(List),
    /// Download an environment and make it ready to run.
    ///
    /// An interrupted download goes on where it stopped. An environment that is installed is left as it is.
    #[command(after_help = "Examples:
  pyro env pull debian:12
  pyro env pull docker.io/library/python:3.12
  pyro env pull oci:./layout")]
    Pull(Named),
    /// Show what is known of an environment.
    #[command(after_help = "Example:\n  pyro env inspect debian:12")]
    Inspect(Named),
    /// Delete cached environments that are broken, unfinished or out of date.
    #[command(after_help = "Example:\n  pyro env prune")]
    Prune(List),
    /// Delete one installed environment.
    #[command(after_help = "Example:\n  pyro env remove docker.io/library/python:3.12")]
    Remove(Named),
}

#[derive(Debug, Args)]
struct List {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Named {
    /// A name of the catalog, or an OCI image: REGISTRY/NAME:TAG, oci:DIRECTORY, oci-archive:FILE.
    environment: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Env {
    pub(crate) fn run(self) -> ExitCode {
        match self.command {
            EnvCommand::List(args) => with_config(args.json, list),
            EnvCommand::Pull(args) => {
                with_config(args.json, |config, format| pull(config, format, &args.environment))
            }
            EnvCommand::Inspect(args) => with_config(args.json, |config, format| {
                let found = environments::inspect(config, &args.environment)?;
                match format {
                    Format::Json => output::json(&found),
                    Format::Human => show::inspected("Environment", &found),
                }
                Ok(ExitCode::SUCCESS)
            }),
            EnvCommand::Prune(args) => with_config(args.json, prune),
            EnvCommand::Remove(args) => {
                with_config(args.json, |config, format| remove(config, format, &args.environment))
            }
        }
    }
}

fn with_config(
    json: bool,
    work: impl FnOnce(&Config, Format) -> Result<ExitCode, EnvironmentError>,
) -> ExitCode {
    let format = Format::from_flag(json);
    match config(format) {
        Err(code) => code,
        Ok(config) => work(&config, format).unwrap_or_else(|error| output::problem(&error.explain(), format)),
    }
}

fn list(config: &Config, format: Format) -> Result<ExitCode, EnvironmentError> {
    let listed = environments::list(config);
    match format {
        Format::Json => output::json(&serde_json::json!({
            "catalog_version": environments::catalog_version(),
            "environments": listed,
        })),
        Format::Human => show::list(&listed),
    }
    Ok(ExitCode::SUCCESS)
}

fn pull(config: &Config, format: Format, environment: &str) -> Result<ExitCode, EnvironmentError> {
    let phase = |name: &str| {
        if format == Format::Human {
            output::note(format_args!("[pull] phase={name} environment={environment}"));
        }
    };
    environments::check(environment)?;
    phase("install");
    let work = async {
        let progress = Arc::new(PullProgress::new(format));
        tokio::select! {
            pulled = environments::ensure(config, environment, progress) => pulled.map(Some),
            _ = tokio::signal::ctrl_c() => Ok(None),
        }
    };
    let pulled = match block_on(format, work) {
        Err(code) => return Ok(code),
        Ok(pulled) => pulled?,
    };
    if pulled.is_none() {
        // What was downloaded stays and is resumed by the next pull.
        return Ok(ExitCode::from(130));
    }
    phase("ready");
    let found = environments::inspect(config, environment)?;
    match format {
        Format::Json => output::json(&found),
        Format::Human => show::inspected("Pulled", &found),
    }
    Ok(ExitCode::SUCCESS)
}

fn prune(config: &Config, format: Format) -> Result<ExitCode, EnvironmentError> {
    let pruned = environments::prune(config)?;
    match format {
        Format::Json => output::json(&serde_json::json!({
            "deleted_environment_dirs": pruned.directories,
            "count": pruned.directories.len(),
            "freed_bytes": pruned.freed_bytes,
        })),
        Format::Human => show::pruned(&pruned.directories),
    }
    Ok(ExitCode::SUCCESS)
}

fn remove(config: &Config, format: Format, environment: &str) -> Result<ExitCode, EnvironmentError> {
    match block_on(format, environments::remove(config, environment)) {
        Err(code) => return Ok(code),
        Ok(removed) => removed?,
    }
    match format {
        Format::Json => output::json(&serde_json::json!({ "name": environment, "removed": true })),
        Format::Human => output::line(format_args!("Removed: {environment}")),
    }
    Ok(ExitCode::SUCCESS)
}
