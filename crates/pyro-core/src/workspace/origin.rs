//! What a new workspace's disk begins on: an environment's image, or another workspace's layer.

use super::{CreateProgress, Pyro, WorkspaceError, WorkspaceView, create};
use crate::environments::Installed;
use crate::faults::FaultPoint;
use crate::places::{FileLock, Hold, create_private_dir};
use crate::store::{EventKind, ImageDefaults, LayerId, Workspace};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A copy of a workspace to make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForkWorkspace {
    /// What to call it.
    pub name: Option<String>,
    /// Labels of its own.
    pub labels: Vec<(String, String)>,
    /// The snapshot to begin with; `None` is the disk as it is now.
    pub snapshot: Option<String>,
}

/// What a disk begins on.
pub(super) struct Origin {
    pub(super) environment: String,
    pub(super) environment_version: Option<String>,
    pub(super) base_key: String,
    pub(super) base_rootfs: PathBuf,
    pub(super) kernel: Option<PathBuf>,
    pub(super) image: ImageDefaults,
    /// The sealed layer below the new one.
    pub(super) parent: Option<LayerId>,
    /// Where it is from, as it is shown: `WORKSPACE:SNAPSHOT`.
    pub(super) source: Option<String>,
    /// Nobody collects the base while no record names it.
    pub(super) _making: FileLock,
}

impl Pyro {
    /// Copies a workspace: the same environment, limits, secrets and policy, and its disk as it is now or
    /// was at a snapshot. Costs the same whatever the disk holds.
    pub async fn fork(
        &self,
        address: &str,
        request: &ForkWorkspace,
    ) -> Result<WorkspaceView, WorkspaceError> {
        let id = self.resolve(address)?;
        let source = self.store.get(id)?;
        let origin = match &request.snapshot {
            Some(snapshot) => self.origin_in(&source, snapshot)?,
            None => self.origin_now(&source).await?,
        };
        let secrets = super::secrets::read_all(&self.places, id)
            .map_err(WorkspaceError::state("read secrets in", self.places.secrets(id)))?;
        let authorities = self.store.authorities(id)?;
        self.places.reach(FaultPoint::ForkSealed);
        let checked = create::Checked::like(&source, request, secrets, authorities)?;
        let view = self.make(origin, checked, &|_: CreateProgress| ()).await?;
        self.places.reach(FaultPoint::ForkMade);
        self.record(id, EventKind::Fork, &serde_json::json!({ "fork": view.workspace_id }));
        Ok(view)
    }

    /// An environment, kept by a hard link so that removing it from the cache leaves this disk intact.
    pub(super) fn origin_of(&self, installed: &Installed) -> Result<Origin, WorkspaceError> {
        let making = self.keep_layers()?;
        let digest = installed.record.rootfs_digest.as_ref().map(|digest| digest.hex().to_owned());
        let base_key = match digest {
            Some(digest) => digest,
            None => file_key(&installed.rootfs).map_err(WorkspaceError::state("read", &installed.rootfs))?,
        };
        keep(&installed.rootfs, &self.places.base_image(&base_key))?;
        if let Some(kernel) = &installed.kernel {
            keep(kernel, &self.places.base_kernel(&base_key))?;
        }
        let config = installed.config();
        let variables = config.env.iter().filter_map(|pair| pair.split_once('='));
        Ok(Origin {
            environment: installed.name.clone(),
            environment_version: Some(installed.version.clone()),
            base_key,
            base_rootfs: installed.rootfs.clone(),
            kernel: installed.kernel.clone(),
            image: ImageDefaults {
                env: variables.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
                cwd: named(&config.working_dir),
                user: named(&config.user),
            },
            parent: None,
            source: None,
            _making: making,
        })
    }

    /// The disk of another workspace at one of its snapshots.
    pub(super) fn origin_in(&self, source: &Workspace, snapshot: &str) -> Result<Origin, WorkspaceError> {
        let making = self.keep_layers()?;
        let layer = self.store.snapshot(source.id, snapshot)?.layer;
        Ok(self.origin_on(source, layer, snapshot, making))
    }

    /// The disk of another workspace as it is now: sealed where it runs, as it lies where it is stopped.
    async fn origin_now(&self, source: &Workspace) -> Result<Origin, WorkspaceError> {
        let held = self.operate(source.id).await?;
        let making = self.keep_layers()?;
        self.seal(source.id, None).await?;
        let top = self.store.get(source.id)?.top_layer;
        let chain = self.store.chain(top)?;
        drop(held);
        let sealed = chain.iter().rev().find(|layer| layer.id != top).map(|layer| layer.id);
        let sealed = sealed.ok_or_else(|| WorkspaceError::Disk {
            id: source.id,
            reason: "there is no layer below its top".to_owned(),
        })?;
        Ok(self.origin_on(source, sealed, "now", making))
    }

    fn origin_on(&self, source: &Workspace, layer: LayerId, snapshot: &str, making: FileLock) -> Origin {
        Origin {
            environment: source.environment.clone(),
            environment_version: source.environment_version.clone(),
            base_key: source.base_key.clone(),
            base_rootfs: source.base_rootfs.clone(),
            kernel: source.kernel.clone(),
            image: source.image.clone(),
            parent: Some(layer),
            source: Some(format!("{}:{snapshot}", source.id)),
            _making: making,
        }
    }

    /// The environment's own kernel, where it has one.
    pub(super) fn kernel(&self, workspace: &Workspace) -> Option<PathBuf> {
        let kept = self.places.base_kernel(&workspace.base_key);
        if kept.exists() { Some(kept) } else { workspace.kernel.clone() }
    }

    /// Nobody collects or merges layers, or collects bases, until this is dropped.
    pub(super) fn keep_layers(&self) -> Result<FileLock, WorkspaceError> {
        let path = self.places.layers_lock();
        FileLock::take(&path, Hold::Shared).map_err(WorkspaceError::state("lock", path))
    }
}

/// Links `from` as `to`, unless that is there already. On another file system it stays where it is.
fn keep(from: &Path, to: &Path) -> Result<(), WorkspaceError> {
    let dir = to.parent().unwrap_or(Path::new("/"));
    create_private_dir(dir).map_err(WorkspaceError::state("make", dir))?;
    match fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::CrossesDevices) =>
        {
            Ok(())
        }
        // Hard links to others' files may be forbidden.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(WorkspaceError::state("link", to)(error)),
    }
}

/// A name for an image whose digest nobody recorded.
fn file_key(path: &Path) -> io::Result<String> {
    use sha2::Digest as _;
    use std::os::unix::fs::MetadataExt;
    let facts = fs::metadata(path)?;
    let identity = format!("{}:{}:{}:{}", facts.dev(), facts.ino(), facts.len(), facts.mtime_nsec());
    Ok(hex::encode(sha2::Sha256::digest(identity.as_bytes())))
}

fn named(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
