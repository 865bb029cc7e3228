//! Trees across the border of the host.

use super::explain;
use crate::tool::{Call, Effect, Tool, json};
use pyro_core::Problem;
use pyro_core::workspace::{ExportOptions, Overwrite, SeedFilter};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SyncPush {
    workspace_id: String,
    /// Host directory or tar archive.
    source_path: String,
    #[serde(default = "super::workspace_path")]
    dest: String,
}

impl Tool for SyncPush {
    const NAME: &'static str = "workspace_sync_push";
    const DESCRIPTION: &'static str = "Copy host files into the workspace; files are replaced, none removed.";
    const EFFECT: Effect = Effect::Changes;
    const OUTPUT: &'static str = "workspace_sync: obj";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let source = call.source(&self.source_path).await?;
        let moved = |bytes| call.progress.bytes("sent", bytes);
        let pyro = &call.server.pyro;
        let pushed = pyro.sync_push(&self.workspace_id, &source, SeedFilter::All, &self.dest, &moved).await;
        Ok(json(&pushed.map_err(explain)?))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Export {
    workspace_id: String,
    path: String,
    /// Host path; nothing may be there yet.
    output_path: String,
}

impl Tool for Export {
    const NAME: &'static str = "workspace_export";
    const DESCRIPTION: &'static str = "Copy one file or directory out of the workspace to the host.";
    const EFFECT: Effect = Effect::Adds;
    const OUTPUT: &'static str = "output_path: str, bytes_written: int";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let output = call.output(&self.output_path).await?;
        let moved = |bytes| call.progress.bytes("received", bytes);
        let options = ExportOptions::default();
        let pyro = &call.server.pyro;
        let exported = pyro.export(&self.workspace_id, &self.path, &output, options, &moved).await;
        Ok(json(&exported.map_err(explain)?))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SyncPull {
    workspace_id: String,
    path: String,
    /// Host path; what is there is replaced.
    output_path: String,
}

impl Tool for SyncPull {
    const NAME: &'static str = "workspace_sync_pull";
    const DESCRIPTION: &'static str =
        "Copy a file or directory out of the workspace in place of the one on the host.";
    const EFFECT: Effect = Effect::Changes;
    const OUTPUT: &'static str = "output_path: str, artifact_type: str, bytes_written: int";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let output = call.output(&self.output_path).await?;
        let moved = |bytes| call.progress.bytes("received", bytes);
        let options = ExportOptions { overwrite: Overwrite::Replace, ..ExportOptions::default() };
        let pyro = &call.server.pyro;
        let pulled = pyro.sync_pull(&self.workspace_id, &self.path, &output, options, &moved).await;
        Ok(json(&pulled.map_err(explain)?))
    }
}
