//! Puts what a guest sent in place on the host, whole or not at all.

use super::TransferError;
use pyro_tree::{LinkPolicy, Root, SingleKind, SkipReason, Skipped, TreeStats};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// The longest name that file systems take is 255 bytes; so many of the target's name leave room for ours.
const MAX_NAME_IN_STAGE: usize = 200;

/// What to do when something is at the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overwrite {
    /// Leave it and fail.
    #[default]
    Refuse,
    /// Put the new tree in its place at once, and remove it.
    Replace,
}

/// Where a guest's tree goes.
#[derive(Clone, Debug)]
pub struct ExportTarget {
    path: PathBuf,
    overwrite: Overwrite,
}

/// What came to be at an [`ExportTarget`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportReport {
    /// What it is.
    pub artifact: Artifact,
    /// Entries, a directory itself included.
    pub entry_count: u64,
    /// Bytes of file contents, holes not counted.
    pub bytes_written: u64,
    /// Entries that were left out, in the guest or here.
    pub skipped_count: u64,
    /// The first of those left out here, such as links that lead out.
    pub skipped: Vec<Skipped>,
    /// What was replaced and could not be removed.
    pub left_behind: Option<PathBuf>,
}

/// What was exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Artifact {
    /// A regular file.
    File,
    /// A directory tree.
    Directory,
    /// A symbolic link.
    Symlink,
}

impl Artifact {
    /// The word in outputs and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Symlink => "symlink",
        }
    }
}

