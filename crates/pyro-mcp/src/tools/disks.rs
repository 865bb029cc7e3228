//! The disk of a stopped workspace.

use super::explain;
use crate::bounded::{entry_limit, page_list, read_limit};
use crate::tool::{Call, Effect, Tool, json};
use pyro_core::Problem;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Export {
    workspace_id: String,
    /// Host path; nothing may be there yet.
    output_path: String,
}

impl Tool for Export {
    const NAME: &'static str = "workspace_disk_export";
    const DESCRIPTION: &'static str =
        "Copy the whole disk of a stopped workspace to the host, as a raw ext4 image.";
    const EFFECT: Effect = Effect::Adds;
    const OUTPUT: &'static str = "output_path: str, bytes_written: int";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let output = call.output(&self.output_path).await?;
        call.progress.tell("the disk is copied");
        Ok(json(&call.server.pyro.disk_export(&self.workspace_id, &output).await.map_err(explain)?))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    workspace_id: String,
    #[serde(default = "super::workspace_path")]
    path: String,
    #[serde(default)]
    recursive: bool,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    #[schemars(range(min = 1, max = 2000))]
    limit: Option<u64>,
}

impl Tool for List {
    const NAME: &'static str = "workspace_disk_list";
    const DESCRIPTION: &'static str = "List a directory anywhere on the disk of a stopped workspace.";
    const EFFECT: Effect = Effect::Reads;
    const OUTPUT: &'static str = "entries: list, next_offset: int?";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let limit = entry_limit(self.limit)?;
        let listed = call.server.pyro.disk_list(&self.workspace_id, &self.path, self.recursive).await;
        let mut listing = json(&listed.map_err(explain)?);
        page_list(listing.as_object_mut().expect("a listing is an object"), "entries", self.offset, limit);
        Ok(listing)
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Read {
    workspace_id: String,
    path: String,
    #[serde(default)]
    #[schemars(range(min = 1, max = 1048576))]
    max_bytes: Option<u64>,
}

impl Tool for Read {
    const NAME: &'static str = "workspace_disk_read";
    const DESCRIPTION: &'static str = "Read a text file anywhere on the disk of a stopped workspace.";
    const EFFECT: Effect = Effect::Reads;
    const OUTPUT: &'static str = "content: str, size_bytes: int, truncated: bool";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let max_bytes = read_limit(self.max_bytes)?;
        Ok(json(
            &call.server.pyro.disk_read(&self.workspace_id, &self.path, max_bytes).await.map_err(explain)?,
        ))
    }
}
