//! Single files of a running workspace, and patches.

use super::{EXECUTION_MODE, Pyro, WORKSPACE_PATH, WorkspaceError, WorkspaceId};
use crate::guest::{self, FileFacts, FileKind, GuestPath};
use crate::limits::{FILE_BYTES, LIST_ENTRIES};
use crate::store::EventKind;
use serde::Serialize;
use serde_json::json;
use std::path::{Component, Path};

mod patch;

pub use patch::{PatchEntry, PatchReport, PatchSummary};

/// A listing.
#[derive(Clone, Debug, Serialize)]
pub struct FileListing {
    /// The workspace.
    pub workspace_id: String,
    /// What was listed.
    pub path: String,
    /// Whether what is in directories was listed, too.
    pub recursive: bool,
    /// What there is, siblings sorted, a directory before what is in it.
    pub entries: Vec<FileEntry>,
    /// Whether there is more.
    pub truncated: bool,
    /// `guest_vsock`.
    pub execution_mode: &'static str,
}

/// One name of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileEntry {
    /// Absolute path in the guest; bytes that are no UTF-8 are replaced.
    pub path: String,
    /// `file`, `directory`, `symlink` or `other`.
    pub artifact_type: &'static str,
    /// Bytes of content; 0 for a directory.
    pub size_bytes: u64,
    /// Where a link points.
    pub link_target: Option<String>,
}

/// The metadata of a file.
#[derive(Clone, Debug, Serialize)]
pub struct FileStat {
    /// The workspace.
    pub workspace_id: String,
    /// The file.
    #[serde(flatten)]
    pub entry: FileEntry,
    /// Permission bits, octal.
    pub mode: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When its content changed, seconds since the Unix epoch.
    pub modified_at: f64,
    /// `guest_vsock`.
    pub execution_mode: &'static str,
}

/// A file's content.
#[derive(Clone, Debug, Serialize)]
pub struct FileContent {
    /// The workspace.
    pub workspace_id: String,
    /// The file.
    pub path: String,
    /// Bytes of the whole file.
    pub size_bytes: u64,
    /// The most that was asked for.
    pub max_bytes: u64,
    /// The bytes.
    #[serde(skip)]
    pub bytes: Vec<u8>,
    /// The same as text; bytes that are no UTF-8 are replaced.
    pub content: String,
    /// Whether the file goes on.
    pub truncated: bool,
    /// `guest_vsock`.
    pub execution_mode: &'static str,
}

impl FileContent {
    pub(super) fn new(
        id: WorkspaceId,
        path: String,
        size_bytes: u64,
        max_bytes: u64,
        bytes: Vec<u8>,
    ) -> Self {
        Self {
            workspace_id: id.to_string(),
            path,
            size_bytes,
            max_bytes,
            content: String::from_utf8_lossy(&bytes).into_owned(),
            truncated: (bytes.len() as u64) < size_bytes,
            bytes,
            execution_mode: EXECUTION_MODE,
        }
    }
}

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileWritten {
    /// The workspace.
    pub workspace_id: String,
    /// The file.
    pub path: String,
    /// Bytes of its content now.
    pub size_bytes: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Whether there was none before.
    pub created: bool,
    /// `guest_vsock`.
    pub execution_mode: &'static str,
}

/// A name that was made, moved or removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileChanged {
    /// The workspace.
    pub workspace_id: String,
    /// The name; of a move the new one.
    pub path: String,
    /// `guest_vsock`.
    pub execution_mode: &'static str,
}

impl Pyro {
    /// Lists a directory, or tells of a single file.
    pub async fn file_list(
        &self,
        address: &str,
        path: &str,
        recursive: bool,
    ) -> Result<FileListing, WorkspaceError> {
        let id = self.resolve(address)?;
        let path = workspace_path(path)?;
        let link = self.started(id, "workspace_file_list")?;
        let at = GuestPath::from(path.as_str());
        let list = async {
            let limit = LIST_ENTRIES as u64;
            let listing = guest::file_list(link.agent().await?, &root(), &at, recursive, limit).await?;
            Ok(listing.collect(LIST_ENTRIES).await?)
        };
        let (entries, listed) = self.during(id, &link, list).await?;
        let entries =
            entries.iter().map(|entry| entry_of(&below(&path, &entry.path), &entry.facts)).collect();
        Ok(FileListing {
            workspace_id: id.to_string(),
            path,
            recursive,
            entries,
            truncated: listed.truncated,
            execution_mode: EXECUTION_MODE,
        })
    }

