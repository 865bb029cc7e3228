//! An environment as an OCI image layout, the form in which registries carry it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use pyro_oci::artifact::{ArtifactContents, EnvironmentMetadata, write_layout};
use pyro_oci::catalog::CatalogEntry;
use pyro_oci::registry::push_layout;
use pyro_oci::{Digest, ImageReference, RegistryConfig, Silent};

use super::recipe::Recipe;
use crate::steps;

/// zstd's level: quick, and within a tenth of the size that much slower ones reach.
const COMPRESSION_LEVEL: i32 = 3;

/// What an environment was made from, recorded in it so that a changed recipe or kernel is noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    recipe: String,
    kernel: String,
}

impl Origin {
    pub(super) fn new(recipe: &Recipe, kernel: &Path) -> Result<Self> {
        let kernel = std::fs::read(kernel).with_context(|| format!("cannot read {}", kernel.display()))?;
        Ok(Self { recipe: recipe.digest(), kernel: Digest::of(&kernel).hex() })
    }

    /// None for environments that were not made here.
    pub(super) fn of(environment: &EnvironmentMetadata) -> Option<Self> {
        let version = |part| environment.component_versions.get(part).cloned();
        Some(Self { recipe: version("recipe")?, kernel: version("kernel")? })
    }

    fn to_versions(&self) -> BTreeMap<String, String> {
        [("recipe", &self.recipe), ("kernel", &self.kernel)]
            .map(|(part, version)| (part.to_owned(), version.clone()))
            .into()
    }
}

/// Writes the layout of the root file system `tar` with `kernel`, anew, and returns its manifest's digest,
/// which tells apart any two that differ in a byte.
pub(super) fn write(
    recipe: &Recipe,
    origin: &Origin,
    tar: &Path,
    kernel: &Path,
    layout: &Path,
) -> Result<String> {
    for old in [layout, &image_path(layout)] {
        if old.is_dir() {
            std::fs::remove_dir_all(old).with_context(|| format!("cannot remove {}", old.display()))?;
        } else if old.exists() {
            std::fs::remove_file(old).with_context(|| format!("cannot remove {}", old.display()))?;
        }
    }
    let entry = recipe.catalog_entry()?;
    let environment = EnvironmentMetadata {
        environment: entry.name.into(),
        version: entry.version.into(),
        platform: pyro_oci::PLATFORM.into(),
        distribution: entry.distribution.into(),
        distribution_version: entry.distribution_version.into(),
        description: entry.description.into(),
        default_packages: entry.default_packages.iter().map(|&package| package.into()).collect(),
        source_profile: entry.source_profile.into(),
        component_versions: origin.to_versions(),
        ..EnvironmentMetadata::default()
    };
    let image = image_path(layout);
    steps::call(&format!("{}: root file system to ext4", entry.name), || {
        Ok(pyro_oci::flatten_tar_files(&[tar.to_owned()], &image)?)
    })?;
    let contents = ArtifactContents {
        kernel,
        rootfs: &image,
        environment: &environment,
        compression_level: COMPRESSION_LEVEL,
    };
    let digest =
        steps::call(&format!("{}: image layout", entry.name), || Ok(write_layout(&contents, layout)?));
    std::fs::remove_file(&image).with_context(|| format!("cannot remove {}", image.display()))?;
    Ok(digest?.to_string())
}

/// Where the root file system is while the layout is written.
fn image_path(layout: &Path) -> PathBuf {
    layout.with_extension("ext4")
}

/// Copies `layout` to `registry`, into the repository and tag that the catalog names. Credentials are Docker's.
pub(super) fn push(entry: &CatalogEntry, layout: &Path, registry: &str) -> Result<()> {
    let target = format!("{registry}/{}:{}", entry.repository, entry.version);
    let target = ImageReference::parse(&target)?;
    let docker = std::env::var_os("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker")));
    let config = RegistryConfig {
        docker_config: docker.map(|dir| dir.join("config.json")),
        ..RegistryConfig::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    steps::call(&format!("push to {target}"), || {
        runtime.block_on(push_layout(&config, layout, &target, Arc::new(Silent)))?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_of_others_has_no_origin() {
        assert_eq!(Origin::of(&EnvironmentMetadata::default()), None);
        let origin = Origin { recipe: "1".into(), kernel: "2".into() };
        let ours = EnvironmentMetadata { component_versions: origin.to_versions(), ..Default::default() };
        assert_eq!(Origin::of(&ours), Some(origin));
    }
}
