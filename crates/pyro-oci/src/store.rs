//! The cache of installed environments.
//!
//! ```text
//! ROOT/linux-x86_64/debian_12-1.0.0/{vmlinux,rootfs.ext4,environment.json}   installed
//! ROOT/linux-x86_64/docker.io_library_python_3.12-0123456789ab/...           an image, by reference
//! ROOT/linux-x86_64/.images/KEY.ext4                                         flattened, shared by hard link
//! ROOT/linux-x86_64/.downloads/HEX.part, HEX                                 blobs, resumable
//! ROOT/linux-x86_64/.locks/NAME                                              who installs what
//! ROOT/linux-x86_64/.partial-NAME-RANDOM/                                    being put together
//! ```
//! An installed directory appears by one rename and is never written again. Whoever installs holds
//! the environment's lock, and a lock on the partial directory itself, so pruning can tell work from
//! wreckage. The kernel releases both when their owner dies.

mod install;
mod lock;
mod prune;
mod pull;
mod record;

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::artifact::{ArtifactError, ENVIRONMENT_JSON, KERNEL, ROOTFS};
use crate::catalog::{self, CATALOG, CATALOG_REGISTRY, CATALOG_VERSION, CatalogEntry};
use crate::digest::Digest;
use crate::flatten::FlattenError;
use crate::layout::LayoutError;
use crate::limits::{self, LayerLimits};
use crate::manifest::{ImageConfig, ManifestError};
use crate::reference::{LocalReference, Reference};
use crate::registry::{RegistryConfig, RegistryError};
use crate::tarball::shown;

pub use prune::Pruned;
pub use record::InstallManifest;

pub(crate) use lock::Lock;

/// Everything a store needs to know.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The cache's directory; made when something is installed.
    pub root: PathBuf,
    /// How registries are reached.
    pub registry: RegistryConfig,
    /// Bounds on an image's layers.
    pub limits: LayerLimits,
}

impl StoreConfig {
    /// A store at `root` that reaches registries directly and anonymously.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root, registry: RegistryConfig::default(), limits: LayerLimits::default() }
    }
}

/// The cache. Cheap to clone; any number of processes may use one directory.
#[derive(Debug, Clone)]
pub struct Store {
    config: Arc<StoreConfig>,
}

/// An environment that is ready for machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Name as the user gives it.
    pub name: String,
    /// Version in the catalog, or tag or digest of an image.
    pub version: String,
    /// The directory.
    pub install_dir: PathBuf,
    /// The install manifest in it.
    pub install_manifest: PathBuf,
    /// The environment's own kernel, where it has one.
    pub kernel: Option<PathBuf>,
    /// The root file system image, never written.
    pub rootfs: PathBuf,
    /// What is recorded of the installation.
    pub record: InstallManifest,
}

impl Installed {
    /// How the image wants to be started; empty for curated environments.
    #[must_use]
    pub fn config(&self) -> &ImageConfig {
        &self.record.config
    }
}

/// What `env inspect` tells, and with its last three fields `env pull`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// Name of the environment.
    pub name: String,
    /// Its version.
    pub version: String,
    /// One line for people.
    pub description: String,
    /// Packages worth telling about.
    pub default_packages: Vec<String>,
    /// Distribution's name.
    pub distribution: String,
    /// Distribution's version.
    pub distribution_version: String,
    /// Platform of the guest.
    pub platform: String,
    /// Registry, where there is one.
    pub oci_registry: Option<String>,
    /// Repository there.
    pub oci_repository: Option<String>,
    /// Tag or digest there.
    pub oci_reference: Option<String>,
    /// Digest of what was installed.
    pub source_digest: Option<String>,
    /// Versions of pyro that can use it.
    pub compatibility: Option<String>,
    /// Version of the catalog.
    pub catalog_version: String,
    /// Whether it is ready for machines.
    pub installed: bool,
    /// The cache.
    pub cache_dir: PathBuf,
    /// Where it is, or would be, installed.
    pub install_dir: PathBuf,
    /// Its install manifest, when installed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub install_manifest: Option<PathBuf>,
    /// Its kernel, when installed and it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_image: Option<PathBuf>,
    /// Its root file system, when installed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootfs_image: Option<PathBuf>,
    /// Where it came from, when installed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// Why an environment could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// A registry refused, lied, or could not be reached.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A manifest or configuration.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A local layout or archive.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// An artifact's parts.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// An image's layers.
    #[error(transparent)]
    Layers(#[from] FlattenError),
    /// A curated environment's name leads to something that is not an environment.
    #[error("{name} is not an environment: environment archive did not contain {missing}")]
    NotAnEnvironment {
        /// The name.
        name: String,
        /// The missing part.
        missing: &'static str,
    },
    /// The cache itself.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The cache could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{action} {path} failed")]
pub struct StoreError {
    /// What was being done.
    pub action: &'static str,
    /// To which file or directory.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl StoreError {
    pub(crate) fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self { action, path, source }
    }
}

