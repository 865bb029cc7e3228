//! One command in a machine of its own.

use super::{environment, explain, shell_command};
use crate::bounded::{cut_text, text_limit};
use crate::tool::{Call, Effect, Tool};
use pyro_core::authorities::Authorities;
use pyro_core::exec::{AgentError, ExecEvent, ExecOutput, Exit};
use pyro_core::limits::CAPTURE_BYTES;
use pyro_core::machine::{BootImage, Machine, MachineId, MachineRequest};
use pyro_core::network::{self, NetworkRules, Policy};
use pyro_core::store::NetworkPolicy;
use pyro_core::workspace::Captured;
use pyro_core::{Problem, environments};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct VmRun {
    /// Shell text.
    pub(super) command: String,
    #[serde(default = "super::default_environment")]
    environment: String,
    #[serde(default)]
    #[schemars(range(min = 1, max = 32))]
    vcpu_count: Option<u64>,
    #[serde(default)]
    #[schemars(range(min = 256))]
    mem_mib: Option<u64>,
    #[serde(default)]
    #[schemars(range(min = 1, max = 86400))]
    timeout_seconds: Option<u64>,
    #[serde(default)]
    #[schemars(range(min = 60, max = 3600))]
    ttl_seconds: Option<u64>,
    /// Reach the public internet.
    #[serde(default)]
    network: bool,
    /// Rules that open more, as HOST:PORT.
    #[serde(default)]
    allow: Vec<String>,
    #[serde(default)]
    #[schemars(range(min = 1, max = 262144))]
    max_output_bytes: Option<u64>,
}

impl Tool for VmRun {
    const NAME: &'static str = "vm_run";
    const DESCRIPTION: &'static str = "Run one command in a fresh Linux machine that is deleted afterwards. Use a workspace for more than one.";
    const EFFECT: Effect = Effect::Adds;
    const OUTPUT: &'static str = "exit_code: int, stdout: str, stderr: str";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let limit = text_limit(self.max_output_bytes)?;
        let request = MachineRequest {
            network: policy(self.network, &self.allow)?,
            ..machine_request(self.vcpu_count, self.mem_mib, self.ttl_seconds)
        };
        request.check().map_err(explain)?;
        let command = shell_command(&self.command, self.timeout_seconds)?;
        let name = environment(&call.server, self.environment)?;
        let (mut machine, installed) = start(call, &name, &request).await?;
        let id = machine.id().clone();
        call.progress.tell("the command runs");
        let exec = environments::with_image_defaults(&installed, &Authorities::default(), command.exec);
        let ran = run(&mut machine, &exec, call).await;
        let denied = machine.network_denials().await;
        let stopped = machine.stop().await;
        let (exit, captured) = ran?;
        let mut result = result(id.as_str(), &exit, captured, limit);
        for (key, value) in [
            ("environment", json!(name)),
            ("environment_version", json!(installed.version)),
            ("command", json!(self.command)),
            ("network_denials", json!(denied.denials)),
            (
                "cleanup",
                json!({ "vm_id": id.as_str(), "deleted": stopped.is_ok(), "reason": "post_exec_cleanup" }),
            ),
        ] {
            result.insert(key.to_owned(), value);
        }
        Ok(Value::Object(result))
    }
}

/// A machine of these sizes, the others at their defaults.
pub(super) fn machine_request(
    vcpu_count: Option<u64>,
    mem_mib: Option<u64>,
    ttl_seconds: Option<u64>,
) -> MachineRequest {
    let usual = MachineRequest::default();
    MachineRequest {
        vcpu_count: vcpu_count.unwrap_or(usual.vcpu_count),
        mem_mib: mem_mib.unwrap_or(usual.mem_mib),
        ttl_seconds: ttl_seconds.unwrap_or(usual.ttl_seconds),
        ..usual
    }
}

/// What a one-shot machine may reach.
pub(super) fn policy(network: bool, allow: &[String]) -> Result<Option<Policy>, Problem> {
    let rule = |text: &String| network::parse_rule("allow", text).map_err(explain);
    let rules =
        NetworkRules { allow: allow.iter().map(rule).collect::<Result<_, _>>()?, ..Default::default() };
    let wanted = if network { NetworkPolicy::Egress } else { NetworkPolicy::Off };
    rules.check(wanted).map_err(explain)?;
    Ok(network.then(|| network::enforced(wanted, &rules)))
}

/// Boots a machine of an environment, which is pulled where it is not installed.
pub(super) async fn start(
    call: &Call,
    environment: &str,
    request: &MachineRequest,
) -> Result<(Machine, environments::Installed), Problem> {
    let config = &call.server.config;
    let progress = Arc::new(call.progress.clone());
    let installed = environments::ensure(config, environment, progress).await.map_err(explain)?;
    call.progress.tell("the machine boots");
    let image = BootImage { kernel: installed.kernel.clone(), rootfs: installed.rootfs.clone() };
    let machine = Machine::start(config, MachineId::random(), &image, request).await.map_err(explain)?;
    Ok((machine, installed))
}

/// Runs a command in a machine to its end.
pub(super) async fn run(
    machine: &mut Machine,
    exec: &pyro_core::exec::ExecRequest,
    call: &Call,
) -> Result<(Exit, Captured), Problem> {
    // The input stays open until the command has ended: closing it is a word to the guest.
    let (_input, mut output) = machine.exec(exec).await.map_err(explain)?;
    match collect(&mut output, call).await {
        Ok(done) => Ok(done),
        Err(AgentError::Disconnected) => Err(explain(machine.why_disconnected().await)),
        Err(error) => Err(explain(error)),
    }
}

/// Reads a command's streams to their end, keeps what is kept of any command, and tells the client that they come.
pub(super) async fn collect(output: &mut ExecOutput, call: &Call) -> Result<(Exit, Captured), AgentError> {
    let mut captured = Captured::default();
    let mut total = 0;
    loop {
        let (stream, truncated, bytes) = match output.next().await? {
            ExecEvent::Stdout(bytes) => (&mut captured.stdout, &mut captured.stdout_truncated, bytes),
            ExecEvent::Stderr(bytes) => (&mut captured.stderr, &mut captured.stderr_truncated, bytes),
            ExecEvent::Exited(exit) => return Ok((exit, captured)),
        };
        total += bytes.len();
        let room = CAPTURE_BYTES - stream.len();
        *truncated |= bytes.len() > room;
        stream.extend_from_slice(&bytes[..bytes.len().min(room)]);
        call.progress.tell(format!("the command runs, {total} bytes of output"));
    }
}

/// What a one-shot command's end is told as.
pub(super) fn result(id: &str, exit: &Exit, captured: Captured, limit: usize) -> Map<String, Value> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut result = Map::from_iter([
        ("vm_id".to_owned(), json!(id)),
        ("stdout".to_owned(), json!(text(&captured.stdout))),
        ("stdout_truncated".to_owned(), json!(captured.stdout_truncated)),
        ("stderr".to_owned(), json!(text(&captured.stderr))),
        ("stderr_truncated".to_owned(), json!(captured.stderr_truncated)),
        ("exit_code".to_owned(), json!(exit.status())),
        ("duration_ms".to_owned(), json!(exit.duration_ms)),
        ("execution_mode".to_owned(), json!(pyro_core::workspace::EXECUTION_MODE)),
    ]);
    cut_text(&mut result, "stdout", limit);
    cut_text(&mut result, "stderr", limit);
    result
}
