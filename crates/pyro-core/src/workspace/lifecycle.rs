//! Starting, stopping, renaming and deleting.

use super::{Pyro, WorkspaceError, WorkspaceView, garbage};
use crate::faults::FaultPoint;
use crate::limits::{MACHINE_LOCK_DEADLINE, OPERATION_LOCK_DEADLINE, SUPERVISOR_DEADLINE};
use crate::machine::{self, EngineChoice, Link, MachineError, MachineRequest, unexpected};
use crate::network::{self, NetworkUpdate};
use crate::places::{FileLock, Hold, create_private_dir};
use crate::store::{
    self, Departure, NameChange, NetworkPolicy, StoreError, WorkspaceId, WorkspaceState, WorkspaceUpdate,
};
use crate::supervisor::protocol::{Answer, DiskRequest, EndCause, LayerFiles, Life, Request, Stop};
use serde::Serialize;
use std::io;

/// Changes of a workspace's name and labels, and of what its guest may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpdateWorkspace {
    /// A new name.
    pub name: Option<String>,
    /// Take the name away.
    pub clear_name: bool,
    /// Labels to add or replace.
    pub labels: Vec<(String, String)>,
    /// Keys of labels to remove.
    pub clear_labels: Vec<String>,
    /// Another network policy, and rules.
    pub network: NetworkUpdate,
}

/// When a change of what a guest may reach takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkEffect {
    /// It has: what is denied now has ended.
    Now,
    /// With the machine's next start: the one that runs has no interface, or keeps one that reaches nothing.
    NextStart,
}

/// A workspace that was changed.
#[derive(Clone, Debug, Serialize)]
pub struct UpdatedWorkspace {
    /// As it is now.
    #[serde(flatten)]
    pub workspace: WorkspaceView,
    /// When the change of its network takes effect, where there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_effect: Option<NetworkEffect>,
}

impl Pyro {
    /// Changes name, labels and what the guest may reach. A machine that runs obeys before this returns, but it
    /// gets no new interface and keeps the one it has.
    pub async fn update(
        &self,
        address: &str,
        change: &UpdateWorkspace,
    ) -> Result<UpdatedWorkspace, WorkspaceError> {
        let id = self.resolve(address)?;
        let update = WorkspaceUpdate {
            name: NameChange::from_request(change.name.clone(), change.clear_name)?,
            labels: change.labels.iter().cloned().collect(),
            clear_labels: change.clear_labels.iter().cloned().collect(),
            network: change.network.clone(),
        };
        if update.network.is_empty() {
            self.store.update(id, &update, super::now())?;
            return Ok(UpdatedWorkspace { workspace: self.view(id)?, network_effect: None });
        }
        // Nobody starts the machine meanwhile with what was on record before.
        let _held = self.operate(id).await?;
        let in_force = match self.link(id)? {
            Some(link) => {
                let request = Request::Update(Box::new(update));
                let asked = async { Ok(link.ask(&request, SUPERVISOR_DEADLINE).await?) };
                match self.during(id, &link, asked).await? {
                    Answer::Updated { in_force } => {
                        self.places.reach(FaultPoint::UpdateAnswered);
                        in_force
                    }
                    other => return Err(unexpected(other).into()),
                }
            }
            None => {
                self.store.update(id, &update, super::now())?;
                false
            }
        };
        let effect = if in_force { NetworkEffect::Now } else { NetworkEffect::NextStart };
        Ok(UpdatedWorkspace { workspace: self.view(id)?, network_effect: Some(effect) })
    }

    /// Boots the workspace's machine from its disk; does nothing where it runs.
    pub async fn start(&self, address: &str) -> Result<WorkspaceView, WorkspaceError> {
        let id = self.resolve(address)?;
        let _held = self.operate(id).await?;
        let is_running = match self.link(id)? {
            Some(link) => link.describe().await?.is_some(),
            None => false,
        };
        if !is_running {
            self.boot(id, None, false).await?;
            self.places.reach(FaultPoint::StartBooted);
            self.record(id, store::EventKind::Start, &serde_json::json!({}));
        }
        self.view(id)
    }

