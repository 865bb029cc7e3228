//! Where the source tree is.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The top of the source tree that this program was built from.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// Cargo's target directory: `CARGO_TARGET_DIR`, or `target` in the tree.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace().join("target"), |dir| workspace().join(dir))
}

/// The path that an environment variable names, unless it is empty.
pub(crate) fn set_path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Where this user's caches are: `$XDG_CACHE_HOME` or `~/.cache`.
pub(crate) fn user_cache() -> Result<PathBuf> {
    let base = set_path("XDG_CACHE_HOME").or_else(|| set_path("HOME").map(|home| home.join(".cache")));
    base.context("neither XDG_CACHE_HOME nor HOME is set")
}

/// The files of the tree: tracked ones and new ones that no ignore rule names, relative to `root`.
pub(crate) fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let listing = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"])
        .current_dir(root)
        .output()
        .context("cannot run git")?;
    ensure!(listing.status.success(), "git ls-files failed in {}", root.display());
    let mut files: Vec<PathBuf> = String::from_utf8_lossy(&listing.stdout)
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(PathBuf::from)
        .filter(|name| root.join(name).is_file())
        .collect();
    files.sort();
    Ok(files)
}
