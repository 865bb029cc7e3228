//! Secrets of the guest: files in memory that only root reads, and the values for commands' variables and
//! for redaction. No error and no debug text of this module holds a value.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use pyro_agent::redact::Needles;
use pyro_agent::wire::{MAX_SECRETS, MAX_SECRETS_BYTES, SecretItem, SecretsInstalled};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::mount::MountFlags;

use crate::connection::Connection;
use crate::files::{remove_tree, write_all};
use crate::limits::{MAX_WALK_NAME_BYTES, SECRETS_OPTIONS};
use crate::paths::FileError;
use crate::records::Records;
use crate::staging::random_name;
use crate::walk::{Names, directory_buffer};

#[cfg(test)]
mod tests;

/// The installed secrets.
#[derive(Debug)]
pub(crate) struct Secrets {
    directory: PathBuf,
    current: Mutex<Arc<SecretSet>>,
    /// Held while files are changed; tells whether the directory's own file system is mounted.
    mounted: Mutex<bool>,
}

/// One generation of secrets.
#[derive(Default)]
pub(crate) struct SecretSet {
    items: Vec<SecretItem>,
    needles: Arc<Needles>,
}

impl fmt::Debug for SecretSet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(self.items.iter().map(|item| &item.name)).finish()
    }
}

impl SecretSet {
    fn new(items: Vec<SecretItem>) -> Self {
        let needles = Arc::new(Needles::of_secrets(items.iter().map(|item| &item.value[..])));
        Self { items, needles }
    }

    /// The value of a secret.
    pub(crate) fn value(&self, name: &str) -> Option<&[u8]> {
        self.items.iter().find(|item| item.name == name).map(|item| &item.value[..])
    }

    /// What to take out of commands' output.
    pub(crate) fn needles(&self) -> &Arc<Needles> {
        &self.needles
    }
}

impl Secrets {
    /// None yet; files will be in `directory`.
    pub(crate) fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), current: Mutex::default(), mounted: Mutex::new(false) }
    }

    /// Those installed now.
    pub(crate) fn current(&self) -> Arc<SecretSet> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Receives secrets and puts them in place of all there were.
    pub(crate) fn install(&self, connection: &mut Connection) -> Result<SecretsInstalled, FileError> {
        let items = receive(connection)?;
        let count = items.len() as u64;
        let mut mounted = self.mounted.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = || self.directory.display().to_string();
        let failed = |source| FileError::Os { path: shown(), source };
        self.mount(&mut mounted).map_err(failed)?;
        let set = Arc::new(SecretSet::new(items));
        // The values are known, and hidden, before any command can read them.
        let old = {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, Arc::clone(&set))
        };
        if let Err(error) = write_files(&self.directory, &set.items) {
            // Files of either generation may be there now: all are hidden.
            let all = set.items.iter().chain(&old.items).cloned().collect();
            *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(SecretSet::new(all));
            return Err(failed(error));
        }
        Ok(SecretsInstalled { count })
    }

    fn mount(&self, mounted: &mut bool) -> io::Result<()> {
        if *mounted {
            return Ok(());
        }
        std::fs::create_dir_all(&self.directory)?;
        // Elsewhere (a test) the directory will do as it is.
        if rustix::process::getpid() == rustix::process::Pid::INIT {
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            rustix::mount::mount("tmpfs", &self.directory, "tmpfs", flags, SECRETS_OPTIONS)?;
        }
        *mounted = true;
        Ok(())
    }
}

fn receive(connection: &mut Connection) -> Result<Vec<SecretItem>, FileError> {
    let mut records = Records::new(connection);
    let (mut items, mut total) = (Vec::<SecretItem>::new(), 0);
    while let Some(item) = records.next(SecretItem::parse)? {
        total += item.value.len();
        if items.len() >= MAX_SECRETS || total > MAX_SECRETS_BYTES {
            let text =
                format!("more than {MAX_SECRETS} secrets, or more than {MAX_SECRETS_BYTES} bytes of them");
            return Err(FileError::BadStream(text));
        }
        if items.iter().any(|known| known.name == item.name) {
            return Err(FileError::BadStream(format!("duplicate secret name: {}", item.name)));
        }
        items.push(item);
    }
    Ok(items)
}

/// Writes each value aside and renames it to its name; then removes what is not among them.
fn write_files(directory: &Path, items: &[SecretItem]) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, Mode::empty())?;
    rustix::fs::fchmod(&directory, Mode::from_raw_mode(0o700))?;
    for item in items {
        let aside = random_name(".new-")?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&directory, &aside[..], flags, Mode::from_raw_mode(0o600))?;
        let placed = write_all(file.as_fd(), &item.value)
            .and_then(|()| rustix::fs::renameat(&directory, &aside[..], &directory, &item.name[..]));
        if let Err(error) = placed {
            let _ = rustix::fs::unlinkat(&directory, &aside[..], AtFlags::empty());
            return Err(error.into());
        }
    }
    let directory = rustix::fs::openat(&directory, ".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut names = Names::read(directory.as_fd(), &mut directory_buffer(), MAX_WALK_NAME_BYTES)?;
    while let Some(name) = names.take() {
        if items.iter().all(|item| item.name.as_bytes() != name) {
            remove_tree(directory.as_fd(), name)?;
        }
    }
    Ok(())
}
