//! A workspace's disk, read from outside of the guest.

use super::files::{FileContent, FileEntry, FileListing, text_path};
use super::{EXECUTION_MODE, Pyro, WORKSPACE_PATH, WorkspaceError, WorkspaceId};
use crate::limits::{FILE_BYTES, LIST_ENTRIES};
use crate::places::FileLock;
use crate::transfer::MadeParents;
use pyro_diff::ext4::Depth;
use pyro_diff::{Entry, EntryKind, Ext4, ReadAt};
use pyro_vmm::block::{self, DiskReader};
use serde::Serialize;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A disk that was copied out.
#[derive(Clone, Debug, Serialize)]
pub struct DiskExport {
    /// The workspace.
    pub workspace_id: String,
    /// The raw image.
    pub output_path: PathBuf,
    /// `ext4`.
    pub disk_format: &'static str,
    /// Bytes that are not holes.
    pub bytes_written: u64,
}

/// A stack of layers as one disk.
pub(super) struct Disk {
    reader: DiskReader,
    /// Keeps machines from writing the top.
    _held: Option<FileLock>,
}

impl ReadAt for Disk {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.reader.read_at(buf, offset)
    }
}

impl Pyro {
    /// The disk as it is at a snapshot, or as it lies, which must be `held` then.
    pub(super) fn open_disk(
        &self,
        id: WorkspaceId,
        snapshot: Option<&str>,
        held: Option<FileLock>,
    ) -> Result<Disk, WorkspaceError> {
        // Which layer that is, is as good as its file only while nobody merges or collects.
        let _opening = self.keep_layers()?;
        let top = match snapshot {
            Some(name) => self.store.snapshot(id, name)?.layer,
            None => self.store.get(id)?.top_layer,
        };
        let workspace = self.store.get(id)?;
        let base = self.places.base_of(&workspace);
        let open = |path: PathBuf| File::open(&path).map_err(WorkspaceError::state("open", path));
        let chain = self.store.chain(top)?;
        let layers = chain.iter().map(|layer| open(self.places.layer(layer.id)));
        let layers = layers.collect::<Result<Vec<_>, _>>()?;
        let reader = DiskReader::open(open(base)?, layers);
        let reader = reader.map_err(|error| WorkspaceError::Disk { id, reason: error.to_string() })?;
        Ok(Disk { reader, _held: held })
    }

    /// Copies the whole disk of a stopped workspace into a new raw image, with holes where it is empty.
    pub async fn disk_export(&self, address: &str, output: &Path) -> Result<DiskExport, WorkspaceError> {
        let id = self.resolve(address)?;
        let disk = self.disk_at_rest(id, "workspace_disk_export").await?;
        if output.symlink_metadata().is_ok() {
            return Err(WorkspaceError::OutputExists(output.to_owned()));
        }
        let failed = || WorkspaceError::state("write", output);
        let dir = output.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let parents = MadeParents::of(output).map_err(failed())?;
        // Beside its place, so that it appears there whole. The name goes when nobody waits any more, and what
        // the thread still writes then goes nowhere.
        let (image, name) = tempfile::NamedTempFile::new_in(dir).map_err(failed())?.into_parts();
        let bytes_written =
            tokio::task::spawn_blocking(move || block::export_raw(&disk.reader, &image, |_| ()))
                .await
                .map_err(|error| failed()(io::Error::other(error)))?
                .map_err(failed())?;
        name.persist_noclobber(output).map_err(|error| match error.error.kind() {
            io::ErrorKind::AlreadyExists => WorkspaceError::OutputExists(output.to_owned()),
            _ => failed()(error.error),
        })?;
        parents.keep(output).map_err(failed())?;
        Ok(DiskExport {
            workspace_id: id.to_string(),
            output_path: output.to_owned(),
            disk_format: "ext4",
            bytes_written,
        })
    }

    /// Lists a directory of a stopped workspace's disk, anywhere on it.
    pub async fn disk_list(
        &self,
        address: &str,
        path: &str,
        recursive: bool,
    ) -> Result<FileListing, WorkspaceError> {
        let id = self.resolve(address)?;
        let path = disk_path(path)?;
        let disk = self.disk_at_rest(id, "workspace_disk_list").await?;
        let depth = if recursive { Depth::All } else { Depth::Children };
        let at = path.clone();
        let entries = apart(move || Ok(Ext4::open(disk)?.list(&at, depth, LIST_ENTRIES)?)).await?;
        Ok(FileListing {
            workspace_id: id.to_string(),
            recursive,
            entries: entries.iter().map(shown).collect(),
            path: text_path(&path),
            truncated: false,
            execution_mode: EXECUTION_MODE,
        })
    }

    /// Reads a file of a stopped workspace's disk, anywhere on it.
    pub async fn disk_read(
        &self,
        address: &str,
        path: &str,
        max_bytes: u64,
    ) -> Result<FileContent, WorkspaceError> {
        let id = self.resolve(address)?;
        crate::limits::check("max_bytes", max_bytes, &FILE_BYTES)?;
        let path = disk_path(path)?;
        let disk = self.disk_at_rest(id, "workspace_disk_read").await?;
        let at = path.clone();
        let (bytes, size_bytes) = apart(move || Ok(Ext4::open(disk)?.read_prefix(&at, max_bytes)?)).await?;
        Ok(FileContent::new(id, text_path(&path), size_bytes, max_bytes, bytes))
    }

    async fn disk_at_rest(&self, id: WorkspaceId, operation: &'static str) -> Result<Disk, WorkspaceError> {
        match self.hold_at_rest(id).await? {
            Some(held) => self.open_disk(id, None, Some(held)),
            None => Err(WorkspaceError::NotStopped { id, operation }),
        }
    }
}

/// Does what takes its time without waiting for anything, apart from the tasks of the runtime.
pub(super) async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WorkspaceError> + Send + 'static,
) -> Result<T, WorkspaceError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}

/// An absolute path; another one is below `/workspace`.
fn disk_path(path: &str) -> Result<Vec<u8>, WorkspaceError> {
    let path = path.trim();
    if path.is_empty() {
        return Err(WorkspaceError::EmptyPath);
    }
    Ok(Path::new(WORKSPACE_PATH).join(path).as_os_str().as_bytes().to_vec())
}

fn shown(entry: &Entry) -> FileEntry {
    FileEntry {
        path: format!("/{}", text_path(&entry.path)),
        artifact_type: match entry.kind {
            EntryKind::File => "file",
            EntryKind::Directory => "directory",
            EntryKind::Symlink => "symlink",
            EntryKind::Other => "other",
        },
        size_bytes: if entry.kind == EntryKind::Directory { 0 } else { entry.size },
        link_target: (entry.kind == EntryKind::Symlink).then(|| text_path(&entry.link_target)),
    }
}