impl ExportTarget {
    /// A target at `path`, whose parents are made when needed. Fails early when something is there that
    /// must not be replaced.
    pub fn new(path: &Path, overwrite: Overwrite) -> Result<Self, TransferError> {
        if path.file_name().is_none() {
            return Err(TransferError::OutputName(path.to_owned()));
        }
        // Without a slash at its end, which would follow a link.
        let target = Self { path: path.components().collect(), overwrite };
        match target.path.symlink_metadata() {
            Ok(_) if overwrite == Overwrite::Refuse => Err(TransferError::OutputExists(path.to_owned())),
            Ok(_) => Ok(target),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(target),
            Err(source) => Err(TransferError::Output { path: path.to_owned(), source }),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn overwrite(&self) -> Overwrite {
        self.overwrite
    }

    /// A new hidden directory beside the target.
    pub(super) fn stage(&self) -> Result<Stage, TransferError> {
        let failed = |source| TransferError::Output { path: self.path.clone(), source };
        let parent = parent_of(&self.path);
        let made_parents = MadeParents::of(&self.path).map_err(failed)?;
        let mut stage = Stage { target: self.path.clone(), path: None, made_parents };
        let name = self.path.file_name().unwrap_or_default().as_bytes();
        let name = &name[..name.len().min(MAX_NAME_IN_STAGE)];
        let prefix: OsString =
            [OsStr::new("."), OsStr::from_bytes(name), OsStr::new(".pyro-")].into_iter().collect();
        let made = tempfile::Builder::new().prefix(&prefix).rand_bytes(12).tempdir_in(parent);
        // Its own clean-up knows nothing of directories that forbid their owner to write.
        stage.path = Some(made.map_err(failed)?.keep());
        Ok(stage)
    }
}

/// Directories that were made for an output. Dropped without [`MadeParents::keep`] they vanish, where they are
/// empty.
#[derive(Debug, Default)]
pub(crate) struct MadeParents {
    /// Innermost first.
    made: Vec<PathBuf>,
}

impl MadeParents {
    /// Makes what is missing above `output`.
    pub(crate) fn of(output: &Path) -> io::Result<Self> {
        let parent = parent_of(output);
        let missing = parent.ancestors().take_while(|above| above.symlink_metadata().is_err());
        let missing = missing.filter(|above| !above.as_os_str().is_empty());
        let made = Self { made: missing.map(Path::to_owned).collect() };
        std::fs::create_dir_all(parent)?;
        Ok(made)
    }

    /// They stay; their names are made durable, and that of `output`, which is there by now.
    pub(crate) fn keep(mut self, output: &Path) -> io::Result<()> {
        let made = std::mem::take(&mut self.made);
        for named in made.iter().map(PathBuf::as_path).chain([output]) {
            match File::open(parent_of(named)) {
                Ok(directory) => directory.sync_all()?,
                // Then it is as durable as any other copy.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Drop for MadeParents {
    fn drop(&mut self) {
        for parent in &self.made {
            let _ = std::fs::remove_dir(parent);
        }
    }
}

/// A tree in the making. Dropped without [`Stage::commit`] it vanishes, with the parents made for it.
pub(super) struct Stage {
    target: PathBuf,
    path: Option<PathBuf>,
    /// Go after what is staged in them.
    made_parents: MadeParents,
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = pyro_tree::remove_tree(path);
        }
    }
}

impl Stage {
    /// Gives up the directory for its one entry, which then lies beside the target: a directory that forbids
    /// writing can be exchanged with it there, but not be moved elsewhere.
    fn become_entry(&mut self, entry: &Path) -> io::Result<()> {
        let mut beside = self.path().as_os_str().to_owned();
        beside.push(".entry");
        let beside = PathBuf::from(beside);
        move_new(entry, &beside)?;
        if let Some(directory) = self.path.replace(beside) {
            pyro_tree::remove_tree(&directory)?;
        }
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        self.path.as_deref().expect("a stage has its directory until it is committed")
    }

    /// Moves the finished tree to its target.
    pub(super) fn commit(
        mut self,
        stats: TreeStats,
        overwrite: Overwrite,
        links: LinkPolicy,
    ) -> Result<ExportReport, TransferError> {
        let artifact = match &stats.root {
            Some(Root::Directory) => Artifact::Directory,
            Some(Root::Single { name, kind }) => {
                let path = self.path().join(OsStr::from_bytes(name));
                let artifact = match kind {
                    SingleKind::File => Artifact::File,
                    SingleKind::Symlink => {
                        refuse_link(&stats, &path, links)?;
                        Artifact::Symlink
                    }
                    SingleKind::Other => return Err(TransferError::Pipe),
                };
                self.become_entry(&path)
                    .map_err(|source| TransferError::Output { path: self.target.clone(), source })?;
                artifact
            }
            Some(Root::Loose) | None => return Err(TransferError::Shapeless),
        };
        let failed = |source| TransferError::Output { path: self.target.clone(), source };
        let from = self.path();
        flush(artifact, from).map_err(failed)?;
        let moved = match overwrite {
            Overwrite::Refuse => move_new(from, &self.target),
            Overwrite::Replace => replace(from, &self.target),
        };
        moved.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => TransferError::OutputExists(self.target.clone()),
            _ => failed(source),
        })?;
        // The new name is durable before the old tree goes.
        let named = std::mem::take(&mut self.made_parents).keep(&self.target);
        // What is left of the stage: nothing, or what was replaced.
        let left_behind = self
            .path
            .take()
            .filter(|path| path.symlink_metadata().is_ok() && pyro_tree::remove_tree(path).is_err());
        named.map_err(|source| TransferError::Output { path: self.target.clone(), source })?;
        Ok(ExportReport {
            artifact,
            entry_count: stats.entry_count,
            bytes_written: stats.bytes_written,
            skipped_count: stats.skipped_count,
            skipped: stats.skipped,
            left_behind,
        })
    }
}

/// A link alone leads out of itself, wherever it leads.
fn refuse_link(stats: &TreeStats, path: &Path, links: LinkPolicy) -> Result<(), TransferError> {
    if links == LinkPolicy::All {
        return Ok(());
    }
    let target = match stats.skipped.first() {
        Some(Skipped { reason: SkipReason::LinkOutside { target }, .. }) => {
            String::from_utf8_lossy(target).into_owned()
        }
        _ => std::fs::read_link(path).unwrap_or_default().to_string_lossy().into_owned(),
    };
    Err(TransferError::LinkOutside { target })
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes contents durable, so that a host that loses power has the whole of what it has a name for. A tree is
/// not flushed file by file: that would take many times as long as one flush of its file system.
fn flush(artifact: Artifact, path: &Path) -> io::Result<()> {
    match artifact {
        // Goes with its name.
        Artifact::Symlink => Ok(()),
        Artifact::File => match File::open(path) {
            Ok(file) => file.sync_all(),
            // Its owner may not read it.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => flush_beside(path),
            Err(error) => Err(error),
        },
        Artifact::Directory => flush_beside(path),
    }
}

/// Makes all of the file system durable that `path` is on.
fn flush_beside(path: &Path) -> io::Result<()> {
    match File::open(parent_of(path)) {
        Ok(parent) => Ok(rustix::fs::syncfs(parent)?),
        // Then it is as durable as any other copy.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(error),
    }
}

fn move_new(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Some network file systems have plain renames only.
        Err(Errno::INVAL | Errno::NOSYS) if to.symlink_metadata().is_err() => std::fs::rename(from, to),
        other => Ok(other?),
    }
}

/// Afterwards what was at `to` is at `from`, or nothing is.
fn replace(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE) {
        Err(Errno::NOENT) => move_new(from, to),
        Err(Errno::INVAL | Errno::NOSYS) => {
            let mut aside = from.as_os_str().to_owned();
            aside.push(".old");
            std::fs::rename(to, &aside)?;
            if let Err(error) = std::fs::rename(from, to) {
                std::fs::rename(&aside, to)?;
                return Err(error);
            }
            std::fs::rename(&aside, from)
        }
        other => Ok(other?),
    }
}
