//! Shells with a terminal.

use super::commands::Signal;
use super::{explain, pairs};
use crate::tool::{Call, Effect, Tool, json};
use pyro_core::Problem;
use pyro_core::workspace::{KillSignal, Newline, OpenShell, ReadShell, ShellWait};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Open {
    workspace_id: String,
    #[serde(default)]
    cwd: Option<String>,
    #[serde(default)]
    #[schemars(range(min = 1, max = 1000))]
    cols: Option<u64>,
    #[serde(default)]
    #[schemars(range(min = 1, max = 1000))]
    rows: Option<u64>,
    /// Secret to variable.
    #[serde(default)]
    secret_env: BTreeMap<String, String>,
}

impl Tool for Open {
    const NAME: &'static str = "shell_open";
    const DESCRIPTION: &'static str =
        "Open a shell with a terminal, for what asks questions or keeps state. workspace_exec is simpler.";
    const EFFECT: Effect = Effect::Adds;
    const OUTPUT: &'static str = "shell_id: str, state: str";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let usual = OpenShell::default();
        let new = OpenShell {
            cwd: self.cwd,
            cols: self.cols.unwrap_or(usual.cols),
            rows: self.rows.unwrap_or(usual.rows),
            secret_env: pairs(self.secret_env),
        };
        Ok(json(&call.server.pyro.shell_open(&self.workspace_id, &new).await.map_err(explain)?))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    workspace_id: String,
}

impl Tool for List {
    const NAME: &'static str = "shell_list";
    const DESCRIPTION: &'static str = "The shells of a workspace, the oldest first.";
    const EFFECT: Effect = Effect::Reads;
    const OUTPUT: &'static str = "count: int, shells: list";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let shells = call.server.pyro.shell_list(&self.workspace_id).map_err(explain)?;
        Ok(json!({ "count": shells.len(), "shells": shells }))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Read {
    workspace_id: String,
    shell_id: String,
    /// The last read's next_cursor.
    #[serde(default)]
    cursor: u64,
    #[serde(default)]
    #[schemars(range(min = 1, max = 262144))]
    max_chars: Option<u64>,
    /// Lines as a person sees them, without escapes.
    #[serde(default)]
    plain: bool,
    /// First wait until nothing was printed for so long.
    #[serde(default)]
    #[schemars(range(min = 1, max = 10000))]
    wait_for_idle_ms: Option<u64>,
    /// First wait for the prompt.
    #[serde(default)]
    wait_for_prompt: bool,
    /// First wait for this text.
    #[serde(default)]
    wait_for_text: Option<String>,
    #[serde(default)]
    #[schemars(range(min = 1, max = 3600))]
    wait_seconds: Option<u64>,
}

impl Tool for Read {
    const NAME: &'static str = "shell_read";
    const DESCRIPTION: &'static str = "Read what a shell has printed since a cursor, also waiting for it.";
    const EFFECT: Effect = Effect::Reads;
    const OUTPUT: &'static str = "output: str, next_cursor: int, state: str";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let usual = ReadShell::default();
        let wait = match (self.wait_for_idle_ms, self.wait_for_prompt, self.wait_for_text) {
            (Some(idle), _, _) => Some(ShellWait::IdleMs(idle)),
            (None, true, _) => Some(ShellWait::Prompt),
            (None, false, text) => text.map(ShellWait::Text),
        };
        let read = ReadShell {
            cursor: self.cursor,
            max_bytes: self.max_chars.unwrap_or(usual.max_bytes),
            plain: self.plain,
            wait,
            wait_seconds: self.wait_seconds.unwrap_or(usual.wait_seconds),
        };
        let output = call.server.pyro.shell_read(&self.workspace_id, &self.shell_id, &read).await;
        Ok(json(&output.map_err(explain)?))
    }
}

fn yes() -> bool {
    true
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Write {
    workspace_id: String,
    shell_id: String,
    input: String,
    /// Press Enter after it.
    #[serde(default = "yes")]
    append_newline: bool,
}

impl Tool for Write {
    const NAME: &'static str = "shell_write";
    const DESCRIPTION: &'static str = "Type into a shell, with Enter at the end.";
    const EFFECT: Effect = Effect::Changes;
    const OUTPUT: &'static str = "state: str, input_length: int";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let newline = if self.append_newline { Newline::Append } else { Newline::Omit };
        let pyro = &call.server.pyro;
        let written =
            pyro.shell_write(&self.workspace_id, &self.shell_id, self.input.as_bytes(), newline).await;
        Ok(json(&written.map_err(explain)?))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Resize {
    workspace_id: String,
    shell_id: String,
    #[schemars(range(min = 1, max = 1000))]
    cols: u64,
    #[schemars(range(min = 1, max = 1000))]
    rows: u64,
}

impl Tool for Resize {
    const NAME: &'static str = "shell_resize";
    const DESCRIPTION: &'static str = "Give a shell's terminal another size.";
    const EFFECT: Effect = Effect::Changes;
    const OUTPUT: &'static str = "cols: int, rows: int";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let resized =
            call.server.pyro.shell_resize(&self.workspace_id, &self.shell_id, self.cols, self.rows).await;
        Ok(json(&resized.map_err(explain)?))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Signalled {
    workspace_id: String,
    shell_id: String,
    #[serde(default)]
    signal_name: Option<Signal>,
}

impl Tool for Signalled {
    const NAME: &'static str = "shell_signal";
    const DESCRIPTION: &'static str =
        "Send a signal (INT, as Ctrl-C, unless said otherwise) to what a shell runs.";
    const EFFECT: Effect = Effect::Changes;
    const OUTPUT: &'static str = "signal: str, state: str";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let signal = self.signal_name.map_or(KillSignal::Int, Into::into);
        let signalled = call.server.pyro.shell_signal(&self.workspace_id, &self.shell_id, signal).await;
        Ok(json(&signalled.map_err(explain)?))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Close {
    workspace_id: String,
    shell_id: String,
}

impl Tool for Close {
    const NAME: &'static str = "shell_close";
    const DESCRIPTION: &'static str = "End a shell with everything in it.";
    const EFFECT: Effect = Effect::Changes;
    const OUTPUT: &'static str = "closed: bool";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        Ok(json(&call.server.pyro.shell_close(&self.workspace_id, &self.shell_id).await.map_err(explain)?))
    }
}
