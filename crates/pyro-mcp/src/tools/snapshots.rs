//! Snapshots of a workspace's whole disk.

use super::explain;
use crate::tool::{Call, Effect, Tool, json};
use pyro_core::Problem;
use pyro_core::workspace::EXECUTION_MODE;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

fn baseline() -> String {
    "baseline".to_owned()
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    workspace_id: String,
    snapshot_name: String,
}

impl Tool for Create {
    const NAME: &'static str = "snapshot_create";
    const DESCRIPTION: &'static str = "Keep the whole disk as it is now under a name. Takes no time.";
    const EFFECT: Effect = Effect::Adds;
    const OUTPUT: &'static str = "workspace_id: str, snapshot: obj";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let snapshot = call.server.pyro.snapshot_create(&self.workspace_id, &self.snapshot_name).await;
        let snapshot = snapshot.map_err(explain)?;
        Ok(json!({
            "workspace_id": snapshot.workspace_id,
            "snapshot": snapshot,
            "execution_mode": EXECUTION_MODE,
        }))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct List {
    workspace_id: String,
}

impl Tool for List {
    const NAME: &'static str = "snapshot_list";
    const DESCRIPTION: &'static str = "The snapshots of a workspace: the baseline, then the newest first.";
    const EFFECT: Effect = Effect::Reads;
    const OUTPUT: &'static str = "count: int, snapshots: list";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let snapshots = call.server.pyro.snapshot_list(&self.workspace_id).map_err(explain)?;
        let id = snapshots.first().map_or(self.workspace_id, |one| one.workspace_id.clone());
        Ok(json!({ "workspace_id": id, "count": snapshots.len(), "snapshots": snapshots }))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Delete {
    workspace_id: String,
    snapshot_name: String,
}

impl Tool for Delete {
    const NAME: &'static str = "snapshot_delete";
    const DESCRIPTION: &'static str = "Forget a snapshot; the workspace stays as it is.";
    const EFFECT: Effect = Effect::Changes;
    const OUTPUT: &'static str = "snapshot_name: str, deleted: bool";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let deleted = call.server.pyro.snapshot_delete(&self.workspace_id, &self.snapshot_name).await;
        Ok(json(&deleted.map_err(explain)?))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Reset {
    workspace_id: String,
    #[serde(default = "baseline")]
    snapshot: String,
}

impl Tool for Reset {
    const NAME: &'static str = "workspace_reset";
    const DESCRIPTION: &'static str =
        "Throw away everything since the baseline (or a snapshot) and boot from there.";
    const EFFECT: Effect = Effect::Changes;
    const OUTPUT: &'static str = "workspace_id: str, reset_count: int";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        call.progress.tell("the workspace goes back");
        Ok(json(&call.server.pyro.reset(&self.workspace_id, &self.snapshot).await.map_err(explain)?))
    }
}
