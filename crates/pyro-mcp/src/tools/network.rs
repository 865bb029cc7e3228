//! What a workspace's guest reached, and what it may reach.

use super::explain;
use crate::bounded::entry_limit;
use crate::tool::{Call, Effect, Tool, json};
use pyro_core::Problem;
use pyro_core::workspace::{LogTail, NetworkRecords};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    workspace_id: String,
    /// Only what was denied.
    #[serde(default)]
    denied: bool,
    /// How many of the last.
    #[serde(default)]
    #[schemars(range(min = 1, max = 2000))]
    limit: Option<u64>,
}

impl Tool for Log {
    const NAME: &'static str = "workspace_network_log";
    const DESCRIPTION: &'static str =
        "Where the guest's connections went and what was denied, with the rule that would allow it.";
    const EFFECT: Effect = Effect::Reads;
    const OUTPUT: &'static str = "flows: list, truncated: bool";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let records = if self.denied { NetworkRecords::Denied } else { NetworkRecords::All };
        let tail = LogTail::Lines(entry_limit(self.limit)?);
        Ok(json(&call.server.pyro.network_log(&self.workspace_id, records, tail).await.map_err(explain)?))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Check {
    workspace_id: String,
    /// URL or HOST:PORT.
    destination: String,
}

impl Tool for Check {
    const NAME: &'static str = "workspace_network_check";
    const DESCRIPTION: &'static str =
        "Whether the workspace's policy lets its guest reach a destination, and why.";
    const EFFECT: Effect = Effect::Reads;
    const OUTPUT: &'static str = "";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let (server, id, destination) = (call.server.clone(), self.workspace_id, self.destination);
        // It asks the host's resolver, which may take its time.
        let check = tokio::task::spawn_blocking(move || server.pyro.network_check(&id, &destination));
        let checked = check.await.expect("a check does not panic");
        Ok(json(&checked.map_err(explain)?))
    }
}
