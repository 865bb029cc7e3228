//! Services as front ends show them. Times are seconds since the Unix epoch.

use crate::network::NetworkDenial;
use crate::services::{PublishedPort, Readiness, ServiceSpec};
use crate::store::{Damaged, ServiceRecord, ServiceStop};
use crate::workspace::views::seconds;
use crate::workspace::{EXECUTION_MODE, WorkspaceError};
use pyro_agent::wire::Usage;
use serde::Serialize;

/// One service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServiceView {
    /// Its workspace.
    pub workspace_id: String,
    /// What it is called.
    pub service_name: String,
    /// `starting`, `running`, `backoff`, `exited`, `stopped` or `failed`.
    pub state: &'static str,
    /// As a shell would take it, without secrets.
    pub command: String,
    /// Where it runs.
    pub cwd: String,
    /// When it was started, the last time.
    pub started_at: f64,
    /// When it ended, the last time.
    pub ended_at: Option<f64>,
    /// How it ended: its exit code, or 128 + N after signal N.
    pub exit_code: Option<i32>,
    /// Its main process in the guest.
    pub pid: Option<i32>,
    /// `guest_vsock`.
    pub execution_mode: &'static str,
    /// What tells that it is ready.
    pub readiness: Option<Readiness>,
    /// When it became ready, the last time.
    pub ready_at: Option<f64>,
    /// Why it ended, where not by itself.
    pub stop_reason: Option<&'static str>,
    /// What was wrong, where it failed.
    pub problem: Option<String>,
    /// Ports on the host that lead to it.
    pub published_ports: Vec<PublishedPort>,
    /// `no`, `on-failure` or `on-failure:COUNT`.
    pub restart: String,
    /// How often it was started again.
    pub restart_count: u64,
    /// Whether it comes back whenever its workspace is started.
    pub autostart: bool,
    /// What it uses now; known while it runs and asked for alone.
    #[serde(flatten)]
    pub usage: Option<ServiceUsage>,
    /// What the guest was denied since its last start; known where it is asked for alone.
    #[serde(flatten)]
    pub denied: Option<ServiceDenials>,
}

/// What was denied while a service ran, also to others that ran at the time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ServiceDenials {
    /// Each once.
    pub network_denials: Vec<NetworkDenial>,
    /// Whether there was more.
    pub network_denials_truncated: bool,
}

/// What a service's processes use together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ServiceUsage {
    /// CPU time since its last start.
    pub cpu_seconds: f64,
    /// Memory, caches of files included.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub task_count: Option<u64>,
}

/// The services of a workspace.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Services {
    /// The workspace.
    pub workspace_id: String,
    /// How many there are.
    pub count: usize,
    /// How many of them are ready.
    pub running_count: usize,
    /// All of them, by name.
    pub services: Vec<ServiceView>,
}

/// The ports of the host that lead to services of a workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ports {
    /// The workspace.
    pub workspace_id: String,
    /// How many there are.
    pub count: usize,
    /// All of them, by service.
    pub ports: Vec<ServicePort>,
}

/// A port of the host, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServicePort {
    /// The service.
    pub service_name: String,
    /// The port.
    #[serde(flatten)]
    pub port: PublishedPort,
}

/// A service that was waited for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WaitedService {
    /// What has become of it.
    #[serde(flatten)]
    pub service: ServiceView,
    /// Whether the time for waiting was over first.
    pub wait_timed_out: bool,
}

pub(super) fn spec(record: &ServiceRecord) -> Result<ServiceSpec, WorkspaceError> {
    serde_json::from_str(&record.spec).map_err(|error| damaged(record, "spec", &error))
}

fn damaged(record: &ServiceRecord, field: &'static str, error: &serde_json::Error) -> WorkspaceError {
    let damaged = Damaged { id: record.workspace.to_string(), field, problem: error.to_string() };
    WorkspaceError::Store(damaged.into())
}

pub(super) fn view(record: ServiceRecord) -> Result<ServiceView, WorkspaceError> {
    let spec = spec(&record)?;
    let published_ports = match &record.published {
        Some(text) => serde_json::from_str(text).map_err(|error| damaged(&record, "published", &error))?,
        None => Vec::new(),
    };
    Ok(ServiceView {
        workspace_id: record.workspace.to_string(),
        service_name: record.name,
        state: record.state.as_str(),
        command: record.command,
        cwd: record.cwd,
        started_at: seconds(record.started_at),
        ended_at: record.ended_at.map(seconds),
        exit_code: record.exit_code,
        pid: record.pid,
        execution_mode: EXECUTION_MODE,
        readiness: spec.readiness,
        ready_at: record.ready_at.map(seconds),
        stop_reason: record.stop_reason.map(ServiceStop::as_str),
        problem: record.problem,
        published_ports,
        restart: spec.restart.to_string(),
        restart_count: record.restart_count,
        autostart: record.autostart,
        usage: None,
        denied: None,
    })
}

pub(super) fn usage(usage: Usage) -> ServiceUsage {
    #[allow(clippy::cast_precision_loss, reason = "microseconds of CPU time have well under 52 bits")]
    let cpu_us = usage.cpu_us as f64;
    ServiceUsage { cpu_seconds: cpu_us / 1e6, memory_bytes: usage.memory_bytes, task_count: usage.task_count }
}

/// Why a service failed, in one line.
pub(super) fn failure(record: &ServiceRecord) -> String {
    let status = match record.exit_code {
        Some(code) => format!("exit status {code}"),
        None => "no exit status".to_owned(),
    };
    let problem = record.problem.as_deref().filter(|problem| !problem.is_empty());
    let problem = problem.map(|problem| format!(" ({problem})")).unwrap_or_default();
    match record.stop_reason {
        Some(ServiceStop::ExitedBeforeReady) => format!("it ended before it was ready, with {status}"),
        Some(ServiceStop::ReadinessTimeout) => format!("it was not ready in time{problem}"),
        Some(ServiceStop::PublishedPortFailed) => {
            let problem = record.problem.as_deref().unwrap_or_default();
            format!("its port could not be published: {problem}")
        }
        Some(ServiceStop::NotExecuted) => format!("it could not be started again{problem}"),
        Some(ServiceStop::RestartLimit) => format!("it ended too often, the last time with {status}"),
        Some(
            ServiceStop::SigTerm
            | ServiceStop::SigKill
            | ServiceStop::WorkspaceStopped
            | ServiceStop::MachineEnded,
        )
        | None => format!("it ended with {status}{problem}"),
    }
}
