//! What a supervisor does for the workspace that its machine belongs to: the lock, the socket, the records,
//! snapshots, and expiry.

use super::boot::{Happening, Running, console_text};
use super::client::Reply;
use super::detached::{Commands, DetachedError, Later};
use super::network::GuestNetwork;
use super::protocol::{Answer, EndCause, Ended, Request, RunCommand};
use super::services::{Services, StreamWanted};
use super::shells::{ShellRequest, Shells};
use crate::faults::FaultPoint;
use crate::guest::{self, SecretItem};
use crate::limits::{MACHINE_LOCK_DEADLINE, SEAL_DEADLINE};
use crate::network::{OpenFlows, enforced};
use crate::packet::{PacketListener, PacketSocket};
use crate::places::{CONTROL_SOCKET, FileLock, Hold, Places};
use crate::problem::{Blame, Explain, Problem};
use crate::store::{
    CommandKey, CommandOutcome, Created, Departure, LayerId, NetworkPolicy, NewBaseline, NewCommand,
    NewSnapshot, StateStore, StoreError, WorkspaceId, WorkspaceState, WorkspaceUpdate,
};
use crate::workspace::layers::{self, NewLayer};
use crate::workspace::{garbage, now, secrets};
use pyro_vmm::Event;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How soon an expiry is tried again that somebody's operation stood in the way of.
const EXPIRY_RETRY: Duration = Duration::from_secs(5);

/// How long a time to live is trusted without a look at the records, which others change, or at the clock,
/// which goes on while the host sleeps.
const EXPIRY_LOOK: Duration = Duration::from_secs(60);

