//! Pulling: find the manifest, fetch what is missing, install.

use std::path::Path;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::install::{Contents, Kind, Plan};
use super::lock::Lock;
use super::{Fault, Installed, PullError, Store, StoreError, absolute, dir_name};
use crate::artifact::{self, KERNEL, ROOTFS};
use crate::catalog::{CATALOG_REGISTRY, CatalogEntry};
use crate::digest::Digest;
use crate::flatten::{FlattenError, LayerSource, Work, nameless_file};
use crate::layout::{Layout, LayoutError};
use crate::limits::PARALLEL_BLOBS;
use crate::manifest::{self, ImageConfig, ImageManifest, ManifestError, TITLE};
use crate::progress::{Phase, Progress};
use crate::reference::{ImageReference, LocalReference, Reference};
use crate::registry::{BlobStore, Client, Session};

/// Where the bytes come from.
enum Origin {
    Registry(Box<Session>),
    Local(Arc<Layout>),
}

/// A manifest with all that is read before the layers.
struct Resolved {
    manifest: ImageManifest,
    plan: Plan,
}

/// Ends blocking work when the future that waits for it is dropped.
struct CancelOnDrop(Work);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Store {
    /// Installs an environment unless it is installed; then it is returned at once and nobody is
    /// asked. A damaged installation is replaced. Several callers, also in other processes, share the
    /// work: one does it, the others wait. Dropping the future leaves nothing but resumable downloads.
    ///
    /// # Errors
    /// See [`PullError`].
    pub async fn pull(
        &self,
        reference: &Reference,
        progress: Arc<dyn Progress>,
    ) -> Result<Installed, PullError> {
        if let Some(installed) = self.installed(reference) {
            return Ok(installed);
        }
        let lock = self.lock(reference, &*progress).await?;
        if let Some(installed) = self.installed(reference) {
            progress.phase(Phase::Ready);
            return Ok(installed);
        }
        self.sweep()?;
        progress.phase(Phase::Resolve);
        let (origin, source) = self.origin(reference, &progress)?;
        self.install_from(reference, origin, source, lock, progress).await
    }

    /// Installs a curated environment from a local `oci-layout` directory, replacing what is there.
    /// `source` is recorded as where it came from.
    ///
    /// # Errors
    /// See [`PullError`].
    pub async fn install_from_layout(
        &self,
        entry: &'static CatalogEntry,
        layout: &Path,
        progress: Arc<dyn Progress>,
    ) -> Result<Installed, PullError> {
        let reference = Reference::Catalog(entry);
        let lock = self.lock(&reference, &*progress).await?;
        self.sweep()?;
        progress.phase(Phase::Resolve);
        let local = LocalReference { path: layout.to_owned(), tag: None };
        let origin = Origin::Local(Arc::new(Layout::directory(&local)));
        self.install_from(&reference, origin, format!("oci:{local}"), lock, progress).await
    }

    async fn lock(&self, reference: &Reference, progress: &dyn Progress) -> Result<Lock, StoreError> {
        let path = self.lock_path(&dir_name(reference));
        for dir in [".locks", ".downloads"] {
            self.make_dir(&self.platform_dir().join(dir))?;
        }
        let failed = || StoreError::at("locking", &path);
        if let Some(lock) = Lock::try_take(&path).map_err(failed())? {
            return Ok(lock);
        }
        progress.phase(Phase::Waiting);
        Lock::wait(path.clone()).await.map_err(failed())
    }

    fn origin(
        &self,
        reference: &Reference,
        progress: &Arc<dyn Progress>,
    ) -> Result<(Origin, String), PullError> {
        let image = match reference {
            Reference::Catalog(entry) => &ImageReference {
                registry: CATALOG_REGISTRY.into(),
                repository: entry.repository.into(),
                tag: Some(entry.version.into()),
                digest: None,
            },
            Reference::Image(image) => image,
            Reference::Layout(local) => {
                return Ok((
                    Origin::Local(Arc::new(Layout::directory(local))),
                    absolute(reference).to_string(),
                ));
            }
            Reference::Archive(local) => {
                return Ok((
                    Origin::Local(Arc::new(Layout::archive(local)?)),
                    absolute(reference).to_string(),
                ));
            }
        };
        let client = Client::new(&self.config.registry)?;
        let session = client.session(image, crate::registry::Access::Pull, Arc::clone(progress))?;
        let source = format!("oci://{}/{}", image.registry, image.repository);
        Ok((Origin::Registry(Box::new(session)), source))
    }