    /// The metadata of one name; a link is not followed.
    pub async fn file_stat(&self, address: &str, path: &str) -> Result<FileStat, WorkspaceError> {
        let id = self.resolve(address)?;
        let path = workspace_path(path)?;
        let link = self.started(id, "workspace_file_stat")?;
        let at = GuestPath::from(path.as_str());
        let stat = async { Ok(guest::file_stat(link.agent().await?, &root(), &at).await?) };
        let facts = self.during(id, &link, stat).await?;
        #[allow(clippy::cast_precision_loss, reason = "seconds of a file's time are far below 2^53")]
        let seconds = facts.mtime.seconds as f64;
        Ok(FileStat {
            workspace_id: id.to_string(),
            entry: entry_of(path.as_bytes(), &facts),
            mode: format!("{:04o}", facts.mode),
            uid: facts.uid,
            gid: facts.gid,
            modified_at: seconds + f64::from(facts.mtime.nanos) / 1e9,
            execution_mode: EXECUTION_MODE,
        })
    }

    /// Reads the beginning of a regular file.
    pub async fn file_read(
        &self,
        address: &str,
        path: &str,
        max_bytes: u64,
    ) -> Result<FileContent, WorkspaceError> {
        crate::limits::check("max_bytes", max_bytes, &FILE_BYTES)?;
        let id = self.resolve(address)?;
        let path = workspace_path(path)?;
        let link = self.started(id, "workspace_file_read")?;
        let at = GuestPath::from(path.as_str());
        let read = async {
            let reader = guest::file_read(link.agent().await?, &root(), &at, 0, max_bytes).await?;
            Ok(reader.read_to_end().await?)
        };
        let (bytes, read) = self.during(id, &link, read).await?;
        Ok(FileContent::new(id, path, read.size_bytes, max_bytes, bytes))
    }

    /// Writes a file in one step, with missing parents. An existing one keeps its mode and owner.
    pub async fn file_write(
        &self,
        address: &str,
        path: &str,
        content: &[u8],
    ) -> Result<FileWritten, WorkspaceError> {
        let id = self.resolve(address)?;
        let path = workspace_path(path)?;
        let link = self.started(id, "workspace_file_write")?;
        let at = GuestPath::from(path.as_str());
        let write = async {
            let mut upload = guest::file_write(link.agent().await?, &root(), &at, None, true).await?;
            upload.send(content).await?;
            Ok(upload.finish().await?)
        };
        let written = self.during(id, &link, write).await?;
        self.record(id, EventKind::FileWrite, &json!({ "path": path, "bytes": written.bytes_written }));
        Ok(FileWritten {
            workspace_id: id.to_string(),
            path,
            size_bytes: written.bytes_written,
            bytes_written: written.bytes_written,
            created: written.created,
            execution_mode: EXECUTION_MODE,
        })
    }

    /// Removes a file, or with `recursive` a tree.
    pub async fn file_remove(
        &self,
        address: &str,
        path: &str,
        recursive: bool,
    ) -> Result<FileChanged, WorkspaceError> {
        let id = self.resolve(address)?;
        let path = workspace_path(path)?;
        let link = self.started(id, "workspace_file_remove")?;
        let at = GuestPath::from(path.as_str());
        let remove = async { Ok(guest::file_remove(link.agent().await?, &root(), &at, recursive).await?) };
        self.during(id, &link, remove).await?;
        self.record(id, EventKind::FileRemove, &json!({ "path": path }));
        Ok(changed(id, path))
    }

