//! One-shot machines in several steps, and the environments that they come from. A machine belongs to the server that
//! made it and ends with it.

use super::run::{machine_request, policy, result, run, start};
use super::{environment, explain, shell_command};
use crate::bounded::text_limit;
use crate::limits::MACHINES;
use crate::tool::{Call, Effect, Tool, refused};
use pyro_core::authorities::Authorities;
use pyro_core::machine::{Machine, MachineId, MachineRequest};
use pyro_core::network::{GATEWAY_V4, GUEST_V4};
use pyro_core::workspace::EXECUTION_MODE;
use pyro_core::{Problem, environments};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Mutex as AsyncMutex;

/// The machines of one server.
#[derive(Default)]
pub(crate) struct Machines(Mutex<BTreeMap<String, Arc<AsyncMutex<Vm>>>>);

/// ```text
/// created --vm_start--> started --vm_stop, death, expiry--> stopped --vm_delete--> (gone)
///                          \--vm_exec--> (gone)
/// ```
enum Vm {
    Created(Facts),
    Started { facts: Facts, machine: Box<Machine>, installed: Box<environments::Installed> },
    Stopped(Facts),
}

#[derive(Clone)]
struct Facts {
    id: String,
    environment: String,
    environment_version: Option<String>,
    request: MachineRequest,
    created_at: f64,
}

impl Machines {
    fn all(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<AsyncMutex<Vm>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, id: &str) -> Result<Arc<AsyncMutex<Vm>>, Problem> {
        self.all().get(id).cloned().ok_or_else(|| refused("no_machine", format!("vm '{id}' does not exist")))
    }

    fn add(&self, facts: Facts) -> Result<(), Problem> {
        let mut all = self.all();
        if all.len() >= MACHINES {
            let message = format!("max active VMs reached ({MACHINES}); delete old VMs first");
            return Err(refused("too_many_machines", message));
        }
        all.insert(facts.id.clone(), Arc::new(AsyncMutex::new(Vm::Created(facts))));
        Ok(())
    }

    fn remove(&self, id: &str) {
        self.all().remove(id);
    }

    /// Ends all of them.
    pub(crate) async fn stop_all(&self) {
        let all: Vec<_> = std::mem::take(&mut *self.all()).into_values().collect();
        for vm in all {
            stop(&mut *vm.lock().await).await;
        }
    }
}

/// Ends the machine, if it runs.
async fn stop(vm: &mut Vm) {
    let facts = vm.facts().clone();
    if let Vm::Started { machine, .. } = std::mem::replace(vm, Vm::Stopped(facts)) {
        // One that is gone is what was wanted.
        let _ = machine.stop().await;
    }
}

impl Vm {
    fn facts(&self) -> &Facts {
        match self {
            Self::Created(facts) | Self::Started { facts, .. } | Self::Stopped(facts) => facts,
        }
    }