    /// Lets the guest write everything to its disk and ends the machine; does nothing where none runs.
    pub async fn stop(&self, address: &str) -> Result<WorkspaceView, WorkspaceError> {
        let id = self.resolve(address)?;
        let _held = self.operate(id).await?;
        if let Some(link) = self.link(id)? {
            link.stop(Stop::PowerOff).await?;
            // A supervisor that was killed meanwhile has not said so.
            let path = self.places.machine_lock(id);
            let gone = FileLock::take_within(&path, Hold::Shared, MACHINE_LOCK_DEADLINE).await;
            gone.map_err(WorkspaceError::state("lock", path))?;
            garbage::note_end(&self.store, &self.places, id)?;
            self.places.reach(FaultPoint::StopAnswered);
            self.record(id, store::EventKind::Stop, &serde_json::json!({}));
        }
        self.view(id)
    }

    /// Ends the machine at once and removes the workspace with everything that is its alone.
    pub async fn delete(&self, address: &str) -> Result<WorkspaceId, WorkspaceError> {
        let id = self.resolve(address)?;
        let _held = self.operate(id).await?;
        if let Some(link) = self.link(id)? {
            link.stop(Stop::Kill).await?;
        }
        self.places.reach(FaultPoint::DeleteStopped);
        let from = [WorkspaceState::Started, WorkspaceState::Stopped, WorkspaceState::Deleting];
        self.store.set_state(id, &from, WorkspaceState::Deleting, None, super::now())?;
        self.places.reach(FaultPoint::DeleteMarked);
        garbage::remove(&self.store, &self.places, id, Departure::Deleted)?;
        Ok(id)
    }

    /// Keeps everybody else from changing the workspace's life until the lock is dropped.
    pub(super) async fn operate(&self, id: WorkspaceId) -> Result<FileLock, WorkspaceError> {
        self.hold(id, Hold::Exclusive).await
    }

    /// Keeps a workspace as it is while its disk is read from outside; `None` where its machine runs.
    pub(super) async fn hold_at_rest(&self, id: WorkspaceId) -> Result<Option<FileLock>, WorkspaceError> {
        if self.link(id)?.is_some() {
            return Ok(None);
        }
        let held = self.hold(id, Hold::Shared).await?;
        // Whoever held it before may have started the machine.
        if self.link(id)?.is_some() {
            return Ok(None);
        }
        self.await_top(id, Hold::Shared).await?;
        Ok(Some(held))
    }

