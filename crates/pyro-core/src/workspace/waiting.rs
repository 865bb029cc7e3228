//! Waiting for a workspace to start, to stop, or to have nothing to do.

use super::{Pyro, WorkspaceError, WorkspaceId, WorkspaceView, garbage};
use crate::places::{FileLock, Hold};
use crate::store::{CommandState, WorkspaceState};
use crate::sys;
use rustix::fd::OwnedFd;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use serde::Serialize;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What to wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Awaited {
    /// Its machine runs and takes commands.
    Started,
    /// No machine runs.
    #[default]
    Stopped,
    /// No command runs.
    Idle,
}

/// A workspace that was waited for.
#[derive(Clone, Debug, Serialize)]
pub struct WaitedWorkspace {
    /// What it is like.
    #[serde(flatten)]
    pub workspace: WorkspaceView,
    /// Whether the time for waiting was over first.
    pub wait_timed_out: bool,
}

impl Pyro {
    /// Waits until a workspace is as `awaited`, for `limit` at most. Fails when it is deleted or expires.
    pub async fn wait(
        &self,
        address: &str,
        awaited: Awaited,
        limit: Option<Duration>,
    ) -> Result<WaitedWorkspace, WorkspaceError> {
        let id = self.resolve(address)?;
        let reached = async {
            match awaited {
                Awaited::Started => self.await_start(id).await,
                Awaited::Stopped => self.await_stop(id).await,
                Awaited::Idle => self.await_idle(id).await,
            }
        };
        let waited = match limit {
            None => Ok(reached.await),
            Some(limit) => tokio::time::timeout(limit, reached).await,
        };
        let wait_timed_out = waited.is_err();
        if let Ok(reached) = waited {
            reached?;
        }
        Ok(WaitedWorkspace { workspace: self.view(id)?, wait_timed_out })
    }

    async fn await_start(&self, id: WorkspaceId) -> Result<(), WorkspaceError> {
        loop {
            // Before the look, so that nothing that comes in between is missed.
            let changes = self.watch_directory(id)?;
            self.await_calm(id).await?;
            if self.store.get(id)?.state == WorkspaceState::Started {
                return Ok(());
            }
            let changed = changes.readable().await.map(|_| ());
            changed.map_err(WorkspaceError::state("watch", self.places.workspace(id)))?;
        }
    }

    async fn await_stop(&self, id: WorkspaceId) -> Result<(), WorkspaceError> {
        loop {
            match self.store.get(id)?.state {
                WorkspaceState::Stopped => {}
                WorkspaceState::Started | WorkspaceState::Creating | WorkspaceState::Deleting => {
                    // The supervisor holds it as long as its machine runs.
                    self.await_lock(id, self.places.machine_lock(id)).await?;
                }
            }
            // A reset stops a machine and starts another: only what lasts counts.
            self.await_calm(id).await?;
            if self.store.get(id)?.state == WorkspaceState::Stopped {
                return Ok(());
            }
        }
    }

    async fn await_idle(&self, id: WorkspaceId) -> Result<(), WorkspaceError> {
        loop {
            let commands = self.store.commands(id)?;
            let Some(running) = commands.iter().find(|one| one.state == CommandState::Running) else {
                return Ok(());
            };
            self.await_end(running.key).await?;
        }
    }

    /// Waits for whoever is changing the workspace's life, and settles what one left that died.
    pub(super) async fn await_calm(&self, id: WorkspaceId) -> Result<(), WorkspaceError> {
        self.await_lock(id, self.places.operation_lock(id)).await?;
        garbage::recover(&self.store, &self.places)
    }

    /// Waits for the lock's release, however long that takes.
    async fn await_lock(&self, id: WorkspaceId, path: PathBuf) -> Result<(), WorkspaceError> {
        let waiting = {
            let path = path.clone();
            tokio::task::spawn_blocking(move || FileLock::take(&path, Hold::Shared).map(drop))
        };
        match waiting.await.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.gone_or(id, "lock", path, error)),
        }
    }

    /// Becomes readable when a supervisor begins to listen in the workspace's directory, or that goes.
    fn watch_directory(&self, id: WorkspaceId) -> Result<AsyncFd<OwnedFd>, WorkspaceError> {
        let path = self.places.workspace(id);
        let watch = || {
            let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            inotify::add_watch(&fd, &path, WatchFlags::CREATE | WatchFlags::DELETE_SELF)?;
            sys::watch(fd, Interest::READABLE)
        };
        watch().map_err(|error| self.gone_or(id, "watch", path.clone(), error))
    }

    /// A directory that is not there belongs to a workspace that is gone.
    pub(super) fn gone_or(
        &self,
        id: WorkspaceId,
        action: &'static str,
        path: PathBuf,
        error: io::Error,
    ) -> WorkspaceError {
        match self.not_going(id) {
            Err(gone) if error.kind() == io::ErrorKind::NotFound => gone.into(),
            _ => WorkspaceError::state(action, path)(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Explain as _;
    use crate::config::{Config, EngineChoice, HostProxy, RegistryConfig};
    use crate::places::Places;
    use crate::store::{Departure, tests::Fixture};

    fn pyro(fixture: &Fixture) -> Pyro {
        let config = Config {
            environment_cache_dir: fixture.directory.path().to_owned(),
            state_dir: fixture.directory.path().to_owned(),
            guest_bundle_dir: None,
            vmm_binary: PathBuf::new(),
            supervisor_command: Vec::new(),
            program_path: std::ffi::OsString::new(),
            engine: EngineChoice::Auto,
            registry: RegistryConfig::default(),
            host_proxy: HostProxy::default(),
            fault: None,
            trap_log: None,
        };
        Pyro { config, places: Places::new(fixture.directory.path()), store: fixture.again() }
    }

    #[tokio::test]
    async fn a_workspace_without_a_directory_is_told_to_be_gone_before_its_record_is() {
        let fixture = Fixture::new();
        let pyro = pyro(&fixture);
        for (number, departure, told) in
            [(1, Departure::Deleted, "no_such_workspace"), (2, Departure::Expired, "workspace_expired")]
        {
            let id = fixture.workspace(number, super::super::now());
            let reason = (departure == Departure::Expired).then_some(departure.as_str());
            fixture.set_state(id, WorkspaceState::ALL, WorkspaceState::Deleting, reason, 0).unwrap();
            for path in [pyro.places.machine_lock(id), pyro.places.operation_lock(id)] {
                let error = pyro.await_lock(id, path).await.unwrap_err();
                assert_eq!(error.explain().code, told, "{error}");
            }
            let error = pyro.watch_directory(id).unwrap_err();
            assert_eq!(error.explain().code, told, "{error}");
        }
    }
}
