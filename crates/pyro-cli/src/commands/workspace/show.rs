//! Workspaces and what is done with them, as people read them.
//!
//! Each function gives whole lines without the last end of line.

mod commands;
mod files;
mod network;
mod review;
mod services;
mod shells;

pub(super) use commands::{command_killed, command_listed, command_waited, detached, workspace_waited};
pub(super) use files::{
    CUT_LISTING, disk_exported, disk_listing, disk_read, exported, file_changed, file_facts, file_listing,
    file_read, file_written, patched, skipped, synced, whole_lines,
};
pub(super) use network::{flow, open_flow};
pub(super) use review::{diff_header, diff_stat, log_entry, summary};
pub(super) use services::{
    ports_listed, service_log_cut, service_log_heading, service_started, service_status, service_stopped,
    service_waited, services_listed,
};
pub(super) use shells::{shell, shell_attached, shell_listed, shell_read};

use crate::commands::byte_size::byte_size;
use crate::commands::network::rules_text;
use crate::output::{printable, quoted, yes_no};
use pyro_core::exec::Exit;
use pyro_core::workspace::{
    EXECUTION_MODE, ExecFacts, NetworkEffect, Reset, SeedView, SnapshotView, UpdatedWorkspace, WorkspaceView,
};
use std::collections::BTreeMap;

/// A workspace; `heading` is what its id is introduced with.
pub(super) fn workspace(heading: &str, workspace: &WorkspaceView) -> String {
    let mut lines = vec![format!("{heading}: {}", workspace.workspace_id)];
    if let Some(name) = &workspace.name {
        lines.push(format!("Name: {}", printable(name)));
    }
    if !workspace.labels.is_empty() {
        lines.push(format!("Labels: {}", labels(&workspace.labels, ", ")));
    }
    lines.push(format!("Environment: {}", printable(&workspace.environment)));
    lines.push(format!("State: {}", workspace.state));
    if let Some(reason) = &workspace.stop_reason {
        lines.push(format!("Stop reason: {}", printable(reason)));
    }
    lines.push(format!("Workspace: {}", workspace.workspace_path));
    lines.push(format!("Workspace seed: {}", seed(&workspace.workspace_seed)));
    lines.push(format!("Network policy: {}", workspace.network_policy));
    if !workspace.network_rules.is_empty() {
        lines.push(format!("Network rules: {}", rules_text(&workspace.network_rules)));
    }
    if let Some(bytes) = workspace.network_rules.egress_limit_bytes {
        lines.push(format!("Egress limit: {}", byte_size(bytes)));
    }
    if workspace.host_proxy {
        lines.push("Network proxy: the host's".to_owned());
    }
    if !workspace.certificate_authorities.is_empty() {
        let sources = workspace.certificate_authorities.iter();
        let sources = sources.map(|from| format!("{} from {}", from.count, printable(&from.source)));
        lines.push(format!("Certificate authorities: {}", sources.collect::<Vec<_>>().join(", ")));
    }
    if !workspace.secrets.is_empty() {
        let secrets =
            workspace.secrets.iter().map(|secret| format!("{} ({})", secret.name, secret.source_kind));
        lines.push(format!("Secrets: {}", secrets.collect::<Vec<_>>().join(", ")));
    }
    lines.push(format!("Execution mode: {}", workspace.execution_mode));
    let disk = workspace.disk_mib.map(|mib| format!(" / {mib} MiB disk")).unwrap_or_default();
    lines.push(format!("Resources: {} vCPU / {} MiB{disk}", workspace.vcpu_count, workspace.mem_mib));
    lines.push(format!("Command count: {}", workspace.command_count));
    if workspace.reset_count > 0 {
        lines.push(format!("Reset count: {}", workspace.reset_count));
    }
    if let Some(at) = workspace.last_reset_at {
        lines.push(format!("Last reset at: {at:?}"));
    }
    if workspace.service_count > 0 {
        let (running, all) = (workspace.running_service_count, workspace.service_count);
        lines.push(format!("Services: {running}/{all} running"));
    }
    if workspace.shell_count > 0 {
        lines.push(format!("Shells: {} open", workspace.shell_count));
    }
    if let Some(last) = &workspace.last_command {
        let command = printable(&last.command);
        lines.push(format!("Last command: {command} (exit_code={})", or_unknown(last.exit_code)));
    }
    lines.join("\n")
}

