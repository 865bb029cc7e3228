//! A workspace's life.

use super::{environment, explain, pairs};
use crate::tool::{Call, Effect, Tool, json, refused};
use pyro_core::network::{self, NetworkRules, NetworkUpdate, RuleRemoval};
use pyro_core::store::NetworkPolicy;
use pyro_core::workspace::{
    CreateProgress, CreateWorkspace, ForkWorkspace, SecretSpec, SecretValue, SeedFilter, UpdateWorkspace,
};
use pyro_core::{Explain, Problem};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Policy {
    Off,
    Egress,
    #[serde(rename = "egress+published-ports")]
    EgressAndPublishedPorts,
}

impl From<Policy> for NetworkPolicy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Off => Self::Off,
            Policy::Egress => Self::Egress,
            Policy::EgressAndPublishedPorts => Self::EgressAndPublishedPorts,
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Secret {
    name: String,
    /// The value; or file_path.
    #[serde(default)]
    value: Option<String>,
    /// A host file with it.
    #[serde(default)]
    file_path: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    #[serde(default = "super::default_environment")]
    environment: String,
    /// Host directory or tar archive to begin with, instead of the project.
    #[serde(default)]
    seed_path: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    #[schemars(range(min = 1, max = 32))]
    vcpu_count: Option<u64>,
    #[serde(default)]
    #[schemars(range(min = 256))]
    mem_mib: Option<u64>,
    /// Deleted after so long without use; 0 is never.
    #[serde(default)]
    ttl_seconds: Option<u64>,
    /// What may be written to the disk.
    #[serde(default)]
    #[schemars(range(min = 16, max = 65536))]
    disk_mib: Option<u64>,
    /// What the guest reaches without a rule.
    #[serde(default)]
    network_policy: Option<Policy>,
    /// Rules that open more: HOST:PORT, *.DOMAIN, CIDR.
    #[serde(default)]
    allow: Vec<String>,
    /// Rules that open this and nothing else.
    #[serde(default)]
    allow_only: Vec<String>,
    /// Rules that close.
    #[serde(default)]
    deny: Vec<String>,
    #[serde(default)]
    secrets: Vec<Secret>,
}

impl Tool for Create {
    const NAME: &'static str = "workspace_create";
    const DESCRIPTION: &'static str = "Make a workspace: a Linux machine that is kept, with a copy of the project (or \
                                       of seed_path) in /workspace as its baseline. Takes seconds.";
    const EFFECT: Effect = Effect::Adds;
    const OUTPUT: &'static str = "workspace_id: str, state: str";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let name = environment(&call.server, self.environment)?;
        let usual = CreateWorkspace::new(&name);
        let (seed_path, seed_filter, seed_origin) = match (self.seed_path, &call.server.options.project) {
            (Some(path), _) => (Some(call.source(&path).await?), SeedFilter::All, None),
            (None, Some(project)) => {
                (Some(project.root().to_owned()), project.filter(), Some(project.origin().clone()))
            }
            (None, None) => (None, SeedFilter::All, None),
        };
        let mut secrets = Vec::new();
        for secret in self.secrets {
            secrets.push(spec(secret, call).await?);
        }
        let request = CreateWorkspace {
            vcpu_count: self.vcpu_count.unwrap_or(usual.vcpu_count),
            mem_mib: self.mem_mib.unwrap_or(usual.mem_mib),
            ttl_seconds: self.ttl_seconds.unwrap_or(usual.ttl_seconds),
            disk_mib: self.disk_mib,
            network_policy: self.network_policy.map_or(NetworkPolicy::Off, Into::into).to_string(),
            network_rules: rules(&self.allow, &self.allow_only, &self.deny)?,
            seed_path,
            seed_filter,
            seed_origin,
            secrets,
            name: self.name,
            labels: pairs(self.labels),
            ..usual
        };
        let told_client = |progress: CreateProgress| match progress {
            CreateProgress::Phase(phase) => call.progress.tell(format!("workspace: {}", phase.as_str())),
            CreateProgress::Seeded(bytes) => call.progress.bytes("seed", bytes),
        };
        let pulling = Arc::new(call.progress.clone());
        Ok(json(&call.server.pyro.create(&request, pulling, &told_client).await.map_err(explain)?))
    }
}

async fn spec(secret: Secret, call: &Call) -> Result<SecretSpec, Problem> {
    let value = match (secret.value, secret.file_path) {
        (Some(value), None) => SecretValue::Literal(value),
        (None, Some(path)) => SecretValue::File(call.source(&path).await?),
        _ => {
            let message = format!("secret '{}' needs either value or file_path", secret.name);
            return Err(refused("invalid_secret", message));
        }
    };
    Ok(SecretSpec { name: secret.name, value })
}

fn rules(allow: &[String], allow_only: &[String], deny: &[String]) -> Result<NetworkRules, Problem> {
    let parse = |option: &'static str, texts: &[String]| {
        let rule = |text: &String| network::parse_rule(option, text).map_err(|error| error.explain());
        texts.iter().map(rule).collect::<Result<Vec<_>, _>>()
    };
    Ok(NetworkRules {
        allow: parse("allow", allow)?,
        allow_only: parse("allow_only", allow_only)?,
        deny: parse("deny", deny)?,
        ..NetworkRules::default()
    })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct List {}

