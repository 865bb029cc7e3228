//! Snapshots of a workspace's whole disk, and going back to one.

use super::layers::{self, NewLayer};
use super::views::seconds;
use super::{Pyro, WORKSPACE_PATH, WorkspaceError, WorkspaceId, WorkspaceView, garbage, now};
use crate::faults::FaultPoint;
use crate::limits::{MACHINE_LOCK_DEADLINE, SEAL_DEADLINE};
use crate::machine::unexpected;
use crate::places::{FileLock, Hold};
use crate::store::{
    CHAIN_LAYERS, EventKind, LayerFault, NewSnapshot, SnapshotKind, SnapshotRecord, StoreError,
};
use crate::supervisor::protocol::{Answer, Request, Stop};
use pyro_vmm::block;
use serde::Serialize;
use serde_json::json;
use std::fs::File;

/// A snapshot of a workspace's whole disk.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SnapshotView {
    /// The workspace.
    pub workspace_id: String,
    /// `baseline`, or the name it was given.
    pub snapshot_name: String,
    /// `baseline` or `named`.
    pub kind: &'static str,
    /// When it was taken, seconds since the Unix epoch.
    pub created_at: f64,
    /// Files, directories and links: of the baseline what was seeded, of another all that is on the disk.
    pub entry_count: u64,
    /// Bytes: of the baseline what was seeded, of another what its layer of the disk takes.
    pub bytes_written: u64,
    /// Whether it can be deleted.
    pub deletable: bool,
}

/// A snapshot that is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SnapshotDeleted {
    /// The workspace.
    pub workspace_id: String,
    /// Its name.
    pub snapshot_name: String,
    /// Always.
    pub deleted: bool,
}

/// A workspace that went back.
#[derive(Clone, Debug, Serialize)]
pub struct Reset {
    /// As it is now.
    #[serde(flatten)]
    pub workspace: WorkspaceView,
    /// Where it went back to.
    pub workspace_reset: ResetFacts,
}

/// Where a workspace went back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ResetFacts {
    /// The snapshot.
    pub snapshot_name: String,
    /// `baseline` or `named`.
    pub kind: &'static str,
    /// `/workspace`.
    pub destination: &'static str,
    /// As the snapshot tells it.
    pub entry_count: u64,
    /// As the snapshot tells it.
    pub bytes_written: u64,
}

impl Pyro {
    /// Keeps the whole disk as it is now under a name. Costs the same whatever the disk holds; the guest's
    /// file systems are held still for a moment.
    pub async fn snapshot_create(&self, address: &str, name: &str) -> Result<SnapshotView, WorkspaceError> {
        let id = self.resolve(address)?;
        let _held = self.operate(id).await?;
        self.store.check_new_snapshot(id, name)?;
        self.seal(id, Some(name)).await?;
        self.record(id, EventKind::SnapshotCreate, &json!({ "snapshot_name": name }));
        Ok(view(&self.store.snapshot(id, name)?))
    }

    /// The snapshots of a workspace: the baseline, then the newest first.
    pub fn snapshot_list(&self, address: &str) -> Result<Vec<SnapshotView>, WorkspaceError> {
        let id = self.resolve(address)?;
        Ok(self.store.snapshots(id)?.iter().map(view).collect())
    }

    /// Forgets a snapshot. Its layer of the disk is removed where nothing else stands on it.
    pub async fn snapshot_delete(
        &self,
        address: &str,
        name: &str,
    ) -> Result<SnapshotDeleted, WorkspaceError> {
        let id = self.resolve(address)?;
        let held = self.operate(id).await?;
        let deleted = self.store.delete_snapshot(id, name, now())?;
        self.places.reach(FaultPoint::SnapshotForgotten);
        self.record(id, EventKind::SnapshotDelete, &json!({ "snapshot_name": deleted.name }));
        // What is left to do takes its time, and nobody needs to wait for it.
        drop(held);
        garbage::collect_layers(&self.store, &self.places)?;
        layers::merge(&self.store, &self.places).await?;
        Ok(SnapshotDeleted { workspace_id: id.to_string(), snapshot_name: deleted.name, deleted: true })
    }

