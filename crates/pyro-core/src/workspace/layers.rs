//! Files of disk layers: made before a record names them, removed after none does.

use super::{WorkspaceError, garbage, now};
use crate::faults::FaultPoint;
use crate::limits::MACHINE_LOCK_DEADLINE;
use crate::places::{FileLock, Hold, Places, create_private_dir};
use crate::store::{LayerId, StateStore};
use pyro_vmm::block::{self, DiskReader};
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// A layer's file that nothing needs yet. Dropped without [`NewLayer::keep`] it is removed.
#[derive(Debug)]
pub(crate) struct NewLayer {
    id: LayerId,
    path: PathBuf,
    file: File,
    kept: bool,
    /// Nobody collects garbage meanwhile.
    making: Option<FileLock>,
}

impl NewLayer {
    /// Makes an empty file; the machine gives it its form.
    pub(crate) fn make_file(store: &StateStore, places: &Places) -> io::Result<Self> {
        let making = Some(FileLock::take(&places.layers_lock(), Hold::Shared)?);
        create_private_dir(&places.layers())?;
        let id = LayerId::from_bytes(random()?);
        let path = places.layer(id);
        store.announce_layer(id, now()).map_err(io::Error::other)?;
        places.reach(FaultPoint::LayerAnnounced);
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        // Its name is durable before a record has it.
        File::open(places.layers())?.sync_all()?;
        places.reach(FaultPoint::LayerMade);
        Ok(Self { id, path, file, kept: false, making })
    }

    /// Makes an empty delta over `base` and the sealed `parents`, bottom first.
    pub(crate) fn make_delta(
        store: &StateStore,
        places: &Places,
        base: &Path,
        parents: &[PathBuf],
    ) -> io::Result<Self> {
        let layer = Self::make_file(store, places)?;
        let parent = parents.last().map(File::open).transpose()?;
        let size_bytes = File::open(base)?.metadata()?.len();
        block::create_delta(&layer.file, parent.as_ref(), size_bytes).map_err(io::Error::other)?;
        layer.file.sync_all()?;
        Ok(layer)
    }

    pub(crate) fn id(&self) -> LayerId {
        self.id
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// A record names it.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for NewLayer {
    fn drop(&mut self) {
        if !self.kept {
            // The announcement stays, and whatever else does, for the next who collects garbage.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Puts one layer in the place of each two of which the lower serves the upper alone, and removes what
/// nothing needs. Others make and open layers while it copies: only when one layer takes the place of two are
/// they kept out. Left for another time where they do not come to an end.
pub(crate) async fn merge(store: &StateStore, places: &Places) -> Result<(), WorkspaceError> {
    let failed = || WorkspaceError::state("merge layers in", places.layers());
    while let Some((lower, upper)) = store.mergeable_layers()?.into_iter().next() {
        let Some(merged) = write_merged(store, places, lower, upper).await? else { continue };
        let lock = places.layers_lock();
        let alone = FileLock::take_within(&lock, Hold::Exclusive, MACHINE_LOCK_DEADLINE).await;
        let Some(alone) = alone.map_err(failed())? else { return Ok(()) };
        // Between two locks nobody keeps from collecting what no record needs.
        if !merged.path.exists() {
            return Ok(());
        }
        // Somebody else may have merged them, or put something between.
        if store.mergeable_layers()?.contains(&(lower, upper)) {
            store.replace_layers(lower, upper, merged.id, now())?;
            places.reach(FaultPoint::MergeRecorded);
            merged.keep();
            drop(alone);
            garbage::collect_layers(store, places)?;
        }
    }
    Ok(())
}

/// Copies two layers into a new one that nothing needs yet; `None` where they are not what they were any more.
async fn write_merged(
    store: &StateStore,
    places: &Places,
    lower: LayerId,
    upper: LayerId,
) -> Result<Option<NewLayer>, WorkspaceError> {
    let failed = || WorkspaceError::state("merge layers in", places.layers());
    let mut merged = NewLayer::make_file(store, places).map_err(failed())?;
    // Nobody collects or merges from here on.
    if !store.mergeable_layers()?.contains(&(lower, upper)) {
        return Ok(None);
    }
    let open = |id| File::open(places.layer(id)).map_err(failed());
    let (below, above) = (open(lower)?, open(upper)?);
    let into = merged.file.try_clone().map_err(failed())?;
    // Where nobody waits for it any more, it goes on into a file without a name.
    let copied = tokio::task::spawn_blocking(move || block::merge(&below, &above, &into)).await;
    copied.map_err(io::Error::other).and_then(|copied| copied.map_err(io::Error::other)).map_err(failed())?;
    places.reach(FaultPoint::MergeWritten);
    merged.making = None;
    Ok(Some(merged))
}

/// Bytes that a layer's file holds, tables apart; 0 where it cannot be read.
pub(crate) fn allocated_bytes(layer: &Path) -> u64 {
    File::open(layer).ok().and_then(|file| block::allocated_bytes(&file).ok()).unwrap_or(0)
}

/// Files, directories and links on the ext4 file system of a disk that nobody writes, from the counts in its
/// superblock; 0 where it has none. See the kernel's documentation of ext4, section "The Super Block".
pub(crate) fn entries_on(base: &Path, layers: &[PathBuf]) -> u64 {
    let read = || -> Option<u64> {
        let layers = layers.iter().map(File::open).collect::<io::Result<Vec<_>>>().ok()?;
        let disk = DiskReader::open(File::open(base).ok()?, layers).ok()?;
        let mut superblock = [0; 0x60];
        disk.read_at(&mut superblock, 1024).ok()?;
        let number = |at: usize| Some(u32::from_le_bytes(superblock.get(at..at + 4)?.try_into().ok()?));
        let (total, free, first) = (number(0x0)?, number(0x10)?, number(0x54)?);
        Some(u64::from(total.saturating_sub(free)).saturating_sub(u64::from(first.saturating_sub(1))))
    };
    read().unwrap_or(0)
}

/// Random bytes.
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