    /// Makes a directory; with `parents` also those above it, and it may exist.
    pub async fn file_mkdir(
        &self,
        address: &str,
        path: &str,
        parents: bool,
    ) -> Result<FileChanged, WorkspaceError> {
        let id = self.resolve(address)?;
        let path = workspace_path(path)?;
        let link = self.started(id, "workspace_file_mkdir")?;
        let at = GuestPath::from(path.as_str());
        let make = async { Ok(guest::file_mkdir(link.agent().await?, &root(), &at, parents).await?) };
        self.during(id, &link, make).await?;
        self.record(id, EventKind::FileMkdir, &json!({ "path": path }));
        Ok(changed(id, path))
    }

    /// Renames; with `replace` also over something else.
    pub async fn file_move(
        &self,
        address: &str,
        from: &str,
        to: &str,
        replace: bool,
    ) -> Result<FileChanged, WorkspaceError> {
        let id = self.resolve(address)?;
        let (from, to) = (workspace_path(from)?, workspace_path(to)?);
        let link = self.started(id, "workspace_file_move")?;
        let (old, new) = (GuestPath::from(from.as_str()), GuestPath::from(to.as_str()));
        let rename = async { Ok(guest::file_move(link.agent().await?, &root(), &old, &new, replace).await?) };
        self.during(id, &link, rename).await?;
        self.record(id, EventKind::FileMove, &json!({ "from": from, "to": to }));
        Ok(changed(id, to))
    }
}

fn root() -> GuestPath {
    GuestPath::from(WORKSPACE_PATH)
}

fn changed(id: WorkspaceId, path: String) -> FileChanged {
    FileChanged { workspace_id: id.to_string(), path, execution_mode: EXECUTION_MODE }
}

/// An absolute path at or below `/workspace`. A relative one is below it.
pub(super) fn workspace_path(path: &str) -> Result<String, WorkspaceError> {
    let path = path.trim();
    if path.is_empty() {
        return Err(WorkspaceError::EmptyPath);
    }
    let whole = Path::new(WORKSPACE_PATH).join(path);
    let outside = || WorkspaceError::Outside(path.to_owned());
    if path.contains('\0') || whole.components().any(|part| part == Component::ParentDir) {
        return Err(outside());
    }
    // Without doubled slashes and `.`.
    let whole: std::path::PathBuf = whole.components().collect();
    if !whole.starts_with(WORKSPACE_PATH) {
        return Err(outside());
    }
    whole.to_str().map(str::to_owned).ok_or_else(outside)
}

/// What is shown of a path of a guest.
pub(super) fn text_path(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn below(directory: &str, path: &[u8]) -> Vec<u8> {
    match path {
        [] => directory.as_bytes().to_vec(),
        path => [directory.as_bytes(), b"/", path].concat(),
    }
}

fn entry_of(path: &[u8], facts: &FileFacts) -> FileEntry {
    FileEntry {
        path: text_path(path),
        artifact_type: match facts.kind {
            FileKind::File => "file",
            FileKind::Directory => "directory",
            FileKind::Symlink => "symlink",
            FileKind::Fifo | FileKind::Socket | FileKind::Device => "other",
        },
        size_bytes: if facts.kind == FileKind::Directory { 0 } else { facts.size_bytes },
        link_target: facts.link_target.as_ref().map(|target| text_path(target.as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_below_the_workspace_however_they_are_written() {
        for (path, whole) in [
            ("a", "/workspace/a"),
            (" src//x/./y ", "/workspace/src/x/y"),
            ("/workspace", "/workspace"),
            ("/workspace/a/", "/workspace/a"),
            (".", "/workspace"),
        ] {
            assert_eq!(workspace_path(path).unwrap(), whole, "{path}");
        }
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        for path in ["..", "a/../../b", "/etc/passwd", "/workspace/../etc", "/workspaces", "a\0b"] {
            assert!(matches!(workspace_path(path), Err(WorkspaceError::Outside(_))), "{path:?}");
        }
        assert!(matches!(workspace_path("  "), Err(WorkspaceError::EmptyPath)));
    }
}
