mod arguments;
mod content;
mod create;
mod delete;
mod diff;
mod disk;
mod exec;
mod export;
mod file;
mod fork;
mod list;
mod logs;
mod network;
mod patch;
mod ports;
mod reset;
mod service;
mod shell;
mod show;
mod snapshot;
mod start;
mod status;
mod stop;
mod summary;
mod sync;
mod update;
mod wait;

use crate::output::Format;
use clap::{Args, Subcommand};
use std::process::ExitCode;

/// Machines that are kept: work in them, compare, rewind, export.
///
/// A workspace is addressed by its id, by a unique beginning of its id, or by its name.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:
  pyro workspace create debian:12 --seed-path ./repo --name fix
  pyro workspace exec fix -- make test
  pyro workspace diff fix
  pyro workspace delete fix"
)]
pub(crate) struct Workspace {
    #[command(subcommand)]
    command: WorkspaceCommand,
}

#[derive(Debug, Subcommand)]
enum WorkspaceCommand {
    Create(create::Create),
    List(list::List),
    Status(status::Status),
    Summary(summary::Summary),
    Logs(logs::Logs),
    Update(update::Update),
    Exec(exec::Exec),
    Sync(sync::Sync),
    File(file::File),
    Patch(patch::Patch),
    Diff(diff::Diff),
    Export(export::Export),
    Snapshot(snapshot::Snapshot),
    Shell(shell::Shell),
    Reset(reset::Reset),
    Stop(stop::Stop),
    Start(start::Start),
    Fork(fork::Fork),
    Disk(disk::Disk),
    Service(service::Service),
    Ports(ports::Ports),
    Network(network::Network),
    Wait(wait::Wait),
    Delete(delete::Delete),
}

impl Workspace {
    pub(crate) fn run(self) -> ExitCode {
        match self.command {
            WorkspaceCommand::Create(command) => command.run(),
            WorkspaceCommand::List(command) => command.run(),
            WorkspaceCommand::Status(command) => command.run(),
            WorkspaceCommand::Summary(command) => command.run(),
            WorkspaceCommand::Logs(command) => command.run(),
            WorkspaceCommand::Update(command) => command.run(),
            WorkspaceCommand::Exec(command) => command.run(),
            WorkspaceCommand::Sync(command) => command.run(),
            WorkspaceCommand::File(command) => command.run(),
            WorkspaceCommand::Patch(command) => command.run(),
            WorkspaceCommand::Diff(command) => command.run(),
            WorkspaceCommand::Export(command) => command.run(),
            WorkspaceCommand::Snapshot(command) => command.run(),
            WorkspaceCommand::Shell(command) => command.run(),
            WorkspaceCommand::Reset(command) => command.run(),
            WorkspaceCommand::Stop(command) => command.run(),
            WorkspaceCommand::Start(command) => command.run(),
            WorkspaceCommand::Fork(command) => command.run(),
            WorkspaceCommand::Disk(command) => command.run(),
            WorkspaceCommand::Network(command) => command.run(),
            WorkspaceCommand::Service(command) => command.run(),
            WorkspaceCommand::Ports(command) => command.run(),
            WorkspaceCommand::Wait(command) => command.run(),
            WorkspaceCommand::Delete(command) => command.run(),
        }
    }
}

// What most of the commands take. A doc comment here would replace their help.
#[derive(Debug, Args)]
struct Addressed {
    /// Its id, a unique beginning of the id, or its name.
    workspace: String,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Args)]
struct OutputArgs {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl OutputArgs {
    fn format(&self) -> Format {
        Format::from_flag(self.json)
    }
}
