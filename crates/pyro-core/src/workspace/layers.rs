//! Files of disk layers: made before a record names them, removed after none does.

use super::{WorkspaceError, garbage, now};
use crate::faults::FaultPoint;
use crate::places::{FileLock, Hold, Places, create_private_dir};
use crate::store::{LayerId, StateStore};
use pyro_vmm::block::{self, DiskReader};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// A layer's file that nothing needs yet. Dropped without [`NewLayer::keep`] it is removed.
#[derive(Debug)]
pub(crate) struct NewLayer {
    id: LayerId,
    path: PathBuf,
    file: File,
    kept: bool,
    /// Nobody else collects garbage meanwhile.
    _making: FileLock,
}

impl NewLayer {
    /// Makes an empty file; the machine gives it its form.
    pub(crate) fn make_file(store: &StateStore, places: &Places) -> io::Result<Self> {
        Self::make_file_under(store, places, FileLock::take(&places.layers_lock(), Hold::Shared)?)
    }

    /// The same for a caller that holds the lock already.
    fn make_file_under(store: &StateStore, places: &Places, making: FileLock) -> io::Result<Self> {
        create_private_dir(&places.layers())?;
        let id = LayerId::from_bytes(random()?);
        let path = places.layer(id);
        store.announce_layer(id, now()).map_err(io::Error::other)?;
        places.reach(FaultPoint::LayerAnnounced);
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        // Its name is durable before a record has it.
        File::open(places.layers())?.sync_all()?;
        places.reach(FaultPoint::LayerMade);
        Ok(Self { id, path, file, kept: false, _making: making })
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
/// nothing needs. Left for another time while somebody makes or opens layers.
pub(crate) fn merge(store: &StateStore, places: &Places) -> Result<(), WorkspaceError> {
    let failed = || WorkspaceError::state("merge layers in", places.layers());
    loop {
        let lock = FileLock::try_take(&places.layers_lock(), Hold::Exclusive).map_err(failed())?;
        let (Some(alone), Some((lower, upper))) = (lock, store.mergeable_layers()?.into_iter().next()) else {
            return Ok(());
        };
        let merged = NewLayer::make_file_under(store, places, alone).map_err(failed())?;
        let open = |id| File::open(places.layer(id)).map_err(failed());
        block::merge(&open(lower)?, &open(upper)?, &merged.file)
            .map_err(|error| failed()(io::Error::other(error)))?;
        places.reach(FaultPoint::MergeWritten);
        store.replace_layers(lower, upper, merged.id, now())?;
        places.reach(FaultPoint::MergeRecorded);
        merged.keep();
        garbage::collect_layers(store, places)?;
    }
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