/// A workspace that was changed.
pub(super) fn updated(updated: &UpdatedWorkspace) -> String {
    let shown = workspace("Workspace ID", &updated.workspace);
    match updated.network_effect {
        Some(NetworkEffect::Now) => format!("{shown}\nNetwork change: in force now"),
        Some(NetworkEffect::NextStart) => {
            let closed = "nothing that it denies can be reached even before";
            format!("{shown}\nNetwork change: takes effect with the machine's next start; {closed}")
        }
        None => shown,
    }
}

/// A workspace with what is known of its time and its machine.
pub(super) fn status(found: &WorkspaceView) -> String {
    let mut lines = vec![workspace("Workspace ID", found)];
    lines.push(format!("Created at: {:?}", found.created_at));
    lines.push(format!("Last activity at: {:?}", found.last_activity_at));
    lines.push(format!("Expires at: {}", or_never(found.expires_at)));
    if let Some(machine) = &found.machine {
        lines.push(format!("Engine: {} ({})", machine.engine, machine.engine_reason));
        lines.push(format!("Jail: {}", machine.jail));
        lines.push(format!("Kernel: {}", printable(&machine.kernel)));
    }
    lines.join("\n")
}

/// A workspace in one line.
pub(super) fn listed(workspace: &WorkspaceView) -> String {
    let name = workspace.name.as_deref().map(|name| format!(" name={}", quoted(name))).unwrap_or_default();
    let labels = match workspace.labels.is_empty() {
        true => String::new(),
        false => format!(" labels={}", labels(&workspace.labels, ",")),
    };
    format!(
        "[workspace] workspace_id={}{name} state={} environment={}{labels} last_activity_at={:?} expires_at={} \
         commands={} services={}/{} shells={}",
        workspace.workspace_id,
        workspace.state,
        printable(&workspace.environment),
        workspace.last_activity_at,
        or_never(workspace.expires_at),
        workspace.command_count,
        workspace.running_service_count,
        workspace.service_count,
        workspace.shell_count,
    )
}

/// A workspace that was put back.
pub(super) fn reset(reset: &Reset) -> String {
    let (facts, workspace) = (&reset.workspace_reset, &reset.workspace);
    let mut lines = vec![
        format!("Workspace reset from snapshot: {} ({})", facts.snapshot_name, facts.kind),
        format!(
            "[workspace-reset] destination={} entry_count={} bytes_written={}",
            printable(facts.destination),
            facts.entry_count,
            facts.bytes_written
        ),
        format!("Workspace ID: {}", workspace.workspace_id),
    ];
    if let Some(name) = &workspace.name {
        lines.push(format!("Name: {}", printable(name)));
    }
    lines.push(format!("State: {}", workspace.state));
    lines.push(format!("Command count: {}", workspace.command_count));
    lines.push(format!("Reset count: {}", workspace.reset_count));
    lines.join("\n")
}

/// A command that has ended.
pub(super) fn executed(facts: &ExecFacts, exit: &Exit) -> String {
    format!(
        "[workspace-exec] workspace_id={} sequence={} cwd={} execution_mode={EXECUTION_MODE} exit_code={} \
         duration_ms={}",
        facts.workspace_id,
        facts.sequence,
        printable(&facts.cwd),
        exit.status(),
        exit.duration_ms
    )
}

/// A snapshot that was taken.
pub(super) fn snapshot_created(snapshot: &SnapshotView) -> String {
    format!(
        "[workspace-snapshot-create] snapshot_name={} kind={} entry_count={} bytes_written={}",
        snapshot.snapshot_name, snapshot.kind, snapshot.entry_count, snapshot.bytes_written
    )
}

/// A snapshot in one line.
pub(super) fn snapshot_listed(snapshot: &SnapshotView) -> String {
    format!(
        "{} [{}] entry_count={} bytes_written={} deletable={}",
        snapshot.snapshot_name,
        snapshot.kind,
        snapshot.entry_count,
        snapshot.bytes_written,
        yes_no(snapshot.deletable)
    )
}

fn seed(seed: &SeedView) -> String {
    match &seed.seed_path {
        Some(path) => format!("{} from {}", seed.mode, printable(path)),
        None => seed.mode.clone(),
    }
}

fn labels(labels: &BTreeMap<String, String>, separator: &str) -> String {
    let pairs: Vec<String> = labels.iter().map(|(key, value)| printable(&format!("{key}={value}"))).collect();
    pairs.join(separator)
}

fn or_unknown(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "unknown".to_owned(), |value| value.to_string())
}

/// A time as the seconds that the JSON result has.
fn or_never(time: Option<f64>) -> String {
    time.map_or_else(|| "never".to_owned(), |time| format!("{time:?}"))
}

#[cfg(test)]
mod tests;