    async fn hold(&self, id: WorkspaceId, hold: Hold) -> Result<FileLock, WorkspaceError> {
        let path = self.places.operation_lock(id);
        let take = || FileLock::take_within(&path, hold, OPERATION_LOCK_DEADLINE);
        let mut taken = take().await;
        if taken.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            self.not_going(id)?;
            // It holds nothing that cannot be made again.
            let dir = self.places.workspace(id);
            create_private_dir(&dir).map_err(WorkspaceError::state("make", dir))?;
            taken = take().await;
        }
        taken.map_err(WorkspaceError::state("lock", path))?.ok_or(WorkspaceError::Busy(id))
    }

    /// Fails for a workspace that is gone, or whose directory is gone because it is being removed.
    pub(super) fn not_going(&self, id: WorkspaceId) -> Result<(), StoreError> {
        let workspace = self.store.get(id)?;
        match workspace.state {
            WorkspaceState::Started | WorkspaceState::Stopped => Ok(()),
            WorkspaceState::Creating | WorkspaceState::Deleting => {
                Err(match workspace.stop_reason.as_deref() == Some(Departure::Expired.as_str()) {
                    true => StoreError::Expired(id.to_string()),
                    false => StoreError::NoWorkspace(id.to_string()),
                })
            }
        }
    }

    /// A connection to the workspace's supervisor, where there is one.
    pub(super) fn link(&self, id: WorkspaceId) -> Result<Option<Link>, WorkspaceError> {
        let dir = self.places.workspace(id);
        Link::open(&dir).map_err(WorkspaceError::state("connect to the supervisor in", dir))
    }

    /// The same, for what needs a running machine.
    pub(super) fn started(&self, id: WorkspaceId, operation: &'static str) -> Result<Link, WorkspaceError> {
        self.link(id)?.ok_or(WorkspaceError::NotStarted { id, operation })
    }

    /// Does `work`, which needs the machine behind `link`. Where that ends meanwhile, it tells so, and not how
    /// the work came to notice.
    pub(super) async fn during<T>(
        &self,
        id: WorkspaceId,
        link: &Link,
        work: impl Future<Output = Result<T, WorkspaceError>>,
    ) -> Result<T, WorkspaceError> {
        match work.await {
            Err(error) if error.is_disconnection() => Err(self.told(id, link.why_disconnected().await)),
            Err(WorkspaceError::Machine(error)) => Err(self.told(id, error)),
            done => done,
        }
    }

    /// The error of a workspace whose machine ended.
    pub(super) fn told(&self, id: WorkspaceId, error: MachineError) -> WorkspaceError {
        let MachineError::Ended(ended) = &error else { return error.into() };
        match (&ended.cause, self.store.get(id)) {
            (EndCause::Stopped | EndCause::Expired, Err(gone)) => gone.into(),
            (EndCause::Stopped, Ok(_)) => WorkspaceError::Stopped(id),
            (EndCause::Expired | EndCause::Machine(_) | EndCause::Failed(_), _) => error.into(),
        }
    }

    /// Boots the machine of a workspace that has none. The caller holds its operation lock.
    pub(super) async fn boot(
        &self,
        id: WorkspaceId,
        engine: Option<EngineChoice>,
        creating: bool,
    ) -> Result<Link, WorkspaceError> {
        self.settle_top(id).await?;
        // Layers stay as they are until the machine has opened them.
        let _opening = self.keep_layers()?;
        let workspace = self.store.get(id)?;
        let request = MachineRequest {
            vcpu_count: workspace.vcpu_count,
            mem_mib: workspace.mem_mib,
            disk_mib: workspace.disk_mib,
            engine,
            network: network_of(&workspace),
            ..MachineRequest::default()
        };
        let disk = DiskRequest {
            base: self.places.base_of(&workspace),
            limit_bytes: workspace.disk_mib.map(|mib| mib << 20),
            layers: Some(self.layer_files(workspace.top_layer)?),
        };
        let life = Life::Workspace { id: id.to_string(), creating };
        let kernel = self.kernel(&workspace);
        let start = machine::start_request(&self.config, &id.to_string(), kernel, &request, disk, life)?;
        let (link, _, _supervisor) = machine::boot(&self.config, start).await?;
        Ok(link)
    }

    /// Paths of a disk's layers.
    pub(super) fn layer_files(&self, top: store::LayerId) -> Result<LayerFiles, WorkspaceError> {
        let chain = self.store.chain(top)?;
        let sealed = chain.iter().filter(|layer| layer.id != top);
        let sealed = sealed.map(|layer| self.places.layer(layer.id)).collect();
        Ok(LayerFiles { sealed, top: self.places.layer(top) })
    }
}

/// What a machine of `workspace` may reach; `None` where it has no interface.
fn network_of(workspace: &store::Workspace) -> Option<network::Policy> {
    match workspace.network_policy {
        NetworkPolicy::Off => None,
        policy @ (NetworkPolicy::Egress | NetworkPolicy::EgressAndPublishedPorts) => {
            Some(network::enforced(policy, &workspace.network_rules))
        }
    }
}
