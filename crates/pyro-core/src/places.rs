//! Where workspaces keep what is theirs, and the locks that say who is at work.
//!
//! ```text
//! state.db                        every record
//! layers/ID.delta                 what was written to a disk, one layer each
//! bases/KEY.ext4, KEY.vmlinux     the environments' images, by hard link, so that removing one leaves them
//! secrets/WORKSPACE/NAME          values, readable by the owner alone
//! workspaces/WORKSPACE/op.lock        held by whoever changes the workspace's life
//! workspaces/WORKSPACE/machine.lock   held by its supervisor as long as its machine runs
//! workspaces/WORKSPACE/control.sock   the supervisor's ear
//! workspaces/WORKSPACE/services/TOKEN/     what a service prints
//! workspaces/WORKSPACE.gone           the same directory while it is removed
//! layers.lock                     shared by whoever makes layers, exclusive for who collects garbage
//! ```

use crate::faults::{self, Fault, FaultPoint};
use crate::store::{LayerId, Workspace, WorkspaceId};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The state directory.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    root: PathBuf,
    fault: Option<Fault>,
}

impl Places {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), fault: None }
    }

    /// The same for a process that dies at `fault`.
    pub(crate) fn with_fault(self, fault: Option<Fault>) -> Self {
        Self { fault, ..self }
    }

    /// Tells that an operation has come to `point`.
    pub(crate) fn reach(&self, point: FaultPoint) {
        faults::reach(self.fault.as_ref(), point);
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.root.join("state.db")
    }

    pub(crate) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(crate) fn layer(&self, id: LayerId) -> PathBuf {
        self.layers().join(format!("{id}.delta"))
    }

    pub(crate) fn bases(&self) -> PathBuf {
        self.root.join("bases")
    }

    pub(crate) fn base_image(&self, key: &str) -> PathBuf {
        self.bases().join(format!("{key}.ext4"))
    }

    pub(crate) fn base_kernel(&self, key: &str) -> PathBuf {
        self.bases().join(format!("{key}.vmlinux"))
    }

    /// Where a workspace's base image is: kept, or in the cache where it could not be kept.
    pub(crate) fn base_of(&self, workspace: &Workspace) -> PathBuf {
        let kept = self.base_image(&workspace.base_key);
        if kept.exists() { kept } else { workspace.base_rootfs.clone() }
    }

    pub(crate) fn all_secrets(&self) -> PathBuf {
        self.root.join("secrets")
    }

    pub(crate) fn workspaces(&self) -> PathBuf {
        self.root.join("workspaces")
    }

    pub(crate) fn secrets(&self, workspace: WorkspaceId) -> PathBuf {
        self.all_secrets().join(workspace.to_string())
    }

    pub(crate) fn workspace(&self, workspace: WorkspaceId) -> PathBuf {
        self.workspaces().join(workspace.to_string())
    }

    /// What the services of a workspace print, a directory each.
    pub(crate) fn services(&self, workspace: WorkspaceId) -> PathBuf {
        self.workspace(workspace).join("services")
    }

    /// The log of the service with this token.
    pub(crate) fn service_log(&self, workspace: WorkspaceId, token: i64) -> PathBuf {
        self.services(workspace).join(token.to_string())
    }

    /// The log of what a workspace's guest has sent where.
    pub(crate) fn network_log(&self, workspace: WorkspaceId) -> PathBuf {
        self.workspace(workspace).join("network.log")
    }

    /// Where a workspace's directory is on its way out: nobody can make anything in it any more.
    pub(crate) fn workspace_aside(&self, workspace: WorkspaceId) -> PathBuf {
        self.workspaces().join(format!("{workspace}.gone"))
    }

    /// The lock of whoever starts, stops, rewinds or deletes the workspace.
    pub(crate) fn operation_lock(&self, workspace: WorkspaceId) -> PathBuf {
        self.workspace(workspace).join("op.lock")
    }

    /// The lock of the workspace's supervisor.
    pub(crate) fn machine_lock(&self, workspace: WorkspaceId) -> PathBuf {
        self.workspace(workspace).join("machine.lock")
    }

    /// The lock that keeps layers from being collected before a record names them.
    pub(crate) fn layers_lock(&self) -> PathBuf {
        self.root.join("layers.lock")
    }
}

/// Name of the supervisor's socket in the workspace's directory.
pub(crate) const CONTROL_SOCKET: &str = "control.sock";

/// Creates `path` and what is missing above it, readable by its owner alone.
pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// A lock on a file, released by the kernel when its holder lets go or dies.
#[derive(Debug)]
pub(crate) struct FileLock(#[allow(dead_code, reason = "held for its lock")] File);

/// How a lock is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    Shared,
    Exclusive,
}

impl FileLock {
    /// Takes the lock if nobody else is in the way.
    pub(crate) fn try_take(path: &Path, hold: Hold) -> io::Result<Option<Self>> {
        let operation = match hold {
            Hold::Shared => FlockOperation::NonBlockingLockShared,
            Hold::Exclusive => FlockOperation::NonBlockingLockExclusive,
        };
        let file = lock_file(path)?;
        match rustix::io::retry_on_intr(|| flock(&file, operation)) {
            Ok(()) => Ok(Some(Self(file))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for the lock at most `limit`; `None` when it was held all the time.
    pub(crate) async fn take_within(path: &Path, hold: Hold, limit: Duration) -> io::Result<Option<Self>> {
        if let Some(lock) = Self::try_take(path, hold)? {
            return Ok(Some(lock));
        }
        let path = path.to_owned();
        let (taken, wait) = tokio::sync::oneshot::channel();
        // A thread that waits in vain goes on waiting, and lets go at once should it get the lock. It is
        // none of the runtime's, whose end would wait for it.
        std::thread::Builder::new().spawn(move || taken.send(Self::take(&path, hold)))?;
        match tokio::time::timeout(limit, wait).await {
            Ok(taken) => taken.map_err(io::Error::other)?.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Waits for the lock.
    pub(crate) fn take(path: &Path, hold: Hold) -> io::Result<Self> {
        let operation = match hold {
            Hold::Shared => FlockOperation::LockShared,
            Hold::Exclusive => FlockOperation::LockExclusive,
        };
        let file = lock_file(path)?;
        rustix::io::retry_on_intr(|| flock(&file, operation))?;
        Ok(Self(file))
    }
}

fn lock_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(open(path, flags, Mode::from_raw_mode(0o600))?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_excludes_others_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = FileLock::take(&path, Hold::Exclusive).unwrap();
        assert!(FileLock::try_take(&path, Hold::Shared).unwrap().is_none());
        drop(held);
        let shared = FileLock::try_take(&path, Hold::Shared).unwrap();
        assert!(shared.is_some() && FileLock::try_take(&path, Hold::Shared).unwrap().is_some());
        assert!(FileLock::try_take(&path, Hold::Exclusive).unwrap().is_none());
    }
}
