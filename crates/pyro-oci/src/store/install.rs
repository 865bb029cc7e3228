//! Putting an environment together and into its place. All of this blocks.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, RenameFlags};

use super::lock::PartialDir;
use super::{InstallManifest, Installed, PullError, Store, StoreError, dir_name, read_installed, version};
use crate::artifact::{self, ENVIRONMENT_JSON, KERNEL, ROOTFS};
use crate::catalog::CATALOG_VERSION;
use crate::digest::Digest;
use crate::flatten::{self, FORMATTER, LayerSource, Work, image_key};
use crate::limits::IMAGE_BYTES;
use crate::manifest::ImageConfig;
use crate::reference::Reference;

/// Everything but the layers' bytes.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) reference: Reference,
    pub(super) source: String,
    pub(super) source_digest: Digest,
    pub(super) config: ImageConfig,
    pub(super) diff_ids: Vec<Digest>,
    pub(super) kind: Kind,
}

/// What the layers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Artifact,
    Image,
}

/// Where the root file system comes from.
pub(super) enum Contents {
    /// Layers that are all here.
    Layers(Vec<LayerSource>),
    /// The same image, flattened earlier for another reference.
    Linked(PartialDir),
}

impl Store {
    /// Takes the image if it is already here, flattened for another reference. It is linked at once:
    /// from then on nobody who prunes or removes can take it away before it is installed.
    pub(super) fn link_image(&self, plan: &Plan) -> Result<Option<PartialDir>, StoreError> {
        if plan.kind != Kind::Image {
            return Ok(None);
        }
        let Some(shared) = self.shared_image(&plan.key()) else { return Ok(None) };
        let partial = self.partial_dir(plan)?;
        // Where it cannot be linked, or is gone meanwhile, it is made anew.
        Ok(fs::hard_link(shared, partial.path().join(ROOTFS)).is_ok().then_some(partial))
    }

    fn partial_dir(&self, plan: &Plan) -> Result<PartialDir, StoreError> {
        let parent = self.platform_dir();
        PartialDir::create(&parent, &dir_name(&plan.reference))
            .map_err(StoreError::at("creating a directory in", &parent))
    }

    fn image_path(&self, key: &Digest) -> PathBuf {
        self.platform_dir().join(".images").join(format!("{}.ext4", key.hex()))
    }

    fn shared_image(&self, key: &Digest) -> Option<PathBuf> {
        let path = self.image_path(key);
        fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() == IMAGE_BYTES).then_some(path)
    }

    /// Installs what is all here; the environment's lock is held by the caller.
    pub(super) fn install(
        &self,
        plan: &Plan,
        contents: Contents,
        work: &Work,
    ) -> Result<Installed, PullError> {
        let target = self.install_dir(&plan.reference);
        let (partial, record) = match contents {
            Contents::Linked(partial) => (partial, plan.image_record()),
            Contents::Layers(layers) => {
                let partial = self.partial_dir(plan)?;
                let record = match plan.kind {
                    Kind::Artifact => self.install_artifact(plan, layers, partial.path(), work)?,
                    Kind::Image => self.install_image(plan, layers, partial.path(), work)?,
                };
                (partial, record)
            }
        };
        work.check()?;
        write_record(&record, &partial.path().join(ENVIRONMENT_JSON))?;
        move_into_place(partial.path(), &target)?;
        read_installed(&target).ok_or_else(|| {
            let source = std::io::Error::other("the installation cannot be read back");
            StoreError { action: "installing", path: target, source }.into()
        })
    }

    fn install_artifact(
        &self,
        plan: &Plan,
        layers: Vec<LayerSource>,
        dir: &Path,
        work: &Work,
    ) -> Result<InstallManifest, PullError> {
        let extracted = artifact::extract(layers, dir, work)?;
        read_only(&dir.join(ROOTFS))?;
        read_only(&dir.join(KERNEL))?;
        Ok(InstallManifest {
            rootfs_digest: Some(extracted.rootfs_diff_id),
            rootfs_bytes: Some(len(&dir.join(ROOTFS))?),
            kernel_digest: Some(extracted.kernel_digest),
            kernel_bytes: Some(len(&dir.join(KERNEL))?),
            environment: extracted.environment,
            ..plan.record()
        })
    }

    fn install_image(
        &self,
        plan: &Plan,
        layers: Vec<LayerSource>,
        dir: &Path,
        work: &Work,
    ) -> Result<InstallManifest, PullError> {
        let (key, rootfs) = (plan.key(), dir.join(ROOTFS));
        // Another pull may have made it while this one was downloading.
        let linked = self.shared_image(&key).is_some_and(|shared| fs::hard_link(shared, &rootfs).is_ok());
        if !linked {
            flatten::flatten_to_ext4(layers, &rootfs, &self.config.limits, work)?;
            read_only(&rootfs)?;
            self.share(&rootfs, &key)?;
        }
        Ok(plan.image_record())
    }

    /// Gives a flattened image its name by content. Where links are not possible it is only this
    /// environment's.
    fn share(&self, rootfs: &Path, key: &Digest) -> Result<(), StoreError> {
        let shared = self.image_path(key);
        if let Some(dir) = shared.parent() {
            self.make_dir(dir)?;
        }
        if fs::hard_link(rootfs, &shared).is_err() && self.shared_image(key).is_none() {
            // A damaged one is in the way.
            drop(fs::remove_file(&shared));
            drop(fs::hard_link(rootfs, &shared));
        }
        Ok(())
    }
}

