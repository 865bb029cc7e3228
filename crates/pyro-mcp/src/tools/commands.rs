//! Commands in a workspace, and what they printed.

use super::run::collect;
use super::{explain, pairs, shell_command};
use crate::bounded::{cut_text, page, text_limit};
use crate::tool::{Call, Effect, Tool, json, refused};
use pyro_core::Problem;
use pyro_core::exec::AgentError;
use pyro_core::limits::{self, WAIT_SECONDS};
use pyro_core::workspace::{KillSignal, LogEntry};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Output of each command in a list of them, bytes of a stream.
const LISTED_BYTES: usize = 2 << 10;
/// Commands in a list.
const LISTED: usize = 20;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Exec {
    workspace_id: String,
    /// Shell text.
    command: String,
    #[serde(default)]
    #[schemars(range(min = 1, max = 86400))]
    timeout_seconds: Option<u64>,
    #[serde(default)]
    #[schemars(range(min = 1, max = 262144))]
    max_output_bytes: Option<u64>,
    /// Secret to variable.
    #[serde(default)]
    secret_env: BTreeMap<String, String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    cwd: Option<String>,
    #[serde(default)]
    user: Option<String>,
    /// Return at once and let it run; see workspace_exec_wait, workspace_logs.
    #[serde(default)]
    detach: bool,
}

impl Tool for Exec {
    const NAME: &'static str = "workspace_exec";
    const DESCRIPTION: &'static str = "Run a command in /workspace to its end. Long output keeps its ends; \
                                       workspace_logs with the sequence has the rest. Exit code 124: out of time.";
    const EFFECT: Effect = Effect::Changes;
    const OUTPUT: &'static str = "sequence: int, exit_code: int?, stdout: str?, stderr: str?";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let limit = text_limit(self.max_output_bytes)?;
        let mut command = shell_command(&self.command, self.timeout_seconds)?;
        command.exec.secret_env = pairs(self.secret_env);
        command.exec.env = pairs(self.env);
        (command.exec.cwd, command.exec.user) = (self.cwd, self.user);
        let pyro = &call.server.pyro;
        if self.detach {
            command.exec.timeout = self.timeout_seconds.map(Duration::from_secs);
            return Ok(json(&pyro.exec_detached(&self.workspace_id, &command).await.map_err(explain)?));
        }
        let (running, _input, mut output) = pyro.exec(&self.workspace_id, &command).await.map_err(explain)?;
        let (exit, captured) = match collect(&mut output, call).await {
            Ok(done) => done,
            Err(AgentError::Disconnected) => return Err(explain(running.why_disconnected().await)),
            Err(error) => return Err(explain(error)),
        };
        let mut record = json(&running.finish(&exit, captured).await.map_err(explain)?);
        let fields = record.as_object_mut().expect("a record is an object");
        cut_text(fields, "stdout", limit);
        cut_text(fields, "stderr", limit);
        Ok(record)
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Logs {
    workspace_id: String,
    /// One command's whole output, from offset on.
    #[serde(default)]
    sequence: Option<u64>,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    #[schemars(range(min = 1, max = 262144))]
    max_output_bytes: Option<u64>,
    /// Only commands before this number.
    #[serde(default)]
    before: Option<u64>,
}

impl Tool for Logs {
    const NAME: &'static str = "workspace_logs";
    const DESCRIPTION: &'static str = "The last commands with the ends of their output, or one command's output page \
                                       by page (stdout and stderr share offset).";
    const EFFECT: Effect = Effect::Reads;
    const OUTPUT: &'static str = "entries: list";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let pyro = &call.server.pyro;
        let entries: Vec<Value> = match self.sequence {
            Some(sequence) => {
                let limit = text_limit(self.max_output_bytes)?;
                let entry = pyro.command_output(&self.workspace_id, sequence).await.map_err(explain)?;
                vec![paged(&entry, self.offset, limit)]
            }
            None => {
                let all = pyro.logs(&self.workspace_id).map_err(explain)?;
                let before = self.before.unwrap_or(u64::MAX);
                let wanted: Vec<&LogEntry> = all.iter().filter(|entry| entry.sequence < before).collect();
                let first = wanted.len().saturating_sub(LISTED);
                wanted[first..].iter().map(|entry| listed(entry)).collect()
            }
        };
        Ok(json!({ "workspace_id": self.workspace_id, "count": entries.len(), "entries": entries }))
    }
}

fn listed(entry: &LogEntry) -> Value {
    let mut value = json(entry);
    let fields = value.as_object_mut().expect("an entry is an object");
    cut_text(fields, "stdout", LISTED_BYTES);
    cut_text(fields, "stderr", LISTED_BYTES);
    value
}

fn paged(entry: &LogEntry, offset: u64, limit: usize) -> Value {
    let (stdout, stderr) = (page(&entry.stdout, offset, limit), page(&entry.stderr, offset, limit));
    let mut value = json(entry);
    let fields = value.as_object_mut().expect("an entry is an object");
    fields.insert("stdout".to_owned(), json!(stdout.text));
    fields.insert("stderr".to_owned(), json!(stderr.text));
    fields.insert("stdout_bytes".to_owned(), json!(entry.stdout.len()));
    fields.insert("stderr_bytes".to_owned(), json!(entry.stderr.len()));
    fields.insert("next_offset".to_owned(), json!(stdout.next_offset.max(stderr.next_offset)));
    value
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ExecWait {
    workspace_id: String,
    sequence: u64,
    /// How long to wait at most.
    #[serde(default)]
    #[schemars(range(min = 1, max = 31_536_000))]
    timeout_seconds: Option<u64>,
}

impl Tool for ExecWait {
    const NAME: &'static str = "workspace_exec_wait";
    const DESCRIPTION: &'static str = "Wait for a detached command; wait_timed_out says that it still runs.";
    const EFFECT: Effect = Effect::Reads;
    const OUTPUT: &'static str = "sequence: int, state: str, wait_timed_out: bool";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let seconds = self.timeout_seconds.unwrap_or(super::TIMEOUT_SECONDS);
        let seconds = limits::check("timeout_seconds", seconds, &WAIT_SECONDS).map_err(explain)?;
        let limit = Some(Duration::from_secs(seconds));
        let waited = call.server.pyro.command_wait(&self.workspace_id, self.sequence, limit).await;
        Ok(json(&waited.map_err(explain)?))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Signal {
    Hup,
    Int,
    Term,
    Kill,
}

impl From<Signal> for KillSignal {
    fn from(signal: Signal) -> Self {
        match signal {
            Signal::Hup => Self::Hup,
            Signal::Int => Self::Int,
            Signal::Term => Self::Term,
            Signal::Kill => Self::Kill,
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ExecKill {
    workspace_id: String,
    sequence: u64,
    /// TERM unless said otherwise; KILL follows where it does not end.
    #[serde(default)]
    signal_name: Option<Signal>,
}

impl Tool for ExecKill {
    const NAME: &'static str = "workspace_exec_kill";
    const DESCRIPTION: &'static str = "End a detached command with all its processes.";
    const EFFECT: Effect = Effect::Changes;
    const OUTPUT: &'static str = "sequence: int, state: str";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let signal = self.signal_name.map_or(KillSignal::Term, Into::into);
        if self.sequence == 0 {
            return Err(refused("out_of_range", "sequence begins at 1"));
        }
        let killed = call.server.pyro.command_kill(&self.workspace_id, self.sequence, signal).await;
        Ok(json(&killed.map_err(explain)?))
    }
}
