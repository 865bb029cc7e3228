//! What has become of a workspace.

use super::explain;
use crate::bounded::{entry_limit, page, page_list, text_limit};
use crate::tool::{Call, Effect, Tool, json};
use pyro_core::Problem;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Diff {
    workspace_id: String,
    /// Byte of the patch to begin at.
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    #[schemars(range(min = 1, max = 262144))]
    max_output_bytes: Option<u64>,
}

impl Tool for Diff {
    const NAME: &'static str = "workspace_diff";
    const DESCRIPTION: &'static str =
        "What has changed in /workspace since the baseline, as a patch for git apply.";
    const EFFECT: Effect = Effect::Reads;
    const OUTPUT: &'static str = "changed: bool, patch: str, next_offset: int?";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let limit = text_limit(self.max_output_bytes)?;
        let diff = call.server.pyro.diff(&self.workspace_id, "baseline").await.map_err(explain)?;
        let patch = String::from_utf8_lossy(&diff.patch);
        let part = page(&patch, self.offset, limit);
        // Each entry's own patch is in the whole one.
        let entries: Vec<Value> = diff
            .entries
            .iter()
            .map(|entry| {
                json!({ "path": entry.path, "status": entry.status, "artifact_type": entry.artifact_type })
            })
            .collect();
        let mut result = json!({ "entries": entries });
        let fields = result.as_object_mut().expect("it was made as one");
        page_list(fields, "entries", 0, entry_limit(None)?);
        fields.extend([
            ("workspace_id".to_owned(), json!(diff.workspace_id)),
            ("changed".to_owned(), json!(diff.changed)),
            ("summary".to_owned(), json(&diff.summary)),
            ("patch".to_owned(), json!(part.text)),
            ("patch_bytes".to_owned(), json!(patch.len())),
        ]);
        if let Some(next) = part.next_offset {
            fields.insert("next_offset".to_owned(), json!(next));
        }
        Ok(result)
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Summary {
    workspace_id: String,
}

impl Tool for Summary {
    const NAME: &'static str = "workspace_summary";
    const DESCRIPTION: &'static str =
        "What was done since the last reset: commands, failures, edits, exports.";
    const EFFECT: Effect = Effect::Reads;
    const OUTPUT: &'static str = "events: list";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        Ok(json(&call.server.pyro.summary(&self.workspace_id).map_err(explain)?))
    }
}