    fn state(&self) -> &'static str {
        match self {
            Self::Created(_) => "created",
            Self::Started { .. } => "started",
            Self::Stopped(_) => "stopped",
        }
    }

    /// Notices a machine that has ended by itself.
    async fn look(&mut self) {
        if let Self::Started { machine, .. } = self
            && !machine.is_running()
        {
            stop(self).await;
        }
    }

    fn view(&self) -> Value {
        let facts = self.facts();
        let has_network = facts.request.network.is_some();
        #[allow(clippy::cast_precision_loss, reason = "an hour in seconds")]
        let expires_at = facts.created_at + facts.request.ttl_seconds as f64;
        json!({
            "vm_id": facts.id,
            "environment": facts.environment,
            "environment_version": facts.environment_version,
            "vcpu_count": facts.request.vcpu_count,
            "mem_mib": facts.request.mem_mib,
            "ttl_seconds": facts.request.ttl_seconds,
            "created_at": facts.created_at,
            "expires_at": expires_at,
            "state": self.state(),
            "network_enabled": has_network,
            "guest_ip": has_network.then(|| GUEST_V4.to_string()),
            "execution_mode": if matches!(self, Self::Created(_)) { "pending" } else { EXECUTION_MODE },
        })
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListEnvironments {}

impl Tool for ListEnvironments {
    const NAME: &'static str = "vm_list_environments";
    const DESCRIPTION: &'static str =
        "The environments that machines can be made of, and whether they are installed.";
    const EFFECT: Effect = Effect::Reads;
    const OUTPUT: &'static str = "environments: list";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let known = environments::list(&call.server.config);
        Ok(json!({ "catalog_version": environments::catalog_version(), "environments": known }))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    #[serde(default = "super::default_environment")]
    environment: String,
    #[serde(default)]
    #[schemars(range(min = 1, max = 32))]
    vcpu_count: Option<u64>,
    #[serde(default)]
    #[schemars(range(min = 256))]
    mem_mib: Option<u64>,
    #[serde(default)]
    #[schemars(range(min = 60, max = 3600))]
    ttl_seconds: Option<u64>,
    /// Reach the public internet.
    #[serde(default)]
    network: bool,
    /// Rules that open more, as HOST:PORT.
    #[serde(default)]
    allow: Vec<String>,
}

impl Tool for Create {
    const NAME: &'static str = "vm_create";
    const DESCRIPTION: &'static str =
        "Describe a one-shot machine for vm_start and vm_exec. vm_run does all three at once.";
    const EFFECT: Effect = Effect::Adds;
    const OUTPUT: &'static str = "vm_id: str, state: str";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let request = MachineRequest {
            network: policy(self.network, &self.allow)?,
            ..machine_request(self.vcpu_count, self.mem_mib, self.ttl_seconds)
        };
        request.check().map_err(explain)?;
        let facts = Facts {
            id: MachineId::random().to_string(),
            environment: environment(&call.server, self.environment)?,
            environment_version: None,
            request,
            created_at: now(),
        };
        let view = Vm::Created(facts.clone()).view();
        call.server.machines.add(facts)?;
        Ok(view)
    }
}

/// A machine of this server.
macro_rules! addressed {
    ($name:ident) => {
        #[derive(Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub(super) struct $name {
            vm_id: String,
        }
    };
}

addressed!(Start);

impl Tool for Start {
    const NAME: &'static str = "vm_start";
    const DESCRIPTION: &'static str = "Boot a machine that vm_create described.";
    const EFFECT: Effect = Effect::Adds;
    const OUTPUT: &'static str = "vm_id: str, state: str";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let vm = call.server.machines.get(&self.vm_id)?;
        let mut vm = vm.lock().await;
        let Vm::Created(facts) = &*vm else {
            let message = format!("vm {} cannot be started from state '{}'", self.vm_id, vm.state());
            return Err(refused("wrong_state", message));
        };
        let mut facts = facts.clone();
        let (machine, installed) = start(call, &facts.environment, &facts.request).await?;
        facts.environment_version = Some(installed.version.clone());
        facts.created_at = now();
        *vm = Vm::Started { facts, machine: Box::new(machine), installed: Box::new(installed) };
        Ok(vm.view())
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Exec {
    vm_id: String,
    /// Shell text.
    command: String,
    #[serde(default)]
    #[schemars(range(min = 1, max = 86400))]
    timeout_seconds: Option<u64>,
    #[serde(default)]
    #[schemars(range(min = 1, max = 262144))]
    max_output_bytes: Option<u64>,
}

impl Tool for Exec {
    const NAME: &'static str = "vm_exec";
    const DESCRIPTION: &'static str = "Run a command in a started machine, then delete the machine.";
    const EFFECT: Effect = Effect::Changes;
    const OUTPUT: &'static str = "exit_code: int, stdout: str, stderr: str";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let limit = text_limit(self.max_output_bytes)?;
        let command = shell_command(&self.command, self.timeout_seconds)?;
        let vm = call.server.machines.get(&self.vm_id)?;
        let mut vm = vm.lock().await;
        vm.look().await;
        let Vm::Started { facts, machine, installed } = &mut *vm else {
            let message = format!("vm {} must be in 'started' state before execution", self.vm_id);
            return Err(refused("wrong_state", message));
        };
        call.progress.tell("the command runs");
        let exec = environments::with_image_defaults(installed, &Authorities::default(), command.exec);
        let ran = run(machine, &exec, call).await;
        let denied = machine.network_denials().await;
        let facts = facts.clone();
        stop(&mut vm).await;
        call.server.machines.remove(&facts.id);
        let (exit, captured) = ran?;
        let mut result = result(&facts.id, &exit, captured, limit);
        result.extend([
            ("environment".to_owned(), json!(facts.environment)),
            ("environment_version".to_owned(), json!(facts.environment_version)),
            ("command".to_owned(), json!(self.command)),
            ("network_denials".to_owned(), json!(denied.denials)),
        ]);
        Ok(Value::Object(result))
    }
}

