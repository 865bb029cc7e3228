//! The tools, by what they are about. Each is a structure of arguments with one function.

mod commands;
mod disks;
mod files;
mod network;
mod review;
mod run;
mod services;
mod shells;
mod snapshots;
mod trees;
pub(crate) mod vms;
mod workspaces;

use crate::server::Server;
use crate::tool::{AnyTool, refused};
use pyro_core::exec::ExecRequest;
use pyro_core::workspace::WorkspaceCommand;
use pyro_core::{Explain, Problem, environments, limits};
use std::collections::BTreeMap;
use std::time::Duration;

/// All of them, those first that are wanted most.
pub(crate) fn all() -> Vec<AnyTool> {
    vec![
        AnyTool::of::<run::VmRun>(),
        AnyTool::of::<workspaces::Create>(),
        AnyTool::of::<workspaces::List>(),
        AnyTool::of::<workspaces::Update>(),
        AnyTool::of::<workspaces::Status>(),
        AnyTool::of::<trees::SyncPush>(),
        AnyTool::of::<commands::Exec>(),
        AnyTool::of::<commands::Logs>(),
        AnyTool::of::<files::FileList>(),
        AnyTool::of::<files::FileRead>(),
        AnyTool::of::<files::FileWrite>(),
        AnyTool::of::<files::PatchApply>(),
        AnyTool::of::<review::Diff>(),
        AnyTool::of::<review::Summary>(),
        AnyTool::of::<trees::Export>(),
        AnyTool::of::<snapshots::Reset>(),
        AnyTool::of::<workspaces::Delete>(),
        AnyTool::of::<workspaces::Fork>(),
        AnyTool::of::<workspaces::Stop>(),
        AnyTool::of::<workspaces::Start>(),
        AnyTool::of::<trees::SyncPull>(),
        AnyTool::of::<commands::ExecWait>(),
        AnyTool::of::<commands::ExecKill>(),
        AnyTool::of::<files::FileRemove>(),
        AnyTool::of::<files::FileMove>(),
        AnyTool::of::<snapshots::Create>(),
        AnyTool::of::<snapshots::List>(),
        AnyTool::of::<snapshots::Delete>(),
        AnyTool::of::<shells::Open>(),
        AnyTool::of::<shells::List>(),
        AnyTool::of::<shells::Read>(),
        AnyTool::of::<shells::Write>(),
        AnyTool::of::<shells::Resize>(),
        AnyTool::of::<shells::Signalled>(),
        AnyTool::of::<shells::Close>(),
        AnyTool::of::<services::Start>(),
        AnyTool::of::<services::List>(),
        AnyTool::of::<services::Status>(),
        AnyTool::of::<services::Logs>(),
        AnyTool::of::<services::Restarted>(),
        AnyTool::of::<services::Stop>(),
        AnyTool::of::<network::Log>(),
        AnyTool::of::<network::Check>(),
        AnyTool::of::<disks::Export>(),
        AnyTool::of::<disks::List>(),
        AnyTool::of::<disks::Read>(),
        AnyTool::of::<vms::ListEnvironments>(),
        AnyTool::of::<vms::Create>(),
        AnyTool::of::<vms::Start>(),
        AnyTool::of::<vms::Exec>(),
        AnyTool::of::<vms::Stop>(),
        AnyTool::of::<vms::Status>(),
        AnyTool::of::<vms::NetworkState>(),
        AnyTool::of::<vms::Delete>(),
        AnyTool::of::<vms::ReapExpired>(),
    ]
}

/// What is run where nothing is said.
const ENVIRONMENT: &str = "debian:12";
/// Time of a command that says nothing of it, seconds.
const TIMEOUT_SECONDS: u64 = 30;

/// The environment to use. One that would be pulled from where the model says needs the network's grant: a name is
/// a message to whom it names.
fn environment(server: &Server, name: String) -> Result<String, Problem> {
    environments::check(&name).map_err(explain)?;
    let known = environments::list(&server.config);
    let is_known = known.iter().any(|one| one.name == name);
    if is_known || server.options.grants.network {
        return Ok(name);
    }
    let names: Vec<&str> = known.iter().map(|one| one.name.as_str()).collect();
    Err(refused("not_granted", format!("environment '{name}' is not one of this server's"))
        .with_hint(format!("use one of: {}; others need --allow-network", names.join(", "))))
}

/// Shell text as a command.
fn shell_command(text: &str, timeout_seconds: Option<u64>) -> Result<WorkspaceCommand, Problem> {
    if text.trim().is_empty() {
        return Err(refused("command_required", "command must not be empty"));
    }
    let seconds = timeout_seconds.unwrap_or(TIMEOUT_SECONDS);
    let seconds = limits::check("timeout_seconds", seconds, &limits::TIMEOUT_SECONDS).map_err(explain)?;
    let exec = ExecRequest { timeout: Some(Duration::from_secs(seconds)), ..ExecRequest::shell(text) };
    Ok(WorkspaceCommand { exec, shown_command: text.to_owned() })
}

fn explain(error: impl Explain) -> Problem {
    error.explain()
}

fn pairs(map: BTreeMap<String, String>) -> Vec<(String, String)> {
    map.into_iter().collect()
}

fn default_environment() -> String {
    ENVIRONMENT.to_owned()
}

/// Where a workspace's tree is, for tools that begin there unless told otherwise.
fn workspace_path() -> String {
    pyro_core::workspace::WORKSPACE_PATH.to_owned()
}
