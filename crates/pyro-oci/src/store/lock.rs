//! Locks between processes: `flock`, so that the kernel releases them when their owner dies.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// A lock that is held until this value is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock at `path` if it is free.
    pub(crate) fn try_take(path: &Path) -> io::Result<Option<Self>> {
        loop {
            let file = open(path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if is_current(&file, path)? => return Ok(Some(Self { file, path: path.to_owned() })),
                // Its last owner removed the file between our opening and locking it.
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn take(path: &Path) -> io::Result<Self> {
        loop {
            let file = open(path)?;
            match flock(&file, FlockOperation::LockExclusive) {
                Ok(()) if is_current(&file, path)? => return Ok(Self { file, path: path.to_owned() }),
                Ok(()) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for the lock on a thread of its own: a caller that stops waiting must not leave a thread
    /// of the runtime behind, and a lock that arrives too late is dropped, hence released.
    pub(crate) async fn wait(path: PathBuf) -> io::Result<Self> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        std::thread::Builder::new().name("environment-lock".into()).spawn(move || {
            drop(sender.send(Self::take(&path)));
        })?;
        receiver.await.unwrap_or_else(|_| Err(io::Error::other("the waiting thread ended")))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removed while still held, so nobody can hold the name that is about to vanish; see `is_current`.
        drop(fs::remove_file(&self.path));
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).open(path)
}

fn is_current(file: &File, path: &Path) -> io::Result<bool> {
    let held = file.metadata()?;
    match fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (held.dev(), held.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A directory in which an installation is put together. It is locked as long as it is in use, and
/// removed on drop unless it was moved into place.
#[derive(Debug)]
pub(crate) struct PartialDir {
    path: PathBuf,
    _lock: File,
}

/// How the names of such directories begin.
pub(crate) const PARTIAL: &str = ".partial-";

impl PartialDir {
    pub(crate) fn create(parent: &Path, label: &str) -> io::Result<Self> {
        loop {
            let mut random = [0; 6];
            getrandom::fill(&mut random).map_err(|e| io::Error::other(e.to_string()))?;
            let path = parent.join(format!("{PARTIAL}{label}-{}", hex::encode(random)));
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                other => other?,
            }
            match Self::take(&path) {
                Ok(Some(lock)) => return Ok(Self { path, _lock: lock }),
                // Whoever prunes took the directory in this moment, and removes it: try another.
                Ok(None) => {}
                // Any other failure would meet the next directory too.
                Err(error) => {
                    drop(fs::remove_dir(&path));
                    return Err(error);
                }
            }
        }
    }

    /// Locks the partial directory at `path`, unless somebody has it or it is gone.
    fn take(path: &Path) -> io::Result<Option<File>> {
        let lock = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(is_current(&lock, path)?.then_some(lock)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The partial directory at `path` if nobody uses it, locked: until the lock is dropped nobody
    /// can begin to.
    pub(crate) fn abandoned(path: &Path) -> Option<File> {
        Self::take(path).ok().flatten()
    }
}

impl Drop for PartialDir {
    fn drop(&mut self) {
        // After a move into place there is nothing of this name.
        drop(fs::remove_dir_all(&self.path));
    }
}