/// Who can do something about a [`PullError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Whoever named the environment or gave the file.
    Caller,
    /// The registry, or whoever made the image there.
    Remote,
    /// This machine: its disk, permissions, memory.
    Host,
}

impl PullError {
    /// Who can do something about it. What an image holds is the remote's fault when it came from a
    /// registry; for a local file it is the caller's, which only the caller of this crate can tell.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Registry(error) => error.fault(),
            Self::Manifest(_) | Self::NotAnEnvironment { .. } => Fault::Remote,
            Self::Layout(LayoutError::Spool(_)) => Fault::Host,
            Self::Layout(_) => Fault::Caller,
            Self::Artifact(ArtifactError::Io { .. }) | Self::Store(_) => Fault::Host,
            Self::Artifact(ArtifactError::Layer(error)) | Self::Layers(error) => match error {
                FlattenError::Io { .. } | FlattenError::Format(_) | FlattenError::Cancelled => Fault::Host,
                _ => Fault::Remote,
            },
            Self::Artifact(ArtifactError::Missing(_) | ArtifactError::TooLarge { .. }) => Fault::Remote,
        }
    }
}

/// What to try when the cache cannot be read or written.
pub(crate) const CACHE_HINT: &str =
    "the environment cache must be a directory that you can write to, with free space";

/// What to try when layers cannot become a file system.
fn layers_hint(error: &FlattenError) -> &'static str {
    match error {
        FlattenError::NotUtf8 { .. } => "rename the file in the image: names must be UTF-8",
        FlattenError::Io { .. } | FlattenError::Format(_) => {
            "free some space in the environment cache (`pyro env prune` removes what nobody needs)"
        }
        FlattenError::DiskFull { .. } => "the disk of a machine has 64 GiB: use a smaller image",
        FlattenError::DiffId { .. } | FlattenError::Tar { .. } => {
            "the image is damaged or not what it says: push it again, or use another tag"
        }
        FlattenError::Cancelled => "run it again: downloads go on where they stopped",
        FlattenError::Path { .. }
        | FlattenError::ThroughSymlink { .. }
        | FlattenError::ThroughFile { .. }
        | FlattenError::HardLink { .. }
        | FlattenError::Member { .. }
        | FlattenError::TooMuch { .. } => {
            "no honest builder makes such a layer: do not use this image, or build it anew"
        }
    }
}

/// What to try when a document is no image for us.
fn manifest_hint(error: &ManifestError) -> &'static str {
    match error {
        ManifestError::NoPlatform(_) | ManifestError::WrongPlatform(_) => {
            "guests are linux/amd64: use an image that is built for it"
        }
        _ => "the image is damaged or not an image: push it again, or use another tag",
    }
}

/// What to try when a local image cannot be read.
fn layout_hint(error: &LayoutError) -> &'static str {
    match error {
        LayoutError::NoSuchTag { .. } => "name one of them: oci:DIR:TAG",
        LayoutError::NotALayout(_) | LayoutError::Io { .. } | LayoutError::Archive { .. } => {
            "oci:DIR takes an image layout directory, oci-archive:FILE a tar of one"
        }
        LayoutError::Manifest(error @ (ManifestError::NoPlatform(_) | ManifestError::WrongPlatform(_))) => {
            manifest_hint(error)
        }
        _ => "the layout is damaged: export it again",
    }
}

