//! Workspaces as front ends show them. Times are seconds since the Unix epoch.

use super::{EXECUTION_MODE, Pyro, WorkspaceError, garbage};
use crate::authorities::AuthoritySource;
use crate::network::NetworkRules;
use crate::store::{NetworkPolicy, SeedOrigin, StoreError, Workspace, WorkspaceId, WorkspaceState};
use pyro_net::guest::GUEST_V4;
use serde::Serialize;
use std::collections::BTreeMap;

/// Where every workspace's tree is in its guest.
pub const WORKSPACE_PATH: &str = "/workspace";

/// One workspace, as it is shown.
#[derive(Clone, Debug, Serialize)]
pub struct WorkspaceView {
    /// 12 hexadecimal digits.
    pub workspace_id: String,
    /// What the caller calls it.
    pub name: Option<String>,
    /// The caller's labels.
    pub labels: BTreeMap<String, String>,
    /// What it was made from.
    pub environment: String,
    /// That one's version.
    pub environment_version: Option<String>,
    /// Virtual CPUs.
    pub vcpu_count: u64,
    /// Memory, MiB.
    pub mem_mib: u64,
    /// What the guest may write to its disk, MiB; `None` is the disk's size.
    pub disk_mib: Option<u64>,
    /// Seconds without activity after which it is deleted; 0 is never.
    pub ttl_seconds: u64,
    /// When it was made.
    pub created_at: f64,
    /// When it was last worked with.
    pub last_activity_at: f64,
    /// When it is deleted unless it is worked with before.
    pub expires_at: Option<f64>,
    /// `created`, `started` or `stopped`.
    pub state: &'static str,
    /// Why it is stopped, where that was not asked for.
    pub stop_reason: Option<String>,
    /// `off`, `egress` or `egress+published-ports`.
    pub network_policy: String,
    /// What refines that.
    pub network_rules: NetworkRules,
    /// Whether the guest's connections to names go through the host's proxy.
    pub host_proxy: bool,
    /// Certificate authorities that the guest trusts beside its image's own, by where they came from.
    pub certificate_authorities: Vec<AuthoritySource>,
    /// Whether its machine gets a network interface.
    pub network_enabled: bool,
    /// The guest's address.
    pub guest_ip: Option<String>,
    /// `guest_vsock`, or `pending` while it is made.
    pub execution_mode: &'static str,
    /// `/workspace`.
    pub workspace_path: &'static str,
    /// What it began with.
    pub workspace_seed: SeedView,
    /// Its secrets, without their values.
    pub secrets: Vec<SecretFacts>,
    /// Commands run since it was made or last reset.
    pub command_count: u64,
    /// The last of them that has ended.
    pub last_command: Option<LastCommand>,
    /// How often it was reset.
    pub reset_count: u64,
    /// When it was reset last.
    pub last_reset_at: Option<f64>,
    /// Services.
    pub service_count: u64,
    /// Services that run.
    pub running_service_count: u64,
    /// Shells that are open.
    pub shell_count: u64,
    /// What runs its machine, and what confines it; known while it is started and asked for alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<crate::supervisor::protocol::Started>,
}

/// What a workspace began with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SeedView {
    /// `empty`, `directory`, `tar_archive` or `snapshot`.
    pub mode: String,
    /// Where it came from.
    pub seed_path: Option<String>,
    /// Where it went.
    pub destination: String,
    /// Files, directories and links.
    pub entry_count: u64,
    /// Bytes of file contents.
    pub bytes_written: u64,
    /// Where it is from, as `origin_kind` and `origin_ref`, where its maker knew more than the path.
    #[serde(flatten)]
    pub origin: Option<SeedOrigin>,
}

/// A secret without its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SecretFacts {
    /// Its name, and that of its file in `/run/pyro-secrets`.
    pub name: String,
    /// `literal` or `file`.
    pub source_kind: String,
}

/// A command that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LastCommand {
    /// Its number, from 1.
    pub sequence: u64,
    /// As a shell would take it.
    pub command: String,
    /// Where it ran.
    pub cwd: String,
    /// How it ended; `None` when that was never told.
    pub exit_code: Option<i32>,
    /// Milliseconds that it ran.
    pub duration_ms: Option<u64>,
    /// `guest_vsock`.
    pub execution_mode: &'static str,
}

