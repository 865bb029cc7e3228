//! A configuration file of another program: read whole, replaced whole or not at all.

use pyro_core::{Blame, Explain, Problem};
use pyro_diff::{EmitLimits, Side, SideKind, emit};
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Claude Code keeps its history of prompts in the file that lists its servers.
const MOST_BYTES: u64 = 64 << 20;
const MARK: &str = "\u{feff}";

/// A file, or the place of one that is to be made.
#[derive(Clone, Debug)]
pub(crate) struct ConfigFile {
    /// As it was named.
    pub(crate) path: PathBuf,
    /// Where symbolic links lead.
    target: PathBuf,
    before: Option<Before>,
    /// What it holds, without a byte order mark.
    pub(crate) text: String,
}

#[derive(Clone, Debug)]
struct Before {
    bytes: Vec<u8>,
    mode: u32,
    owner: (u32, u32),
}

/// Why a file cannot be read or replaced.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("cannot read '{}'", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("'{}' is not UTF-8 text", .0.display())]
    NotText(PathBuf),
    #[error("'{}' has more than {} MiB", .0.display(), MOST_BYTES >> 20)]
    TooLarge(PathBuf),
    #[error("'{}' is no regular file", .0.display())]
    NoFile(PathBuf),
    #[error("the symbolic link '{}' leads nowhere", .0.display())]
    Dangling(PathBuf),
    #[error("'{}' is read-only", .0.display())]
    ReadOnly(PathBuf),
    #[error("'{}' was changed by another program meanwhile", .0.display())]
    Changed(PathBuf),
    #[error("cannot write '{}'", .path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl Explain for FileError {
    fn explain(&self) -> Problem {
        match self {
            Self::Read { .. } | Self::Write { .. } => Problem::new("client_config_io", Blame::Host, self),
            Self::NotText(_) | Self::TooLarge(_) | Self::NoFile(_) | Self::Dangling(_) => {
                Problem::new("bad_client_config", Blame::Caller, self)
                    .with_hint("`pyro host print-config` prints what has to be in it")
            }
            Self::ReadOnly(_) => Problem::new("read_only_client_config", Blame::Caller, self).with_hint(
                "whoever made it so may keep it elsewhere: put there what `pyro host print-config` prints",
            ),
            Self::Changed(_) => {
                Problem::new("client_config_changed", Blame::Host, self).with_hint("run it again")
            }
        }
    }
}

impl ConfigFile {
    /// Reads `path`; one that is not there is empty.
    pub(crate) fn open(path: &Path) -> Result<Self, FileError> {
        let read = |source| FileError::Read { path: path.to_owned(), source };
        let target = match fs::canonicalize(path) {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if fs::symlink_metadata(path).is_ok() {
                    return Err(FileError::Dangling(path.to_owned()));
                }
                let path = path.to_owned();
                return Ok(Self { target: path.clone(), path, before: None, text: String::new() });
            }
            Err(error) => return Err(read(error)),
        };
        let before = Before::read(&target).map_err(read)?;
        let before = before.ok_or_else(|| match fs::metadata(&target) {
            Ok(found) if found.is_file() => FileError::TooLarge(path.to_owned()),
            _ => FileError::NoFile(path.to_owned()),
        })?;
        let whole = std::str::from_utf8(&before.bytes).map_err(|_| FileError::NotText(path.to_owned()))?;
        let text = whole.strip_prefix(MARK).unwrap_or(whole).to_owned();
        Ok(Self { path: path.to_owned(), target, before: Some(before), text })
    }

    /// What replacing the text by `text` changes, as a patch; empty where nothing.
    pub(crate) fn patch(&self, text: &str) -> Vec<u8> {
        let side = |mode, content| Side { kind: SideKind::File, mode, content };
        let mode = self.before.as_ref().map_or(0o644, |before| before.mode & 0o7777);
        let old = self.before.as_ref().map(|before| side(mode, before.bytes.clone()));
        let mut patch = Vec::new();
        let limit = usize::try_from(MOST_BYTES).unwrap_or(usize::MAX) * 2;
        let limits = EmitLimits { text_bytes: limit, binary_bytes: limit };
        let name = self.path.as_os_str().as_bytes();
        let name = name.strip_prefix(b"/").unwrap_or(name);
        emit(name, old.as_ref(), Some(&side(mode, self.bytes(text))), &limits, &mut patch);
        patch
    }

    /// Replaces the text: after this the file is as it was, or holds `text` and is on the disk. One that is made
    /// gets what the user's umask leaves of `new_mode`.
    pub(crate) fn replace(&self, text: &str, new_mode: u32) -> Result<(), FileError> {
        let write = |source| FileError::Write { path: self.path.clone(), source };
        if self.before.as_ref().is_some_and(|before| before.mode & 0o222 == 0) {
            // A new file under the old name would get around what somebody meant.
            return Err(FileError::ReadOnly(self.path.clone()));
        }
        let dir = self.target.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(dir).map_err(write)?;
        // What is in the old file may be for its owner alone.
        let mode = if self.before.is_some() { 0o600 } else { new_mode };
        let mut builder = tempfile::Builder::new();
        builder.prefix(".pyro-").permissions(Permissions::from_mode(mode));
        let mut aside = builder.tempfile_in(dir).map_err(write)?;
        aside.write_all(&self.bytes(text)).map_err(write)?;
        if let Some(before) = &self.before {
            before.keep(aside.as_file()).map_err(write)?;
        }
        aside.as_file().sync_all().map_err(write)?;
        self.check_unchanged()?;
        match &self.before {
            Some(_) => aside.persist(&self.target).map_err(|error| write(error.error))?,
            None => aside.persist_noclobber(&self.target).map_err(|error| write(error.error))?,
        };
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(write)
    }

    fn check_unchanged(&self) -> Result<(), FileError> {
        let is_same = match (&self.before, fs::symlink_metadata(&self.target)) {
            (None, Err(error)) => error.kind() == io::ErrorKind::NotFound,
            (Some(before), Ok(_)) => {
                let now = Before::read(&self.target)
                    .map_err(|source| FileError::Read { path: self.path.clone(), source })?;
                now.is_some_and(|now| now.bytes == before.bytes)
            }
            (None, Ok(_)) | (Some(_), Err(_)) => false,
        };
        if is_same { Ok(()) } else { Err(FileError::Changed(self.path.clone())) }
    }

    fn bytes(&self, text: &str) -> Vec<u8> {
        let marked = self.before.as_ref().is_some_and(|before| before.bytes.starts_with(MARK.as_bytes()));
        let mark = if marked { MARK } else { "" };
        [mark.as_bytes(), text.as_bytes()].concat()
    }
}

impl Before {
    /// `None` for what is no regular file, or too large.
    fn read(path: &Path) -> io::Result<Option<Self>> {
        let found = fs::metadata(path)?;
        if !found.is_file() || found.len() > MOST_BYTES {
            return Ok(None);
        }
        Ok(Some(Self { bytes: fs::read(path)?, mode: found.mode(), owner: (found.uid(), found.gid()) }))
    }

    /// Gives `file` the owner and the permissions that this had.
    fn keep(&self, file: &File) -> io::Result<()> {
        let now = file.metadata()?;
        if (now.uid(), now.gid()) != self.owner {
            std::os::unix::fs::fchown(file, Some(self.owner.0), Some(self.owner.1))?;
        }
        file.set_permissions(Permissions::from_mode(self.mode & 0o7777))
    }
}