impl PullError {
    /// What to try, for people.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Layout(LayoutError::Spool(_))
            | Self::Artifact(ArtifactError::Io { .. })
            | Self::Store(_) => Some(CACHE_HINT),
            Self::Registry(error) => error.hint(),
            Self::Manifest(error) => Some(manifest_hint(error)),
            Self::Layout(error) => Some(layout_hint(error)),
            Self::Layers(error) | Self::Artifact(ArtifactError::Layer(error)) => Some(layers_hint(error)),
            Self::Artifact(ArtifactError::Missing(_) | ArtifactError::TooLarge { .. })
            | Self::NotAnEnvironment { .. } => {
                Some("the registry holds something else under this name: check the mirror")
            }
        }
    }
}

impl Store {
    /// A store; touches nothing yet.
    #[must_use]
    pub fn open(config: StoreConfig) -> Self {
        Self { config: Arc::new(config) }
    }

    /// The cache's directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.config.root
    }

    fn platform_dir(&self) -> PathBuf {
        self.config.root.join(crate::PLATFORM)
    }

    /// Where an environment is, or would be, installed.
    #[must_use]
    pub fn install_dir(&self, reference: &Reference) -> PathBuf {
        self.platform_dir().join(dir_name(reference))
    }

    /// The environment, if it is installed and undamaged. Reads only the cache.
    #[must_use]
    pub fn installed(&self, reference: &Reference) -> Option<Installed> {
        let installed = read_installed(&self.install_dir(reference))?;
        let kernel_needed = matches!(reference, Reference::Catalog(_));
        let named = installed.record.name == absolute(reference).name();
        (named && (installed.kernel.is_some() || !kernel_needed)).then_some(installed)
    }

    /// All that is installed: curated environments first, then images, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Installed> {
        let entries = fs::read_dir(self.platform_dir()).into_iter().flatten().flatten();
        let mut all: Vec<Installed> = entries
            .filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."))
            .filter_map(|entry| read_installed(&entry.path()))
            .collect();
        all.sort_by_key(|i| (catalog::find(&i.name).is_none(), i.name.clone()));
        all
    }

    /// The catalog with its state here, then installed images: what `env list` shows.
    #[must_use]
    pub fn inspect_all(&self) -> Vec<Inspection> {
        let mut all: Vec<Inspection> =
            CATALOG.iter().map(|entry| self.inspect(&Reference::Catalog(entry))).collect();
        let images = self.list().into_iter().filter(|i| catalog::find(&i.name).is_none());
        all.extend(images.filter_map(|i| i.name.parse().ok()).map(|reference| self.inspect(&reference)));
        all
    }

    /// What is known about one environment, installed or not.
    #[must_use]
    pub fn inspect(&self, reference: &Reference) -> Inspection {
        let installed = self.installed(reference);
        let mut inspection = match reference {
            Reference::Catalog(entry) => self.inspect_catalog(entry),
            Reference::Image(_) | Reference::Layout(_) | Reference::Archive(_) => {
                self.inspect_image(reference)
            }
        };
        if let Some(installed) = installed {
            inspection.installed = true;
            inspection.version = installed.version;
            inspection.source_digest = installed.record.source_digest;
            inspection.install_manifest = Some(installed.install_manifest);
            inspection.kernel_image = installed.kernel;
            inspection.rootfs_image = Some(installed.rootfs);
            inspection.source = Some(installed.record.source);
            if let (Some(own), Reference::Image(_) | Reference::Layout(_) | Reference::Archive(_)) =
                (installed.record.environment, reference)
            {
                // The image's own words, which end up on a terminal.
                let plain = |text: &String| shown(text.as_bytes());
                inspection.description = plain(&own.description);
                inspection.default_packages = own.default_packages.iter().map(plain).collect();
                inspection.distribution = plain(&own.distribution);
                inspection.distribution_version = plain(&own.distribution_version);
            }
        }
        inspection
    }

    fn inspect_catalog(&self, entry: &'static CatalogEntry) -> Inspection {
        Inspection {
            name: entry.name.into(),
            version: entry.version.into(),
            description: entry.description.into(),
            default_packages: entry.default_packages.iter().map(|&p| p.into()).collect(),
            distribution: entry.distribution.into(),
            distribution_version: entry.distribution_version.into(),
            oci_registry: Some(CATALOG_REGISTRY.into()),
            oci_repository: Some(entry.repository.into()),
            oci_reference: Some(entry.version.into()),
            compatibility: Some(entry.compatibility.into()),
            ..self.blank(&Reference::Catalog(entry))
        }
    }

    fn inspect_image(&self, reference: &Reference) -> Inspection {
        let blank = self.blank(reference);
        match reference {
            Reference::Image(image) => Inspection {
                description: format!("Image {image}."),
                oci_registry: Some(image.registry.clone()),
                oci_repository: Some(image.repository.clone()),
                oci_reference: Some(image.selector()),
                ..blank
            },
            _ => Inspection { description: format!("Image {reference}."), ..blank },
        }
    }

    fn blank(&self, reference: &Reference) -> Inspection {
        Inspection {
            name: reference.name(),
            version: version(reference),
            description: String::new(),
            default_packages: Vec::new(),
            distribution: String::new(),
            distribution_version: String::new(),
            platform: crate::PLATFORM.into(),
            oci_registry: None,
            oci_repository: None,
            oci_reference: None,
            source_digest: None,
            compatibility: None,
            catalog_version: CATALOG_VERSION.into(),
            installed: false,
            cache_dir: self.config.root.clone(),
            install_dir: self.install_dir(reference),
            install_manifest: None,
            kernel_image: None,
            rootfs_image: None,
            source: None,
        }
    }

    /// Makes a directory of the store, for its owner only.
    fn make_dir(&self, path: &Path) -> Result<(), StoreError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(StoreError::at("creating", path))
    }

    fn lock_path(&self, dir_name: &str) -> PathBuf {
        self.platform_dir().join(".locks").join(dir_name)
    }
}

