//! Services and what they have printed.

use crate::output::{printable, yes_no};
use pyro_core::services::Readiness;
use pyro_core::workspace::{EXECUTION_MODE, Ports, ServiceLogs, ServiceView, Services, WaitedService};

/// A service that was started, by `start` or `restart`.
pub(in super::super) fn service_started(how: &str, service: &ServiceView) -> String {
    let ready = kind(service.readiness.as_ref());
    let ports: Vec<String> = service.published_ports.iter().map(ToString::to_string).collect();
    let published = if ports.is_empty() { String::new() } else { format!(" published={}", ports.join(",")) };
    format!(
        "[workspace-service-{how}] workspace_id={} service={} state={} cwd={} ready_type={ready} \
         execution_mode={EXECUTION_MODE}{published}",
        service.workspace_id,
        service.service_name,
        service.state,
        printable(&service.cwd),
    )
}

/// The ports of a workspace, a line each.
pub(in super::super) fn ports_listed(ports: &Ports) -> String {
    let mut lines = vec![format!("Workspace: {}", ports.workspace_id), format!("Ports: {}", ports.count)];
    lines.extend(ports.ports.iter().map(|port| format!("- {} service={}", port.port, port.service_name)));
    lines.join("\n")
}

/// A service that was stopped.
pub(in super::super) fn service_stopped(service: &ServiceView) -> String {
    format!(
        "[workspace-service-stop] workspace_id={} service={} state={} execution_mode={EXECUTION_MODE}",
        service.workspace_id, service.service_name, service.state
    )
}

/// All services of a workspace.
pub(in super::super) fn services_listed(services: &Services) -> String {
    let mut lines = vec![
        format!("Workspace: {}", services.workspace_id),
        format!("Services: {} total, {} running", services.count, services.running_count),
    ];
    lines.extend(services.services.iter().map(|service| {
        let ready = kind(service.readiness.as_ref());
        format!(
            "- {} [{}] cwd={} readiness={ready}",
            service.service_name,
            service.state,
            printable(&service.cwd)
        )
    }));
    lines.join("\n")
}

/// One service.
pub(in super::super) fn service_status(service: &ServiceView) -> String {
    let mut lines = vec![
        format!("Workspace: {}", service.workspace_id),
        format!("Service: {}", service.service_name),
        format!("State: {}", service.state),
        format!("Command: {}", printable(&service.command)),
        format!("Cwd: {}", printable(&service.cwd)),
        match &service.readiness {
            Some(readiness) => format!("Readiness: {} {}", readiness.kind(), printable(readiness.target())),
            None => "Readiness: none".to_owned(),
        },
        format!("Execution mode: {}", service.execution_mode),
    ];
    if let Some(code) = service.exit_code {
        lines.push(format!("Exit code: {code}"));
    }
    if let Some(reason) = service.stop_reason {
        lines.push(format!("Stop reason: {reason}"));
    }
    if let Some(problem) = service.problem.as_deref().filter(|problem| !problem.is_empty()) {
        lines.push(format!("Problem: {}", printable(problem)));
    }
    if service.restart != "no" || service.restart_count > 0 {
        lines.push(format!("Restart: {} (restarted {} times)", service.restart, service.restart_count));
    }
    if service.autostart {
        lines.push("Autostart: yes".to_owned());
    }
    if let Some(usage) = &service.usage {
        let known =
            |value: Option<u64>| value.map_or_else(|| "unknown".to_owned(), |value| value.to_string());
        let mib = usage.memory_bytes.map(|bytes| bytes >> 20);
        lines.push(format!(
            "Usage: cpu_seconds={:.3} memory_mib={} tasks={}",
            usage.cpu_seconds,
            known(mib),
            known(usage.task_count)
        ));
    }
    lines.join("\n")
}

/// A service that was waited for.
pub(in super::super) fn service_waited(waited: &WaitedService) -> String {
    format!(
        "[workspace-service-wait] workspace_id={} service={} state={} exit_code={} wait_timed_out={}",
        waited.service.workspace_id,
        waited.service.service_name,
        waited.service.state,
        super::or_unknown(waited.service.exit_code),
        yes_no(waited.wait_timed_out)
    )
}

/// What stands before a log.
pub(in super::super) fn service_log_heading(logs: &ServiceLogs) -> String {
    format!("Workspace: {}\nService: {}\nState: {}", logs.workspace_id, logs.service_name, logs.state)
}

/// That a log has more than was shown.
pub(in super::super) fn service_log_cut(logs: &ServiceLogs) -> String {
    let cut = [("stdout", logs.stdout_truncated), ("stderr", logs.stderr_truncated)];
    let cut: Vec<&str> = cut.into_iter().filter(|(_, is_cut)| *is_cut).map(|(name, _)| name).collect();
    format!(
        "[workspace-service-logs] workspace_id={} service={} truncated={}",
        logs.workspace_id,
        logs.service_name,
        cut.join(",")
    )
}

fn kind(readiness: Option<&Readiness>) -> &'static str {
    readiness.map_or("none", Readiness::kind)
}

#[cfg(test)]
mod tests;
