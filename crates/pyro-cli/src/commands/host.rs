//! pyro and the programs that can use it.

mod connect;
mod doctor;
mod print_config;
mod repair;
mod show;

use crate::cli::block_on;
use crate::clients::{Client, ClientError, CommandStyle, Done, Launch, Scope, Settlement};
use crate::commands::mcp::serve::ServeArgs;
use crate::output::{self, Format};
use crate::settings::{self, SettingsError, Surroundings};
use clap::{Args, Subcommand};
use pyro_core::{Explain, Problem};
use std::process::ExitCode;

/// Connect pyro to AI clients: Claude Code, Codex, opencode, Cursor and VS Code.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true, after_help = "Example:\n  pyro host connect claude-code")]
pub(crate) struct Host {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Connect(connect::Connect),
    PrintConfig(print_config::PrintConfig),
    Doctor(doctor::Doctor),
    Repair(repair::Repair),
}

impl Host {
    pub(crate) fn run(self) -> ExitCode {
        match self.command {
            Command::Connect(command) => command.run(),
            Command::PrintConfig(command) => command.run(),
            Command::Doctor(command) => command.run(),
            Command::Repair(command) => command.run(),
        }
    }
}

// How the server is to be that a client starts. A doc comment here would replace the commands' help.
#[derive(Debug, Args)]
struct Shape {
    #[command(flatten)]
    server: ServeArgs,
    /// Have the client call this pyro, or get pyro by uvx.
    #[arg(long, value_enum, default_value_t, value_name = "STYLE")]
    command_style: CommandStyle,
}

// How an entry is settled. A doc comment here would replace the commands' help.
#[derive(Debug, Args)]
struct Manner {
    /// Show what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Shape {
    /// The surroundings, and the command that starts such a server in them.
    fn look(&self) -> Result<(Surroundings, Launch), Problem> {
        let around = settings::surroundings().map_err(|error: SettingsError| error.explain())?;
        let launch = Launch::new(&self.server, self.command_style, &around);
        Ok((around, launch.map_err(|error| error.explain())?))
    }
}

/// Settles the entries of `scopes`, as far as they need it.
fn settle(
    client: Client,
    scopes: &[Scope],
    (around, launch): &(Surroundings, Launch),
    manner: &Manner,
) -> Result<Vec<Done>, ExitCode> {
    let format = Format::from_flag(manner.json);
    let told = |error: ClientError| output::problem(&error.explain(), format);
    let mut all = Vec::new();
    for scope in scopes {
        let settlement = Settlement::new(client, *scope, launch, around).map_err(told)?;
        if !manner.dry_run {
            block_on(format, settlement.carry_out())?.map_err(told)?;
        }
        let done = settlement.done(manner.dry_run);
        if format == Format::Human {
            show::done(&done);
        }
        all.push(done);
    }
    Ok(all)
}