addressed!(Stop);

impl Tool for Stop {
    const NAME: &'static str = "vm_stop";
    const DESCRIPTION: &'static str = "End a machine; it cannot be started again.";
    const EFFECT: Effect = Effect::Changes;
    const OUTPUT: &'static str = "vm_id: str, state: str";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let vm = call.server.machines.get(&self.vm_id)?;
        let mut vm = vm.lock().await;
        stop(&mut vm).await;
        Ok(vm.view())
    }
}

addressed!(Status);

impl Tool for Status {
    const NAME: &'static str = "vm_status";
    const DESCRIPTION: &'static str = "One machine of this server.";
    const EFFECT: Effect = Effect::Reads;
    const OUTPUT: &'static str = "vm_id: str, state: str";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let vm = call.server.machines.get(&self.vm_id)?;
        let mut vm = vm.lock().await;
        vm.look().await;
        Ok(vm.view())
    }
}

addressed!(NetworkState);

impl Tool for NetworkState {
    const NAME: &'static str = "vm_network_info";
    const DESCRIPTION: &'static str = "A machine's addresses, where it has a network.";
    const EFFECT: Effect = Effect::Reads;
    const OUTPUT: &'static str = "vm_id: str, network_enabled: bool";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let vm = call.server.machines.get(&self.vm_id)?;
        let vm = vm.lock().await;
        let id = &vm.facts().id;
        Ok(match vm.facts().request.network {
            Some(_) => json!({
                "vm_id": id,
                "network_enabled": true,
                "guest_ip": GUEST_V4.to_string(),
                "gateway_ip": GATEWAY_V4.to_string(),
                "dns_servers": [GATEWAY_V4.to_string()],
                "outbound_connectivity_expected": true,
            }),
            None => json!({
                "vm_id": id,
                "network_enabled": false,
                "outbound_connectivity_expected": false,
                "reason": "the machine was made without a network",
            }),
        })
    }
}

addressed!(Delete);

impl Tool for Delete {
    const NAME: &'static str = "vm_delete";
    const DESCRIPTION: &'static str = "End a machine and forget it.";
    const EFFECT: Effect = Effect::Changes;
    const OUTPUT: &'static str = "vm_id: str, deleted: bool";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let vm = call.server.machines.get(&self.vm_id)?;
        stop(&mut *vm.lock().await).await;
        call.server.machines.remove(&self.vm_id);
        Ok(json!({ "vm_id": self.vm_id, "deleted": true, "reason": "explicit_delete" }))
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReapExpired {}

impl Tool for ReapExpired {
    const NAME: &'static str = "vm_reap_expired";
    const DESCRIPTION: &'static str = "Forget machines of this server whose time to live is over.";
    const EFFECT: Effect = Effect::Changes;
    const OUTPUT: &'static str = "deleted_vm_ids: list, count: int";

    async fn call(self, call: &Call) -> Result<Value, Problem> {
        let all: Vec<_> = call.server.machines.all().clone().into_iter().collect();
        let mut deleted = Vec::new();
        for (id, vm) in all {
            let mut vm = vm.lock().await;
            vm.look().await;
            if matches!(&*vm, Vm::Stopped(_)) {
                call.server.machines.remove(&id);
                deleted.push(id);
            }
        }
        Ok(json!({ "count": deleted.len(), "deleted_vm_ids": deleted }))
    }
}
