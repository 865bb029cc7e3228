//! What each curated environment holds. A recipe names everything that decides its bytes, except the
//! packages' versions, which come from the archive on the day of the build.

use anyhow::{Context, Result};
use pyro_oci::catalog::{self, CatalogEntry};
use sha2::{Digest as _, Sha256};

use super::archive::Sources;
use super::tree::Contents;

/// The time of every file in an environment, and the clock of its maintainer scripts: 2025-01-01.
pub(super) const EPOCH: &str = "1735689600";

/// Raised when the steps in [`mod@super::tree`] change.
const STEPS_VERSION: &str = "1";

/// One curated environment.
pub(crate) struct Recipe {
    /// Its name in the catalog.
    pub(crate) name: &'static str,
    /// The suite of the Debian archive.
    pub(super) suite: &'static str,
    /// Packages beside Debian's minimal base; what they depend on comes along.
    pub(super) packages: &'static [&'static str],
}

/// All of them.
pub(super) const ALL: &[Recipe] = &[
    Recipe { name: "debian:12-base", suite: "bookworm", packages: &["ca-certificates"] },
    Recipe {
        name: "debian:12",
        suite: "bookworm",
        packages: &["ca-certificates", "curl", "git", "less", "procps"],
    },
    Recipe {
        name: "debian:12-build",
        suite: "bookworm",
        packages: &[
            "ca-certificates",
            "cmake",
            "curl",
            "g++",
            "gcc",
            "git",
            "less",
            "libc6-dev",
            "make",
            "patch",
            "pkg-config",
            "procps",
            "python3",
            "python3-venv",
        ],
    },
];

/// Paths of packages that a machine for programs has no use for. Copyright files stay.
pub(super) const EXCLUDED: &[&str] = &[
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/locale.alias",
];

/// The recipe of that name.
pub(crate) fn named(name: &str) -> Result<&'static Recipe> {
    ALL.iter().find(|recipe| recipe.name == name).map_or_else(|| super::unknown(name), Ok)
}

impl Recipe {
    /// What pyro itself knows of the environment.
    pub(super) fn catalog_entry(&self) -> Result<&'static CatalogEntry> {
        catalog::find(self.name).with_context(|| format!("the catalog has no {}", self.name))
    }

    /// What its root file system is made of.
    pub(super) fn contents(&self) -> Contents<'_> {
        Contents { name: self.name, suite: self.suite, packages: self.packages, dpkg_options: &[] }
    }

    /// Changes when the recipe or the steps do.
    pub(super) fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for part in [STEPS_VERSION, EPOCH, self.name, self.suite].iter().chain(self.packages).chain(EXCLUDED)
        {
            hash.update(part);
            hash.update([0]);
        }
        hex::encode(hash.finalize())
    }

    /// Changes when a build may give other bytes: with the recipe, the steps, or the archive's package lists.
    pub(super) fn key(&self, sources: &Sources) -> String {
        let mut hash = Sha256::new();
        for part in [&self.digest(), &sources.lines, &sources.package_lists] {
            hash.update(part);
            hash.update([0]);
        }
        hex::encode(hash.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(lines: &str, package_lists: &str) -> Sources {
        Sources { lines: lines.into(), package_lists: package_lists.into() }
    }

    #[test]
    fn every_catalog_entry_has_a_recipe_with_certificates_and_the_advertised_packages() {
        let base = ["bash", "coreutils"];
        for entry in catalog::CATALOG {
            let recipe = named(entry.name).unwrap();
            assert!(recipe.packages.contains(&"ca-certificates"), "{}", entry.name);
            for package in entry.default_packages.iter().filter(|package| !base.contains(package)) {
                assert!(recipe.packages.contains(package), "{} advertises {package}", entry.name);
            }
        }
        assert_eq!(ALL.len(), catalog::CATALOG.len());
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        let error = named("debian:13").map(|_| ()).unwrap_err().to_string();
        assert_eq!(
            error,
            "no recipe is called debian:13; there are debian:12-base, debian:12, debian:12-build"
        );
    }

    #[test]
    fn the_key_changes_with_everything_that_decides_bytes() {
        let recipe = named("debian:12").unwrap();
        let key = recipe.key(&sources("deb a", "1"));
        assert_eq!(key, recipe.key(&sources("deb a", "1")));
        assert_ne!(key, recipe.key(&sources("deb b", "1")));
        assert_ne!(key, recipe.key(&sources("deb a", "2")));
        assert_ne!(key, named("debian:12-base").unwrap().key(&sources("deb a", "1")));
    }
}