/// A local image by its absolute path, so that its name means the same from everywhere.
fn absolute(reference: &Reference) -> Reference {
    let whole = |local: &LocalReference| LocalReference {
        path: fs::canonicalize(&local.path).unwrap_or_else(|_| local.path.clone()),
        tag: local.tag.clone(),
    };
    match reference {
        Reference::Layout(local) => Reference::Layout(whole(local)),
        Reference::Archive(local) => Reference::Archive(whole(local)),
        Reference::Catalog(_) | Reference::Image(_) => reference.clone(),
    }
}

/// Version as recorded: the catalog's, or what picks the image.
fn version(reference: &Reference) -> String {
    match reference {
        Reference::Catalog(entry) => entry.version.into(),
        Reference::Image(image) => image.selector(),
        Reference::Layout(local) | Reference::Archive(local) => {
            local.tag.clone().unwrap_or_else(|| "local".into())
        }
    }
}

/// Directory name of an environment: readable, and unique for images by a digest of the reference.
fn dir_name(reference: &Reference) -> String {
    if let Reference::Catalog(entry) = reference {
        return format!("{}-{}", entry.name.replace(':', "_"), entry.version);
    }
    // Short enough for any file system, with what makes it unique at the end.
    const READABLE: usize = 120;
    let name = absolute(reference).name();
    let kept = |c: char| if c.is_ascii_alphanumeric() || ".-".contains(c) { c } else { '_' };
    let readable: String = name.chars().map(kept).take(READABLE).collect();
    format!("{readable}-{}", &Digest::of(name.as_bytes()).hex()[..12])
}

fn read_record(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(limits::INSTALL_MANIFEST_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// An installation is good when its manifest can be read and its files are there, in their sizes.
fn read_installed(dir: &Path) -> Option<Installed> {
    let install_manifest = dir.join(ENVIRONMENT_JSON);
    let bytes = read_record(&install_manifest).ok()?;
    let record: InstallManifest = serde_json::from_slice(&bytes).ok()?;
    let file = |name: &str, expected: Option<u64>| {
        let path = dir.join(name);
        let metadata = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?;
        expected.is_none_or(|bytes| bytes == metadata.len()).then_some(path)
    };
    let rootfs = file(ROOTFS, record.rootfs_bytes)?;
    let kernel = file(KERNEL, record.kernel_bytes);
    if kernel.is_none() && record.kernel_bytes.is_some() {
        return None;
    }
    let (name, version) = (record.name.clone(), record.version.clone());
    Some(Installed { name, version, install_dir: dir.to_owned(), install_manifest, kernel, rootfs, record })
}

#[cfg(test)]
mod tests;