    async fn install_from(
        &self,
        reference: &Reference,
        origin: Origin,
        source: String,
        lock: Lock,
        progress: Arc<dyn Progress>,
    ) -> Result<Installed, PullError> {
        let Resolved { manifest, plan } = origin.resolve(reference, source).await?;
        let contents = match self.link_image(&plan)? {
            Some(linked) => Contents::Linked(linked),
            None => {
                progress.phase(Phase::Download);
                Contents::Layers(origin.layers(self, &manifest, &plan).await?)
            }
        };
        progress.phase(Phase::Unpack);
        let told = Arc::clone(&progress);
        let work = Work::observed(Arc::new(move |bytes| told.unpacked(bytes)));
        let guard = CancelOnDrop(work.clone());
        let store = self.clone();
        // The lock goes along: work that nobody waits for any more holds it until it has ended.
        let install = move || {
            let _held = lock;
            store.install(&plan, contents, &work)
        };
        let installed = blocking(install).await;
        drop(guard);
        // Layers that are here in full and still no good would be no better the next time. What this
        // machine failed at may work later, without another download.
        let keep = installed.as_ref().is_err_and(|error| error.fault() == Fault::Host);
        if matches!(origin, Origin::Registry(_)) && !keep {
            let blobs = self.blobs();
            manifest.layers.iter().for_each(|layer| blobs.forget(layer));
        }
        let installed = installed?;
        progress.phase(Phase::Ready);
        Ok(installed)
    }

    fn blobs(&self) -> BlobStore {
        BlobStore::new(self.platform_dir().join(".downloads"))
    }
}

/// Runs blocking work; the runtime ending before it is a cancellation.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PullError> + Send + 'static,
) -> Result<T, PullError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(FlattenError::Cancelled.into()),
    }
}

impl Origin {
    async fn resolve(&self, reference: &Reference, source: String) -> Result<Resolved, PullError> {
        let (manifest, digest) = match self {
            Self::Registry(session) => session.manifest().await?,
            Self::Local(layout) => layout.manifest()?,
        };
        let kind = kind(reference, &manifest)?;
        let config = match self {
            Self::Registry(session) => session.document(&manifest.config).await?,
            Self::Local(layout) => layout.document(&manifest.config)?,
        };
        let (config, diff_ids) = manifest::parse_config(&config, manifest.layers.len())?;
        let config = if kind == Kind::Artifact { ImageConfig::default() } else { config };
        let source = match self {
            Self::Registry(_) => format!("{source}@{digest}"),
            Self::Local(_) => source,
        };
        let reference = absolute(reference);
        let plan = Plan { reference, source, source_digest: digest, config, diff_ids, kind };
        Ok(Resolved { manifest, plan })
    }

    /// All layers as verified files, in order.
    async fn layers(
        &self,
        store: &Store,
        manifest: &ImageManifest,
        plan: &Plan,
    ) -> Result<Vec<LayerSource>, PullError> {
        check_sizes(manifest, store.config.limits.uncompressed_bytes)?;
        let files = match self {
            Self::Registry(session) => {
                let blobs = store.blobs();
                let mut fetches = Vec::with_capacity(manifest.layers.len());
                for layer in &manifest.layers {
                    fetches.push(blobs.fetch(session, layer));
                }
                stream::iter(fetches).buffered(PARALLEL_BLOBS).try_collect::<Vec<_>>().await?
            }
            Self::Local(layout) => {
                let layout = Arc::clone(layout);
                let layers = manifest.layers.clone();
                let spool = store.platform_dir();
                blocking(move || {
                    let open = |layer| layout.blob(layer, || nameless_file(&spool));
                    Ok(layers.iter().map(open).collect::<Result<Vec<_>, LayoutError>>()?)
                })
                .await?
            }
        };
        let pair = |(file, diff_id): (_, &Digest)| LayerSource { file, diff_id: Some(*diff_id) };
        Ok(files.into_iter().zip(&plan.diff_ids).map(pair).collect())
    }
}

/// A curated name must lead to an environment; anything else may be either.
fn kind(reference: &Reference, manifest: &ImageManifest) -> Result<Kind, PullError> {
    if artifact::is_artifact(manifest) {
        return Ok(Kind::Artifact);
    }
    match reference {
        Reference::Catalog(entry) => {
            let titled =
                |title| manifest.layers.iter().any(|l| l.annotations.get(TITLE).is_some_and(|t| t == title));
            let missing = if titled(KERNEL) { ROOTFS } else { KERNEL };
            Err(PullError::NotAnEnvironment { name: entry.name.into(), missing })
        }
        Reference::Image(_) | Reference::Layout(_) | Reference::Archive(_) => Ok(Kind::Image),
    }
}

/// Refuses what cannot be wanted before the first byte is fetched.
fn check_sizes(manifest: &ImageManifest, limit: u64) -> Result<(), ManifestError> {
    let total = manifest.layers.iter().fold(0_u64, |sum, layer| sum.saturating_add(layer.size));
    if total > limit {
        let document = "manifest";
        return Err(ManifestError::TooLarge { document, what: "bytes of layers", count: total, limit });
    }
    Ok(())
}