impl Plan {
    fn key(&self) -> Digest {
        image_key(&self.diff_ids, crate::PLATFORM)
    }

    fn image_record(&self) -> InstallManifest {
        InstallManifest {
            rootfs_digest: Some(self.key()),
            rootfs_bytes: Some(IMAGE_BYTES),
            formatter: Some(FORMATTER.into()),
            ..self.record()
        }
    }

    fn record(&self) -> InstallManifest {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        InstallManifest {
            catalog_version: CATALOG_VERSION.into(),
            name: self.reference.name(),
            version: version(&self.reference),
            source: self.source.clone(),
            source_digest: Some(self.source_digest.to_string()),
            installed_at: now.as_secs(),
            rootfs_digest: None,
            rootfs_bytes: None,
            kernel_digest: None,
            kernel_bytes: None,
            formatter: None,
            config: self.config.clone(),
            environment: None,
        }
    }
}

fn len(path: &Path) -> Result<u64, StoreError> {
    Ok(fs::metadata(path).map_err(StoreError::at("reading", path))?.len())
}

/// Every machine shares these files: a stray write must fail.
fn read_only(path: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o444)).map_err(StoreError::at("protecting", path))
}

fn write_record(record: &InstallManifest, path: &Path) -> Result<(), StoreError> {
    let json = serde_json::to_vec_pretty(record).expect("plain text serializes");
    let written = File::create(path).and_then(|mut file| {
        file.write_all(&json)?;
        file.sync_all()
    });
    written.map_err(StoreError::at("writing", path))
}

/// Renames the finished directory over the target. A damaged installation in its place changes places
/// with it, so at no moment is there none, and then goes with the partial directory.
fn move_into_place(partial: &Path, target: &Path) -> Result<(), StoreError> {
    let failed = || StoreError::at("installing", target);
    sync_dir(partial).map_err(failed())?;
    if fs::symlink_metadata(target).is_ok() {
        let exchanged = rustix::fs::renameat_with(CWD, partial, CWD, target, RenameFlags::EXCHANGE);
        if exchanged.is_err() {
            // Not every file system can exchange.
            fs::remove_dir_all(target).map_err(failed())?;
            fs::rename(partial, target).map_err(failed())?;
        }
    } else {
        fs::rename(partial, target).map_err(failed())?;
    }
    target.parent().map_or(Ok(()), sync_dir).map_err(failed())
}

fn sync_dir(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}
