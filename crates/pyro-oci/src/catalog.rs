//! The curated environments, compiled in.

/// Version of the catalog as a whole.
pub const CATALOG_VERSION: &str = "2.10.0";

/// Registry of all curated environments.
pub const CATALOG_REGISTRY: &str = "registry-1.docker.io";

/// One curated environment.
#[derive(Debug, PartialEq, Eq)]
pub struct CatalogEntry {
    /// What users type.
    pub name: &'static str,
    /// Version of the artifact, also its tag.
    pub version: &'static str,
    /// One line for people.
    pub description: &'static str,
    /// Packages worth telling about.
    pub default_packages: &'static [&'static str],
    /// Distribution's name.
    pub distribution: &'static str,
    /// Distribution's version.
    pub distribution_version: &'static str,
    /// Which recipe builds it.
    pub source_profile: &'static str,
    /// Repository in [`CATALOG_REGISTRY`].
    pub repository: &'static str,
    /// Versions of pyro that can use it; for information.
    pub compatibility: &'static str,
}

const COMPATIBILITY: &str = ">=0.1.0,<1.0.0";

/// All curated environments, by name.
pub const CATALOG: &[CatalogEntry] = &[
    CatalogEntry {
        name: "debian:12",
        version: "1.0.0",
        description: "Debian 12 environment with Git preinstalled for common agent workflows.",
        default_packages: &["bash", "coreutils", "git"],
        distribution: "debian",
        distribution_version: "12",
        source_profile: "debian-git",
        repository: "thalesmaciel/pyro-environment-debian-12",
        compatibility: COMPATIBILITY,
    },
    CatalogEntry {
        name: "debian:12-base",
        version: "1.0.0",
        description: "Minimal Debian 12 environment for shell and core Unix tooling.",
        default_packages: &["bash", "coreutils"],
        distribution: "debian",
        distribution_version: "12",
        source_profile: "debian-base",
        repository: "thalesmaciel/pyro-environment-debian-12-base",
        compatibility: COMPATIBILITY,
    },
    CatalogEntry {
        name: "debian:12-build",
        version: "1.0.0",
        description: "Debian 12 environment with Git and common build tools preinstalled.",
        default_packages: &["bash", "coreutils", "git", "gcc", "make", "cmake", "python3"],
        distribution: "debian",
        distribution_version: "12",
        source_profile: "debian-build",
        repository: "thalesmaciel/pyro-environment-debian-12-build",
        compatibility: COMPATIBILITY,
    },
];

/// The environment of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static CatalogEntry> {
    CATALOG.iter().find(|entry| entry.name == name)
}

/// The known name that is closest to a mistyped one, if any is close.
#[must_use]
pub fn nearest(name: &str) -> Option<&'static str> {
    // A third of the name may be wrong; beyond that a suggestion would be a guess.
    let tolerance = (name.chars().take(LONGEST).count() / 3).max(2);
    let ranked = CATALOG.iter().map(|entry| (distance(name, entry.name), entry.name));
    let close = ranked.min().filter(|(distance, _)| *distance <= tolerance).map(|(_, name)| name);
    // A name without its version is far in edits, but clear.
    close.or_else(|| {
        let versioned = |entry: &&CatalogEntry| entry.name.split(':').next() == Some(name);
        CATALOG.iter().find(versioned).map(|entry| entry.name)
    })
}

/// Longer input is no name at all, and must not cost quadratic time.
const LONGEST: usize = 64;

/// Edits (insert, delete, replace) between two short texts.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(LONGEST).collect();
    let mut row: Vec<usize> = (0..=a.len()).collect();
    for (j, cb) in b.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = j + 1;
        for (i, ca) in a.iter().enumerate() {
            let replaced = diagonal + usize::from(*ca != cb);
            diagonal = row[i + 1];
            row[i + 1] = replaced.min(diagonal + 1).min(row[i] + 1);
        }
    }
    row[a.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalog_is_sorted_and_complete() {
        let names: Vec<_> = CATALOG.iter().map(|e| e.name).collect();
        assert_eq!(names, ["debian:12", "debian:12-base", "debian:12-build"]);
        assert!(CATALOG.iter().all(|e| find(e.name) == Some(e)));
    }

    #[test]
    fn a_mistyped_name_gets_the_nearest_one() {
        assert_eq!(nearest("debain:12"), Some("debian:12"));
        assert_eq!(nearest("debian:12-biuld"), Some("debian:12-build"));
        assert_eq!(nearest("debian12"), Some("debian:12"));
        assert_eq!(nearest("windows:11"), None);
        assert_eq!(nearest(&"x".repeat(10_000)), None);
    }
}
