//! The cache of environments, where pyro looks for them, and what it holds of ours.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use pyro_oci::store::{Store, StoreConfig};
use pyro_oci::{Reference, Silent};

use super::artifact::Origin;
use super::recipe::Recipe;
use crate::{root, steps};

/// The cache's directory.
pub(super) fn cache() -> Result<PathBuf> {
    match root::set_path("PYRO_ENVIRONMENT_CACHE_DIR") {
        Some(own) => Ok(own),
        None => Ok(root::user_cache()?.join("pyro-mcp/environments")),
    }
}

/// What the cache holds of an environment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Installed {
    Absent,
    /// Made by others and pulled, or by us from what we would take today.
    Usable,
    /// Made by us from another recipe or with another kernel than today's.
    Outdated,
}

/// Looks at `cache` without reading contents.
pub(super) fn installed(cache: &Path, recipe: &Recipe, origin: &Origin) -> Result<Installed> {
    let reference = Reference::Catalog(recipe.catalog_entry()?);
    let Some(installed) = open(cache).installed(&reference) else { return Ok(Installed::Absent) };
    let environment = installed.record.environment.unwrap_or_default();
    Ok(match Origin::of(&environment) {
        Some(other) if other != *origin => Installed::Outdated,
        _ => Installed::Usable,
    })
}

/// Installs the image in `layout`, in place of what is there, and returns the installed directory.
pub(super) fn install(cache: &Path, recipe: &Recipe, layout: &Path) -> Result<PathBuf> {
    let entry = recipe.catalog_entry()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start an asynchronous runtime")?;
    let installed = steps::call(&format!("{}: install", recipe.name), || {
        Ok(runtime.block_on(open(cache).install_from_layout(entry, layout, Arc::new(Silent)))?)
    })?;
    Ok(installed.install_dir)
}

fn open(cache: &Path) -> Store {
    Store::open(StoreConfig::new(cache.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::env::{artifact, recipe};

    #[test]
    fn a_tar_becomes_an_installed_environment_that_knows_its_origin() {
        let place = tempfile::tempdir().unwrap();
        let tree = place.path().join("tree/etc");
        std::fs::create_dir_all(&tree).unwrap();
        std::fs::write(tree.join("issue"), "hello\n").unwrap();
        let tar = place.path().join("rootfs.tar");
        let mut command = Command::new("tar");
        command.arg("-cf").arg(&tar).arg("-C").arg(place.path().join("tree")).arg(".");
        steps::read(&mut command).unwrap();
        let kernel = place.path().join("vmlinux");
        std::fs::write(&kernel, "kernel").unwrap();

        let cache = place.path().join("cache");
        let recipe = recipe::named("debian:12-base").unwrap();
        let origin = Origin::new(recipe, &kernel).unwrap();
        assert_eq!(installed(&cache, recipe, &origin).unwrap(), Installed::Absent);
        let layout = place.path().join("layout");
        for _ in 0..2 {
            artifact::write(recipe, &origin, &tar, &kernel, &layout).unwrap();
            let directory = install(&cache, recipe, &layout).unwrap();
            assert_eq!(directory, cache.join("linux-x86_64/debian_12-base-1.0.0"));
            assert_eq!(installed(&cache, recipe, &origin).unwrap(), Installed::Usable);
        }
        std::fs::write(&kernel, "a newer kernel").unwrap();
        let newer = Origin::new(recipe, &kernel).unwrap();
        assert_eq!(installed(&cache, recipe, &newer).unwrap(), Installed::Outdated);
    }
}