    /// Throws away what the disk holds beyond a snapshot, and boots from there. Commands and review begin
    /// anew. Costs the same whatever the disk holds.
    pub async fn reset(&self, address: &str, snapshot: &str) -> Result<Reset, WorkspaceError> {
        let id = self.resolve(address)?;
        let _held = self.operate(id).await?;
        // Nothing is stopped for a snapshot that is not there.
        self.store.snapshot(id, snapshot)?;
        let workspace = self.store.get(id)?;
        if let Some(link) = self.link(id)? {
            link.stop(Stop::Kill).await?;
        }
        self.places.reach(FaultPoint::ResetStopped);
        // Others who delete snapshots may merge its layer into another one until here.
        let keeping = self.keep_layers()?;
        let snapshot = self.store.snapshot(id, snapshot)?;
        let base = self.places.base_of(&workspace);
        let parents: Vec<_> =
            self.store.chain(snapshot.layer)?.iter().map(|layer| self.places.layer(layer.id)).collect();
        let top = NewLayer::make_delta(&self.store, &self.places, &base, &parents)
            .map_err(WorkspaceError::state("make a layer in", self.places.layers()))?;
        self.places.reach(FaultPoint::ResetLayer);
        self.store.reset(&snapshot, top.id(), now())?;
        top.keep();
        drop(keeping);
        self.places.reach(FaultPoint::ResetRecorded);
        garbage::collect_layers(&self.store, &self.places)?;
        self.places.reach(FaultPoint::ResetCollected);
        self.boot(id, None, false).await?;
        self.places.reach(FaultPoint::ResetBooted);
        Ok(Reset {
            workspace: self.view(id)?,
            workspace_reset: ResetFacts {
                snapshot_name: snapshot.name,
                kind: snapshot.kind.as_str(),
                destination: WORKSPACE_PATH,
                entry_count: snapshot.entry_count,
                bytes_written: snapshot.bytes_written,
            },
        })
    }

    /// Seals the top of the disk, as a snapshot where `name` is given. The caller holds the operation lock.
    pub(super) async fn seal(&self, id: WorkspaceId, name: Option<&str>) -> Result<(), WorkspaceError> {
        let Some(link) = self.link(id)? else {
            self.await_top(id, Hold::Exclusive).await?;
            return self.seal_at_rest(id, name);
        };
        let request = Request::Snapshot { name: name.map(str::to_owned) };
        match link.ask(&request, SEAL_DEADLINE * 2).await? {
            Answer::Snapshotted { .. } => Ok(()),
            other => Err(unexpected(other).into()),
        }
    }

    /// The same where no machine runs.
    fn seal_at_rest(&self, id: WorkspaceId, name: Option<&str>) -> Result<(), WorkspaceError> {
        let failed = || WorkspaceError::state("seal a layer in", self.places.layers());
        let _keeping = self.keep_layers()?;
        let workspace = self.store.get(id)?;
        let old_top = workspace.top_layer;
        let path = self.places.layer(old_top);
        if self.store.chain(old_top)?.len() >= CHAIN_LAYERS {
            return Err(StoreError::Layer { layer: old_top, fault: LayerFault::TooDeep }.into());
        }
        let open = || File::options().read(true).write(true).open(&path);
        block::seal(&open().map_err(failed())?).map_err(|error| failed()(std::io::Error::other(error)))?;
        self.places.reach(FaultPoint::RestSealed);
        let base = self.places.base_of(&workspace);
        let parents: Vec<_> =
            self.store.chain(old_top)?.iter().map(|layer| self.places.layer(layer.id)).collect();
        let top = NewLayer::make_delta(&self.store, &self.places, &base, &parents).map_err(failed())?;
        self.places.reach(FaultPoint::RestLayer);
        let snapshot = name.map(|name| NewSnapshot {
            name: name.to_owned(),
            entry_count: layers::entries_on(&base, &parents),
            bytes_written: layers::allocated_bytes(&path),
        });
        self.store.seal_and_push(id, snapshot.as_ref(), old_top, top.id(), now())?;
        top.keep();
        self.places.reach(FaultPoint::RestRecorded);
        Ok(())
    }

    /// Waits for the last processes of a machine whose supervisor was killed, which use the top of its disk.
    /// Where they are not gone in time, it is found in use. The caller holds the operation lock.
    pub(super) async fn await_top(&self, id: WorkspaceId, hold: Hold) -> Result<(), WorkspaceError> {
        let path = self.places.layer(self.store.get(id)?.top_layer);
        // Taking a lock would make a file that is missing.
        File::open(&path).map_err(WorkspaceError::state("open", &path))?;
        let waited = FileLock::take_within(&path, hold, MACHINE_LOCK_DEADLINE).await;
        waited.map(|_| ()).map_err(WorkspaceError::state("lock", path))
    }

    /// Goes on over a top that was sealed when its successor could not be put on record any more: whoever
    /// sealed it died at that moment.
    pub(super) async fn settle_top(&self, id: WorkspaceId) -> Result<(), WorkspaceError> {
        self.await_top(id, Hold::Exclusive).await?;
        let workspace = self.store.get(id)?;
        let path = self.places.layer(workspace.top_layer);
        let facts = block::inspect(&File::open(&path).map_err(WorkspaceError::state("open", &path))?);
        match facts {
            Ok(facts) if facts.sealed => self.seal_at_rest(id, None),
            Ok(_) => Ok(()),
            Err(error) => Err(WorkspaceError::Disk { id, reason: error.to_string() }),
        }
    }
}

fn view(snapshot: &SnapshotRecord) -> SnapshotView {
    SnapshotView {
        workspace_id: snapshot.workspace.to_string(),
        snapshot_name: snapshot.name.clone(),
        kind: snapshot.kind.as_str(),
        created_at: seconds(snapshot.created_at),
        entry_count: snapshot.entry_count,
        bytes_written: snapshot.bytes_written,
        deletable: snapshot.kind != SnapshotKind::Baseline,
    }
}
