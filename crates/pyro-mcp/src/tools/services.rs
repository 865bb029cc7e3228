//! Services of a workspace.

use super::{explain, pairs, shell_command};
use crate::bounded::{cut_text, text_limit};
use crate::tool::{Call, Effect, Tool, json, refused};
use pyro_core::Problem;
use pyro_core::services::{PortRequest, Readiness, RestartPolicy};
use pyro_core::workspace::{LogTail, ServiceRequest};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Lines of each stream where nothing is said.
const TAIL_LINES: u64 = 200;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Port {
    #[schemars(range(min = 1, max = 65535))]
    guest_port: u16,
    /// A free one unless said otherwise.
    #[serde(default)]
    #[schemars(range(min = 1025, max = 65535))]
    host_port: Option<u16>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Restart {
    No,
    OnFailure,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Start {
    workspace_id: String,
    service_name: String,
    /// Shell text that stays in the foreground.
    command: String,
    #[serde(default)]
    cwd: Option<String>,
    /// Ready when this file of /workspace is there. Give at most one of the ready arguments.
    #[serde(default)]
    ready_file: Option<String>,
    /// Ready when this HOST:PORT takes connections.
    #[serde(default)]
    ready_tcp: Option<String>,
    /// Ready when a GET of this http URL succeeds.
    #[serde(default)]
    ready_http: Option<String>,
    /// Ready when this shell text exits with 0.
    #[serde(default)]
    ready_command: Option<String>,
    #[serde(default)]
    #[schemars(range(min = 1, max = 86400))]
    ready_timeout_seconds: Option<u64>,
    #[serde(default)]
    #[schemars(range(min = 10, max = 60000))]
    ready_interval_ms: Option<u64>,
    #[serde(default)]
    restart: Option<Restart>,
    /// Start it whenever the workspace is started.
    #[serde(default)]
    autostart: bool,
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Secret to variable.
    #[serde(default)]
    secret_env: BTreeMap<String, String>,
    /// Ports of the host's loopback that lead to it; needs network_policy egress+published-ports.
    #[serde(default)]
    published_ports: Vec<Port>,
}

impl Tool for Start {
    const NAME: &'static str = "service_start";
    const DESCRIPTION: &'static str =
        "Start a program that keeps running, such as a server, and wait until it is ready.";
    const EFFECT: Effect = Effect::Adds;
    const OUTPUT: &'static str = "service_name: str, state: str, published_ports: list";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let mut ready = [
            self.ready_file.map(|path| Readiness::File { path }),
            self.ready_tcp.map(|address| Readiness::Tcp { address }),
            self.ready_http.map(|url| Readiness::Http { url }),
            self.ready_command.map(|command| Readiness::Command { command }),
        ]
        .into_iter()
        .flatten();
        let readiness = ready.next();
        if ready.next().is_some() {
            return Err(refused(
                "invalid_readiness",
                "choose at most one of ready_file, ready_tcp, ready_http and ready_command",
            ));
        }
        let mut command = shell_command(&self.command, None)?;
        command.exec.timeout = None;
        command.exec.cwd = self.cwd;
        command.exec.env = pairs(self.env);
        command.exec.secret_env = pairs(self.secret_env);
        let usual = ServiceRequest::new(&self.service_name, command);
        let restart = match self.restart {
            Some(Restart::OnFailure) => RestartPolicy::OnFailure { most: None },
            Some(Restart::No) | None => RestartPolicy::No,
        };
        let port = |port: Port| PortRequest { host_port: port.host_port, guest_port: port.guest_port };
        let request = ServiceRequest {
            readiness,
            ready_timeout_seconds: self.ready_timeout_seconds.unwrap_or(usual.ready_timeout_seconds),
            ready_interval_ms: self.ready_interval_ms.unwrap_or(usual.ready_interval_ms),
            restart,
            autostart: self.autostart,
            publish: self.published_ports.into_iter().map(port).collect(),
            ..usual
        };
        call.progress.tell("the service starts");
        Ok(json(&call.server.pyro.service_start(&self.workspace_id, &request).await.map_err(explain)?))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    workspace_id: String,
}

impl Tool for List {
    const NAME: &'static str = "service_list";
    const DESCRIPTION: &'static str = "The services of a workspace, by name.";
    const EFFECT: Effect = Effect::Reads;
    const OUTPUT: &'static str = "count: int, running_count: int, services: list";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        Ok(json(&call.server.pyro.service_list(&self.workspace_id).await.map_err(explain)?))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Status {
    workspace_id: String,
    service_name: String,
}

impl Tool for Status {
    const NAME: &'static str = "service_status";
    const DESCRIPTION: &'static str = "One service: state, exit code, ports, what it uses.";
    const EFFECT: Effect = Effect::Reads;
    const OUTPUT: &'static str = "service_name: str, state: str";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        Ok(json(
            &call
                .server
                .pyro
                .service_status(&self.workspace_id, &self.service_name)
                .await
                .map_err(explain)?,
        ))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Logs {
    workspace_id: String,
    service_name: String,
    #[serde(default)]
    #[schemars(range(min = 1, max = 100000))]
    tail_lines: Option<u64>,
    /// All that is kept.
    #[serde(default)]
    all: bool,
    #[serde(default)]
    #[schemars(range(min = 1, max = 262144))]
    max_output_bytes: Option<u64>,
}

impl Tool for Logs {
    const NAME: &'static str = "service_logs";
    const DESCRIPTION: &'static str = "The last lines that a service printed.";
    const EFFECT: Effect = Effect::Reads;
    const OUTPUT: &'static str = "state: str, stdout: str, stderr: str";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let limit = text_limit(self.max_output_bytes)?;
        let lines = usize::try_from(self.tail_lines.unwrap_or(TAIL_LINES)).unwrap_or(usize::MAX);
        let tail = if self.all { LogTail::All } else { LogTail::Lines(lines) };
        let logs = call.server.pyro.service_logs(&self.workspace_id, &self.service_name, tail).await;
        let mut logs = json(&logs.map_err(explain)?);
        let fields = logs.as_object_mut().expect("logs are an object");
        cut_text(fields, "stdout", limit);
        cut_text(fields, "stderr", limit);
        let is_cut = fields["stdout_truncated"] == json!(true) || fields["stderr_truncated"] == json!(true);
        fields.insert("truncated".to_owned(), json!(is_cut));
        Ok(logs)
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Restarted {
    workspace_id: String,
    service_name: String,
}

impl Tool for Restarted {
    const NAME: &'static str = "service_restart";
    const DESCRIPTION: &'static str = "Stop a service, start it as before, and wait until it is ready.";
    const EFFECT: Effect = Effect::Changes;
    const OUTPUT: &'static str = "service_name: str, state: str";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        call.progress.tell("the service restarts");
        Ok(json(
            &call
                .server
                .pyro
                .service_restart(&self.workspace_id, &self.service_name)
                .await
                .map_err(explain)?,
        ))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Stop {
    workspace_id: String,
    service_name: String,
}

impl Tool for Stop {
    const NAME: &'static str = "service_stop";
    const DESCRIPTION: &'static str = "End a service with all its processes.";
    const EFFECT: Effect = Effect::Changes;
    const OUTPUT: &'static str = "service_name: str, state: str";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        Ok(json(
            &call.server.pyro.service_stop(&self.workspace_id, &self.service_name).await.map_err(explain)?,
        ))
    }
}