/// How soon a client is let in again after that failed.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Why a supervisor cannot serve a workspace.
#[derive(Debug, thiserror::Error)]
pub(super) enum SupervisedError {
    #[error("'{0}' is no workspace id")]
    Id(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("workspace {0} has a machine already")]
    Running(WorkspaceId),
    #[error("cannot use the workspace's directory")]
    Directory(#[source] io::Error),
    #[error("cannot hand the guest its secrets")]
    Secrets(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot give the guest its certificate authorities")]
    Authorities(#[source] crate::exec::AgentError),
    #[error("cannot snapshot the disk: {0}")]
    Refused(String),
    #[error("the disk's layers are in doubt: {0}")]
    Doubt(String),
    #[error("the guest could not hold its file systems still")]
    Freeze(#[source] crate::exec::AgentError),
    #[error("the machine ended: {0}")]
    Ended(String),
}

impl Explain for SupervisedError {
    fn explain(&self) -> Problem {
        match self {
            Self::Id(_) => Problem::new("bad_workspace_id", Blame::Bug, self),
            Self::Store(error) => error.explain(),
            Self::Running(_) => Problem::new("workspace_running", Blame::Caller, self)
                .with_hint("another pyro has just started it; try again"),
            Self::Directory(_) => Problem::new("state_unavailable", Blame::Host, self)
                .with_hint("PYRO_STATE_DIR must name a directory that you can write to"),
            Self::Secrets(_) => Problem::new("secrets_failed", Blame::Guest, self),
            Self::Authorities(_) => Problem::new("authorities_failed", Blame::Guest, self),
            Self::Refused(_) | Self::Doubt(_) => Problem::new("snapshot_failed", Blame::Host, self)
                .with_hint("is there space in PYRO_STATE_DIR?"),
            Self::Freeze(_) => Problem::new("freeze_failed", Blame::Guest, self),
            Self::Ended(_) => Problem::new("machine_ended", Blame::Guest, self),
        }
    }
}

/// What a workspace brings, beside its machine's own events.
pub(super) enum Next {
    Client(PacketSocket),
    /// A detached command has ended.
    CommandEnded,
    /// A service needs a stream to the agent.
    StreamWanted(StreamWanted),
}

/// A workspace whose machine runs here.
pub(super) struct Supervised {
    store: Arc<StateStore>,
    commands: Commands,
    shells: Shells,
    services: Services,
    places: Places,
    id: WorkspaceId,
    listener: PacketListener,
    /// The machine goes on without the client that started it.
    adopted: bool,
    expiry_retry: Option<Instant>,
    /// Why the machine cannot go on.
    broken: Option<String>,
    /// Tells everybody that the machine runs; the kernel takes it back when this process dies.
    _running: FileLock,
}

impl Supervised {
    /// Takes the workspace's machine lock and listens.
    pub(super) async fn open(places: Places, id: &str, creating: bool) -> Result<Self, SupervisedError> {
        let id: WorkspaceId = id.parse().map_err(|_| SupervisedError::Id(id.to_owned()))?;
        // A supervisor that is ending lets go in a moment, and so does whoever asks whether there is one.
        let lock =
            FileLock::take_within(&places.machine_lock(id), Hold::Exclusive, MACHINE_LOCK_DEADLINE).await;
        let running = lock.map_err(SupervisedError::Directory)?.ok_or(SupervisedError::Running(id))?;
        let listener = PacketListener::bind(&places.workspace(id), CONTROL_SOCKET);
        let listener = listener.map_err(SupervisedError::Directory)?;
        let store = Arc::new(StateStore::open(&places.database())?);
        places.reach(FaultPoint::BootLocked);
        Ok(Self {
            commands: Commands::new(Arc::clone(&store)),
            shells: Shells::new(Arc::clone(&store), places.clone(), id),
            services: Services::open(Arc::clone(&store), places.clone(), id)?,
            store,
            places,
            id,
            listener,
            adopted: !creating,
            expiry_retry: None,
            broken: None,
            _running: running,
        })
    }

    /// Gives a guest that has just booted what is the workspace's, before any client is let in.
    pub(super) async fn prepare(&mut self, running: &mut Running) -> Result<(), SupervisedError> {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| SupervisedError::Secrets(error);
        let secrets = secrets::read_all(&self.places, self.id).map_err(|error| failed(error.into()))?;
        if !secrets.is_empty() {
            let items: Vec<SecretItem> = secrets
                .into_iter()
                .map(|(name, value)| SecretItem { name, value: value.expose().as_bytes().to_vec() })
                .collect();
            let agent = running.agent().map_err(|error| failed(error.into()))?;
            guest::install_secrets(agent, &items).await.map_err(|error| failed(error.into()))?;
        }
        let authorities = self.store.authorities(self.id)?;
        if !authorities.is_empty() {
            let agent = running.agent().map_err(SupervisedError::Directory)?;
            let installed = guest::install_authorities(agent, &authorities).await;
            installed.map_err(SupervisedError::Authorities)?;
        }
        self.places.reach(FaultPoint::BootReady);
        if self.adopted {
            let from = [WorkspaceState::Stopped, WorkspaceState::Started];
            self.store.set_state(self.id, &from, WorkspaceState::Started, None, now())?;
        }
        self.places.reach(FaultPoint::BootRecorded);
        if let Some(network) = &running.network {
            // What is on record by now, whatever it was when the boot was asked for.
            let workspace = self.store.get(self.id)?;
            network.set_policy(enforced(workspace.network_policy, &workspace.network_rules)).await;
        }
        let streams = running.watch.guest_streams().map_err(SupervisedError::Directory)?;
        self.services.use_streams(streams);
        if self.adopted {
            self.services.autostart()?;
        }
        Ok(())
    }

    /// What happens next; without `room` no client is let in. Cancel safe.
    pub(super) async fn next(&mut self, room: bool) -> Next {
        tokio::select! {
            socket = accept(&self.listener), if room => Next::Client(socket),
            () = self.commands.ended() => Next::CommandEnded,
            wanted = self.services.next() => Next::StreamWanted(wanted),
        }
    }

    /// Why the machine must end, where it must.
    pub(super) fn broken(&mut self) -> Option<String> {
        self.broken.take()
    }

    pub(super) fn is_adopted(&self) -> bool {
        self.adopted
    }

    /// When the workspace expires, or its expiry is tried again.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.commands.is_busy() {
            return None;
        }
        if self.expiry_retry.is_some() {
            return self.expiry_retry;
        }
        let expires = self.store.get(self.id).ok()?.expires_at?;
        let left = u64::try_from(expires.saturating_sub(now())).unwrap_or(0);
        Some(Instant::now() + Duration::from_millis(left).min(EXPIRY_LOOK))
    }

    /// Whether its time is over now. If so nothing else may begin to use it.
    pub(super) fn expire(&mut self) -> bool {
        let Ok(workspace) = self.store.get(self.id) else { return false };
        if workspace.expires_at.is_none_or(|at| at > now()) {
            self.expiry_retry = None;
            return false;
        }
        match FileLock::try_take(&self.places.operation_lock(self.id), Hold::Exclusive) {
            Ok(Some(_held)) => self.store.begin_expiry(self.id, now()).unwrap_or(false),
            // Somebody is at it; that will renew its time or end it.
            Ok(None) | Err(_) => {
                self.expiry_retry = Some(Instant::now() + EXPIRY_RETRY);
                false
            }
        }
    }

    /// A client has left: what it began and did not finish is lost, and the workspace's time starts anew.
    pub(super) fn client_left(&mut self, begun: &[CommandKey]) {
        self.commands.client_left(begun);
        let _ = self.store.touch(self.id, now());
        self.expiry_retry = None;
    }

    /// Ends the services of a workspace that is about to be stopped.
    pub(super) async fn wind_down(&mut self) {
        self.services.stop_all().await;
        self.places.reach(FaultPoint::ServicesStopped);
    }

    /// Records the end of the machine, which is anybody's to start again from then on. Gives the socket for those
    /// who have connected meanwhile.
    pub(super) fn end(mut self, ended: &Ended) -> PacketListener {
        // Their rows go with the change of state.
        drop(self.shells);
        self.services.end();
        self.commands.end(match &ended.cause {
            EndCause::Stopped => CommandOutcome::Killed(None),
            EndCause::Expired | EndCause::Failed(_) | EndCause::Machine(_) => CommandOutcome::Lost,
        });
        let reason = match &ended.cause {
            EndCause::Stopped => None,
            EndCause::Expired => {
                // What cannot be removed now is removed by the next call.
                let _ = garbage::remove(&self.store, &self.places, self.id, Departure::Expired);
                return self.listener;
            }
            EndCause::Failed(reason) => Some(reason.clone()),
            EndCause::Machine(reason) => Some(match ended.console.lines().next_back() {
                Some(line) => format!("{reason} (console: {line})"),
                None => reason.to_string(),
            }),
        };
        // What cannot be recorded now is found by the next call: the lock is free and the state says started.
        let from = [WorkspaceState::Started];
        let _ = self.store.set_state(self.id, &from, WorkspaceState::Stopped, reason.as_deref(), now());
        self.listener
    }

    pub(super) async fn carry_out(&mut self, request: Request, running: &mut Running) -> Reply {
        let done = match request {
            Request::FinishCreate { entry_count, bytes_written, baseline } => {
                self.finish_create(entry_count, bytes_written, baseline.as_deref(), running).await
            }
            Request::BeginCommand { command, cwd } => self.begin_command(&command, &cwd),
            Request::RunCommand(command) => return later(self.run_command(*command, running)),
            Request::WaitCommand { command } => return Reply::Later(self.commands.wait(command)),
            Request::KillCommand { command, signal } => return later(self.commands.kill(command, signal)),
            Request::ReadOutput { command, seen, patience } => {
                return Reply::Later(self.commands.output(command, seen, patience));
            }
            Request::Shell(request) => return self.shell(*request, running),
            Request::StartService(service) => return later(self.services.start(*service)),
            Request::RestartService { name } => return later(self.services.restart(&name)),
            Request::StopService { name } => return Reply::Later(self.services.stop(&name)),
            Request::WaitService { name, until } => return Reply::Later(self.services.wait(&name, until)),
            Request::WaitServiceLog { name, seen } => {
                return Reply::Later(self.services.wait_log(&name, seen));
            }
            Request::Snapshot { name } => self.snapshot(name.as_deref(), running).await,
            Request::Update(update) => match self.update(&update, running) {
                Ok(later) => return Reply::Later(later),
                Err(error) => Err(error),
            },
            Request::OpenFlows => {
                return Reply::Later(match &running.network {
                    Some(network) => network.open_flows(),
                    None => Box::pin(std::future::ready(Answer::OpenFlows(OpenFlows::default()))),
                });
            }
            Request::WaitNetworkLog { seen } => {
                return Reply::Later(match &running.network {
                    Some(network) => network.wait_log(seen),
                    None => Box::pin(std::future::pending()),
                });
            }
            Request::Start(_)
            | Request::Connect { .. }
            | Request::Stop(_)
            | Request::Describe
            | Request::Denials { .. }
            | Request::EndNetwork => {
                return Reply::Refused;
            }
        };
        Reply::Answer(done.unwrap_or_else(|error| Answer::Failed(error.explain())))
    }

    /// Here, not in the client: what is on record is then in force, whoever dies. A death of this process between
    /// the two ends the machine, its ports and its network.
    fn update(&mut self, update: &WorkspaceUpdate, running: &Running) -> Result<Later, SupervisedError> {
        let workspace = self.store.update(self.id, update, now())?;
        self.places.reach(FaultPoint::UpdateRecorded);
        let policy = workspace.network_policy;
        let taken = running
            .network
            .as_ref()
            .map(|network| network.set_policy(enforced(policy, &workspace.network_rules)));
        let in_force = taken.is_some() == (policy != NetworkPolicy::Off);
        let closes = policy != NetworkPolicy::EgressAndPublishedPorts;
        let withdrawn = closes.then(|| self.services.withdraw_ports());
        let places = self.places.clone();
        Ok(Box::pin(async move {
            // Whoever hears the answer finds what is closed now closed.
            if let Some(taken) = taken {
                taken.await;
            }
            places.reach(FaultPoint::UpdateEnforced);
            if let Some(withdrawn) = withdrawn {
                withdrawn.await;
            }
            places.reach(FaultPoint::UpdateWithdrawn);
            Answer::Updated { in_force }
        }))
    }

    fn begin_command(&mut self, command: &str, cwd: &str) -> Result<Answer, SupervisedError> {
        let new = NewCommand { command: command.to_owned(), cwd: cwd.to_owned(), detached: false };
        Ok(Answer::Begun { command: self.commands.begin(self.id, &new)? })
    }

    fn run_command(&mut self, command: RunCommand, running: &Running) -> Result<Later, Problem> {
        let agent = running.agent().map_err(|error| DetachedError::Connect(error).explain())?;
        let denied = running.network.as_ref().map(GuestNetwork::denied_from_now);
        self.commands.run(self.id, command, agent, denied)
    }

    fn shell(&mut self, request: ShellRequest, running: &Running) -> Reply {
        let agent = || running.agent().map_err(|error| DetachedError::Connect(error).explain());
        later(self.shells.carry_out(request, agent))
    }

    async fn finish_create(
        &mut self,
        entry_count: u64,
        bytes_written: u64,
        baseline: Option<&str>,
        running: &mut Running,
    ) -> Result<Answer, SupervisedError> {
        let created =
            |baseline| Created { entry_count, bytes_written, baseline, state: WorkspaceState::Started };
        let id = self.id;
        match baseline {
            Some(layer) => {
                let layer = layer.parse().map_err(|_| SupervisedError::Id(layer.to_owned()))?;
                self.store.finish_create(id, &created(NewBaseline::Existing(layer)), now())?;
            }
            None => {
                let record = |store: &StateStore, new_top| {
                    store.finish_create(id, &created(NewBaseline::SealTop(new_top)), now()).map(|_| ())
                };
                self.seal(running, record).await?;
            }
        }
        self.adopted = true;
        Ok(Answer::Done)
    }

    async fn snapshot(
        &mut self,
        name: Option<&str>,
        running: &mut Running,
    ) -> Result<Answer, SupervisedError> {
        let workspace = self.store.get(self.id)?;
        let old_top = workspace.top_layer;
        let base = self.places.base_of(&workspace);
        let (id, places, top) = (self.id, self.places.clone(), self.places.layer(old_top));
        let (mut entry_count, mut bytes_written) = (0, 0);
        let record = |store: &StateStore, new_top| {
            // Nobody merges layers any more until the new one is on record.
            let chain = store.chain(old_top)?;
            let paths: Vec<PathBuf> = chain.iter().map(|layer| places.layer(layer.id)).collect();
            (entry_count, bytes_written) = (layers::entries_on(&base, &paths), layers::allocated_bytes(&top));
            let snapshot = name.map(|name| NewSnapshot { name: name.to_owned(), entry_count, bytes_written });
            store.seal_and_push(id, snapshot.as_ref(), old_top, new_top, now())
        };
        self.seal(running, record).await?;
        Ok(Answer::Snapshotted { entry_count, bytes_written })
    }

    /// Seals the disk as it is now. The guest's file systems are held still until `record` has put the
    /// new top on record, so nothing is ever written to a layer that no record knows.
    async fn seal(
        &mut self,
        running: &mut Running,
        record: impl FnOnce(&StateStore, LayerId) -> Result<(), StoreError>,
    ) -> Result<(), SupervisedError> {
        let layer = NewLayer::make_file(&self.store, &self.places).map_err(SupervisedError::Directory)?;
        let agent = running.agent().map_err(|error| SupervisedError::Freeze(error.into()))?;
        let frozen = guest::freeze(agent).await.map_err(SupervisedError::Freeze)?;
        self.places.reach(FaultPoint::SealFrozen);
        if let Err(error) = replace_delta(running, layer.file()).await {
            // Which layer the machine writes to is not known unless it said so.
            if !matches!(error, SupervisedError::Refused(_)) {
                self.broken = Some(error.to_string());
            }
            return Err(error);
        }
        self.places.reach(FaultPoint::SealReplaced);
        if let Err(error) = record(&self.store, layer.id()) {
            // The guest would go on writing to a layer that no record names.
            self.broken = Some(error.to_string());
            return Err(error.into());
        }
        layer.keep();
        self.places.reach(FaultPoint::SealRecorded);
        frozen.thaw().await.map_err(SupervisedError::Freeze)?;
        self.places.reach(FaultPoint::SealThawed);
        Ok(())
    }
}

fn later(answer: Result<Later, Problem>) -> Reply {
    answer.map_or_else(|problem| Reply::Answer(Answer::Failed(problem)), Reply::Later)
}

async fn accept(listener: &PacketListener) -> PacketSocket {
    loop {
        match listener.accept().await {
            Ok(socket) => return socket,
            // A client that left at once, or no descriptors left: clients that end free some.
            Err(_) => tokio::time::sleep(ACCEPT_RETRY).await,
        }
    }
}

async fn replace_delta(running: &mut Running, file: &std::fs::File) -> Result<(), SupervisedError> {
    let failed = |error: io::Error| SupervisedError::Doubt(error.to_string());
    running.watch.machine.replace_delta(file).map_err(failed)?;
    let replaced = async {
        loop {
            match running.watch.next().await {
                Ok(Happening::Event(Event::DeltaReplaced { error: None })) => return Ok(()),
                Ok(Happening::Event(Event::DeltaReplaced { error: Some(error) })) => {
                    return Err(SupervisedError::Refused(error));
                }
                Ok(Happening::Event(Event::Exited { reason, console_tail })) => {
                    let console = console_text(&console_tail);
                    return Err(SupervisedError::Ended(format!("{reason} {console}")));
                }
                Ok(
                    Happening::Event(
                        Event::Started(_) | Event::Console { .. } | Event::Paused | Event::Resumed,
                    )
                    | Happening::Accepted(..),
                ) => {}
                Err(error) => return Err(failed(error)),
            }
        }
    };
    let waited = tokio::time::timeout(SEAL_DEADLINE, replaced).await;
    waited.unwrap_or_else(|_| Err(SupervisedError::Doubt("the machine did not answer in time".into())))
}

#[cfg(test)]
mod tests;