impl Pyro {
    /// Every workspace, the one worked with last first. One whose record is damaged is left out; `pyro fsck`
    /// tells of it.
    pub fn list(&self) -> Result<Vec<WorkspaceView>, WorkspaceError> {
        let readable = self.store.list()?.into_iter().flatten();
        let there = readable.filter(|workspace| workspace.state != WorkspaceState::Deleting);
        let views = there.map(|workspace| self.view_of(workspace));
        // Others may delete some meanwhile.
        let is_there = |view: &Result<_, WorkspaceError>| {
            !matches!(view, Err(WorkspaceError::Store(StoreError::NoWorkspace(_) | StoreError::Expired(_))))
        };
        views.filter(is_there).collect()
    }

    /// One workspace, with what runs its machine.
    pub async fn status(&self, address: &str) -> Result<WorkspaceView, WorkspaceError> {
        let id = self.resolve(address)?;
        let machine = match self.link(id)? {
            None => None,
            Some(link) => link.describe().await?,
        };
        if machine.is_none() {
            // It may have ended after what died was settled.
            garbage::settle_machine(&self.store, &self.places, id)?;
        }
        Ok(WorkspaceView { machine, ..self.view(id)? })
    }

    pub(super) fn view(&self, id: WorkspaceId) -> Result<WorkspaceView, WorkspaceError> {
        self.view_of(self.store.get(id)?)
    }

    fn view_of(&self, workspace: Workspace) -> Result<WorkspaceView, WorkspaceError> {
        let last_command = self.store.last_command(workspace.id)?.map(|command| LastCommand {
            sequence: command.key.sequence,
            command: command.command,
            cwd: command.cwd,
            exit_code: command.exit_code,
            duration_ms: command.duration_ms,
            execution_mode: EXECUTION_MODE,
        });
        let has_network = workspace.network_policy != NetworkPolicy::Off;
        let command_count = workspace.command_count();
        let services = self.store.service_counts(workspace.id)?;
        Ok(WorkspaceView {
            workspace_id: workspace.id.to_string(),
            name: workspace.name,
            labels: workspace.labels,
            environment: workspace.environment,
            environment_version: workspace.environment_version,
            vcpu_count: workspace.vcpu_count,
            mem_mib: workspace.mem_mib,
            disk_mib: workspace.disk_mib,
            ttl_seconds: workspace.ttl_seconds,
            created_at: seconds(workspace.created_at),
            last_activity_at: seconds(workspace.last_activity_at),
            expires_at: workspace.expires_at.map(seconds),
            state: match workspace.state {
                WorkspaceState::Creating => "created",
                WorkspaceState::Started => "started",
                WorkspaceState::Stopped | WorkspaceState::Deleting => "stopped",
            },
            stop_reason: workspace.stop_reason,
            network_policy: workspace.network_policy.to_string(),
            network_rules: workspace.network_rules,
            host_proxy: workspace.uses_host_proxy,
            certificate_authorities: workspace.authorities,
            network_enabled: has_network,
            guest_ip: has_network.then(|| GUEST_V4.to_string()),
            execution_mode: match workspace.state {
                WorkspaceState::Creating => "pending",
                WorkspaceState::Started | WorkspaceState::Stopped | WorkspaceState::Deleting => {
                    EXECUTION_MODE
                }
            },
            workspace_path: WORKSPACE_PATH,
            workspace_seed: SeedView {
                mode: workspace.seed.mode.to_string(),
                seed_path: workspace.seed.seed_path.map(|path| path.display().to_string()),
                destination: workspace.seed.destination,
                entry_count: workspace.seed.entry_count,
                bytes_written: workspace.seed.bytes_written,
                origin: workspace.seed.origin,
            },
            secrets: workspace
                .secrets
                .into_iter()
                .map(|secret| SecretFacts { name: secret.name, source_kind: secret.source_kind.to_string() })
                .collect(),
            command_count,
            last_command,
            reset_count: workspace.reset_count,
            last_reset_at: workspace.last_reset_at.map(seconds),
            service_count: services.all,
            running_service_count: services.running,
            shell_count: self.store.shells(workspace.id)?.len() as u64,
            machine: None,
        })
    }
}

/// Milliseconds as seconds.
pub(super) fn seconds(millis: i64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "a moment in milliseconds has 41 bits")]
    let millis = millis as f64;
    millis / 1000.0
}
