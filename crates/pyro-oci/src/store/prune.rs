//! Removing what nobody needs.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::lock::{Lock, PARTIAL, PartialDir};
use super::{Installed, Store, StoreError, dir_name, read_installed};
use crate::catalog;
use crate::flatten::FORMATTER;
use crate::reference::Reference;

/// What pruning removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Names of removed directories, sorted.
    pub directories: Vec<String>,
    /// Bytes that the disk got back, downloads included.
    pub freed_bytes: u64,
}

impl Store {
    /// Removes what is left over: partial directories that nobody works in, installations that are
    /// damaged, of another version than the catalog's, or by another formatter, images that no
    /// installation links to, and downloads that nobody continues. `keep` names directories to leave
    /// alone (those that workspaces stand on). What is in use by another process stays.
    ///
    /// # Errors
    /// When the cache cannot be read or something cannot be removed.
    pub fn prune(&self, keep: &HashSet<String>) -> Result<Pruned, StoreError> {
        let mut pruned = Pruned::default();
        for path in children(&self.platform_dir())? {
            let name = file_name(&path);
            if name.starts_with(PARTIAL) {
                if let Some(_held) = PartialDir::abandoned(&path) {
                    pruned.remove_dir(&path, name)?;
                }
            } else if !name.starts_with('.') && !keep.contains(&name) && is_stale(&path) {
                let lock = self.lock_path(&name);
                self.make_dir(&self.platform_dir().join(".locks"))?;
                let held = Lock::try_take(&lock).map_err(StoreError::at("locking", &lock))?;
                // Looked at again under the lock: it may have been repaired meanwhile.
                if held.is_some() && is_stale(&path) {
                    pruned.remove_dir(&path, name)?;
                }
            }
        }
        self.prune_images(&mut pruned)?;
        self.prune_downloads(&mut pruned)?;
        pruned.directories.sort();
        Ok(pruned)
    }

    /// Removes one environment. Returns whether there was one. Machines that run keep their open files.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub async fn remove(&self, reference: &Reference) -> Result<bool, StoreError> {
        let dir = self.install_dir(reference);
        if fs::symlink_metadata(&dir).is_err() {
            return Ok(false);
        }
        self.make_dir(&self.platform_dir().join(".locks"))?;
        let lock = self.lock_path(&dir_name(reference));
        let _held = Lock::wait(lock.clone()).await.map_err(StoreError::at("locking", &lock))?;
        let mut pruned = Pruned::default();
        pruned.remove_dir(&dir, String::new())?;
        self.prune_images(&mut pruned)?;
        Ok(true)
    }

    /// Partial directories of processes that died; called when something is about to be installed.
    pub(super) fn sweep(&self) -> Result<(), StoreError> {
        for path in children(&self.platform_dir())? {
            if file_name(&path).starts_with(PARTIAL)
                && let Some(_held) = PartialDir::abandoned(&path)
            {
                // Wreckage that cannot go (another user's) is no reason not to install; pruning tells.
                drop(fs::remove_dir_all(&path));
            }
        }
        Ok(())
    }

    fn prune_images(&self, pruned: &mut Pruned) -> Result<(), StoreError> {
        for path in children(&self.platform_dir().join(".images"))? {
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            if metadata.nlink() <= 1 {
                pruned.remove_file(&path, &metadata)?;
            }
        }
        Ok(())
    }

    fn prune_downloads(&self, pruned: &mut Pruned) -> Result<(), StoreError> {
        let dir = self.platform_dir().join(".downloads");
        for path in children(&dir)? {
            let name = file_name(&path);
            if name.ends_with(".lock") {
                // Nobody's, when it can be taken; then it goes with the value.
                drop(Lock::try_take(&path).map_err(StoreError::at("locking", &path))?);
                continue;
            }
            let lock = dir.join(format!("{}.lock", name.trim_end_matches(".part")));
            let held = Lock::try_take(&lock).map_err(StoreError::at("locking", &lock))?;
            if held.is_some()
                && let Ok(metadata) = fs::symlink_metadata(&path)
            {
                pruned.remove_file(&path, &metadata)?;
            }
        }
        Ok(())
    }
}

impl Pruned {
    fn remove_dir(&mut self, path: &Path, name: String) -> Result<(), StoreError> {
        let freed = disk_bytes(path);
        let removed = match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
            _ => fs::remove_file(path),
        };
        match removed {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(StoreError::at("removing", path))?,
        }
        self.directories.push(name);
        self.freed_bytes += freed;
        Ok(())
    }

    fn remove_file(&mut self, path: &Path, metadata: &fs::Metadata) -> Result<(), StoreError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => {
                self.freed_bytes += metadata.blocks() * 512;
                other.map_err(StoreError::at("removing", path))
            }
        }
    }
}

/// Bytes that removing a directory of ours gives back: files with another name elsewhere give none.
fn disk_bytes(dir: &Path) -> u64 {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    files.filter_map(|f| f.metadata().ok()).filter(|m| m.nlink() <= 1).map(|m| m.blocks() * 512).sum()
}

fn is_stale(dir: &Path) -> bool {
    let Some(Installed { name, version, kernel, record, .. }) = read_installed(dir) else { return true };
    match catalog::find(&name) {
        Some(entry) => entry.version != version || kernel.is_none(),
        None => name.parse::<Reference>().is_err() || record.formatter.is_some_and(|f| f != FORMATTER),
    }
}

fn children(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    match fs::read_dir(dir) {
        Ok(entries) => Ok(entries.flatten().map(|entry| entry.path()).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(StoreError::at("reading", dir)(error)),
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