impl Tool for List {
    const NAME: &'static str = "workspace_list";
    const DESCRIPTION: &'static str = "All workspaces, the one used last first.";
    const EFFECT: Effect = Effect::Reads;
    const OUTPUT: &'static str = "workspaces: list";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        const SHOWN: [&str; 11] = [
            "workspace_id",
            "name",
            "labels",
            "environment",
            "state",
            "created_at",
            "last_activity_at",
            "expires_at",
            "command_count",
            "service_count",
            "running_service_count",
        ];
        let views = call.server.pyro.list().map_err(explain)?;
        let short = |mut view: Value| {
            if let Some(fields) = view.as_object_mut() {
                fields.retain(|key, _| SHOWN.contains(&key.as_str()));
            }
            view
        };
        let workspaces: Vec<Value> = views.iter().map(json).map(short).collect();
        Ok(json!({ "count": workspaces.len(), "workspaces": workspaces }))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Update {
    workspace_id: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    clear_name: bool,
    /// Added or replaced.
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    clear_labels: Vec<String>,
    #[serde(default)]
    network_policy: Option<Policy>,
    #[serde(default)]
    allow: Vec<String>,
    #[serde(default)]
    allow_only: Vec<String>,
    #[serde(default)]
    deny: Vec<String>,
    /// Remove the rules that there are first.
    #[serde(default)]
    clear_rules: bool,
}

impl Tool for Update {
    const NAME: &'static str = "workspace_update";
    const DESCRIPTION: &'static str = "Change a workspace's name and labels.";
    const EFFECT: Effect = Effect::Changes;
    const OUTPUT: &'static str = "workspace_id: str";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let change = UpdateWorkspace {
            name: self.name,
            clear_name: self.clear_name,
            labels: pairs(self.labels),
            clear_labels: self.clear_labels,
            network: NetworkUpdate {
                policy: self.network_policy.map(Into::into),
                removal: if self.clear_rules { RuleRemoval::All } else { RuleRemoval::Keep },
                add: rules(&self.allow, &self.allow_only, &self.deny)?,
                ..NetworkUpdate::default()
            },
            ..UpdateWorkspace::default()
        };
        Ok(json(&call.server.pyro.update(&self.workspace_id, &change).await.map_err(explain)?))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Status {
    workspace_id: String,
}

impl Tool for Status {
    const NAME: &'static str = "workspace_status";
    const DESCRIPTION: &'static str = "One workspace: state, sizes, seed, last command, expiry.";
    const EFFECT: Effect = Effect::Reads;
    const OUTPUT: &'static str = "workspace_id: str, state: str";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        Ok(json(&call.server.pyro.status(&self.workspace_id).await.map_err(explain)?))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Start {
    workspace_id: String,
}

impl Tool for Start {
    const NAME: &'static str = "workspace_start";
    const DESCRIPTION: &'static str = "Boot a stopped workspace from its disk.";
    const EFFECT: Effect = Effect::Adds;
    const OUTPUT: &'static str = "workspace_id: str, state: str";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        call.progress.tell("the machine boots");
        Ok(json(&call.server.pyro.start(&self.workspace_id).await.map_err(explain)?))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Stop {
    workspace_id: String,
}

impl Tool for Stop {
    const NAME: &'static str = "workspace_stop";
    const DESCRIPTION: &'static str =
        "End a workspace's machine, with its commands, shells and services; the disk stays.";
    const EFFECT: Effect = Effect::Changes;
    const OUTPUT: &'static str = "workspace_id: str, state: str";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        Ok(json(&call.server.pyro.stop(&self.workspace_id).await.map_err(explain)?))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Delete {
    workspace_id: String,
}

impl Tool for Delete {
    const NAME: &'static str = "workspace_delete";
    const DESCRIPTION: &'static str =
        "Delete a workspace with everything in it. Export first what is to stay.";
    const EFFECT: Effect = Effect::Changes;
    const OUTPUT: &'static str = "deleted: bool";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let id = call.server.pyro.delete(&self.workspace_id).await.map_err(explain)?;
        Ok(json!({ "workspace_id": id.to_string(), "deleted": true, "reason": "explicit_delete" }))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Fork {
    workspace_id: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// Begin there instead of now.
    #[serde(default)]
    snapshot: Option<String>,
}

impl Tool for Fork {
    const NAME: &'static str = "workspace_fork";
    const DESCRIPTION: &'static str =
        "Copy a workspace with its whole disk, as it is now or at a snapshot, to try something beside it.";
    const EFFECT: Effect = Effect::Adds;
    const OUTPUT: &'static str = "workspace_id: str, state: str";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let request = ForkWorkspace { name: self.name, labels: pairs(self.labels), snapshot: self.snapshot };
        call.progress.tell("the copy boots");
        Ok(json(&call.server.pyro.fork(&self.workspace_id, &request).await.map_err(explain)?))
    }
}
