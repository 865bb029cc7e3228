use super::*;
use pyro_core::workspace::{PublishedPort, ServiceUsage};

const ID: &str = "0123456789ab";

fn web() -> ServiceView {
    ServiceView {
        workspace_id: ID.into(),
        service_name: "web".into(),
        state: "running",
        command: "sh -lc 'touch .web-ready && while true; do sleep 60; done'".into(),
        cwd: "/workspace".into(),
        started_at: 1_700_000_000.0,
        ended_at: None,
        exit_code: None,
        pid: Some(77),
        execution_mode: "guest_vsock",
        readiness: Some(Readiness::File { path: "/workspace/.web-ready".into() }),
        ready_at: Some(1_700_000_000.5),
        stop_reason: None,
        problem: None,
        published_ports: vec![],
        restart: "no".into(),
        restart_count: 0,
        autostart: false,
        usage: None,
        denied: None,
    }
}

#[test]
fn lines_are_those_of_the_transcript() {
    assert_eq!(
        service_started("start", &web()),
        "[workspace-service-start] workspace_id=0123456789ab service=web state=running cwd=/workspace \
         ready_type=file execution_mode=guest_vsock"
    );
    let port = PublishedPort {
        host: "127.0.0.1".into(),
        host_port: 18080,
        guest_port: 8080,
        protocol: "tcp".into(),
    };
    let app = ServiceView { published_ports: vec![port], ..web() };
    assert!(service_started("start", &app).ends_with(" published=127.0.0.1:18080->8080/tcp"));
    let stopped = ServiceView { state: "stopped", ..web() };
    assert_eq!(
        service_stopped(&stopped),
        "[workspace-service-stop] workspace_id=0123456789ab service=web state=stopped execution_mode=guest_vsock"
    );
    let worker = ServiceView { service_name: "worker".into(), ..web() };
    let both =
        Services { workspace_id: ID.into(), count: 2, running_count: 2, services: vec![web(), worker] };
    assert_eq!(
        services_listed(&both),
        "Workspace: 0123456789ab\n\
         Services: 2 total, 2 running\n\
         - web [running] cwd=/workspace readiness=file\n\
         - worker [running] cwd=/workspace readiness=file"
    );
    assert_eq!(
        service_status(&web()),
        "Workspace: 0123456789ab\n\
         Service: web\n\
         State: running\n\
         Command: sh -lc 'touch .web-ready && while true; do sleep 60; done'\n\
         Cwd: /workspace\n\
         Readiness: file /workspace/.web-ready\n\
         Execution mode: guest_vsock"
    );
}

#[test]
fn a_status_tells_what_there_is_more() {
    let failed = ServiceView {
        state: "failed",
        exit_code: Some(7),
        stop_reason: Some("restart_limit"),
        problem: Some("HTTP status 503\n".into()),
        restart: "on-failure:3".into(),
        restart_count: 3,
        autostart: true,
        readiness: None,
        usage: Some(ServiceUsage { cpu_seconds: 1.5, memory_bytes: Some(3 << 20), task_count: None }),
        ..web()
    };
    let text = service_status(&failed);
    let more = "Readiness: none\n\
        Execution mode: guest_vsock\n\
        Exit code: 7\n\
        Stop reason: restart_limit\n\
        Problem: HTTP status 503\\n\n\
        Restart: on-failure:3 (restarted 3 times)\n\
        Autostart: yes\n\
        Usage: cpu_seconds=1.500 memory_mib=3 tasks=unknown";
    assert!(text.ends_with(more), "{text}");
}

#[test]
fn a_log_says_whose_it_is_and_what_is_missing() {
    let logs = ServiceLogs {
        workspace_id: ID.into(),
        service_name: "web".into(),
        state: "running",
        execution_mode: "guest_vsock",
        tail_lines: Some(50),
        stdout: String::new(),
        stdout_truncated: true,
        stderr: String::new(),
        stderr_truncated: true,
        truncated: true,
    };
    assert_eq!(service_log_heading(&logs), "Workspace: 0123456789ab\nService: web\nState: running");
    assert_eq!(
        service_log_cut(&logs),
        "[workspace-service-logs] workspace_id=0123456789ab service=web truncated=stdout,stderr"
    );
}

#[test]
fn a_wait_tells_how_it_went() {
    let waited = WaitedService { service: web(), wait_timed_out: true };
    assert_eq!(
        service_waited(&waited),
        "[workspace-service-wait] workspace_id=0123456789ab service=web state=running exit_code=unknown \
         wait_timed_out=yes"
    );
}
