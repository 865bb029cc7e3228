//! The install manifest, `environment.json` of an installed environment.

use serde::{Deserialize, Serialize};

use crate::artifact::EnvironmentMetadata;
use crate::digest::Digest;
use crate::manifest::ImageConfig;

/// What is written beside the installed files. The first six fields are those of earlier versions;
/// all others may be absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstallManifest {
    /// Version of the catalog that installed it.
    #[serde(default)]
    pub catalog_version: String,
    /// Name of the environment.
    pub name: String,
    /// Version of the environment.
    pub version: String,
    /// Where it came from.
    #[serde(default)]
    pub source: String,
    /// Digest of the manifest it came from.
    #[serde(default)]
    pub source_digest: Option<String>,
    /// When, in seconds since 1970.
    #[serde(default)]
    pub installed_at: u64,
    /// What the root file system's bytes follow from: the `diff_id` of an artifact's layer, or the key
    /// of a flattened image. Equal digests mean equal disks.
    #[serde(default)]
    pub rootfs_digest: Option<Digest>,
    /// Size of the root file system, to notice a damaged installation.
    #[serde(default)]
    pub rootfs_bytes: Option<u64>,
    /// Digest of the kernel.
    #[serde(default)]
    pub kernel_digest: Option<Digest>,
    /// Size of the kernel; absent where the environment has none.
    #[serde(default)]
    pub kernel_bytes: Option<u64>,
    /// What wrote the root file system, for flattened images.
    #[serde(default)]
    pub formatter: Option<String>,
    /// How the image wants to be started.
    #[serde(default)]
    pub config: ImageConfig,
    /// What the artifact says of itself.
    #[serde(default)]
    pub environment: Option<EnvironmentMetadata>,
}
