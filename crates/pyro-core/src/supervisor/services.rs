//! A workspace's services: a task each, which runs the service, keeps what it prints, finds out when it is
//! ready, starts it again where it should, and records all of it.
//!
//! ```text
//! starting --ready--> running --ended by itself--> exited
//!    |  ^                |  failed and to be started again
//!    |  +----backoff <---+  (as from `starting`, once it was ready or has come back with its machine)
//!    +--not ready in time, ended before--> failed          any but the ends --stop, machine gone--> stopped
//! ```
//! Ports are published from the moment on that it is ready, and only while it runs.

mod life;
mod publish;
mod readiness;
#[cfg(test)]
mod tests;

use super::detached::Later;
use super::ports::GuestStreams;
use super::protocol::{Answer, Printed, ServiceAwaited, StartService};
use crate::limits::{SERVICES_STOP_DEADLINE, WORKSPACE_PORTS};
use crate::places::Places;
use crate::problem::{Explain, Problem};
use crate::services::ServiceSpec;
use crate::store::{
    SERVICES, ServiceChange, ServiceRecord, ServiceState, ServiceStop, StateStore, StoreError, WorkspaceId,
};
use crate::workspace::now;
use life::{First, Life};
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, OnceLock};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// A stream to the agent that a service asks the event loop for.
pub(super) type StreamWanted = oneshot::Sender<io::Result<UnixStream>>;

/// What the services of a workspace share.
#[derive(Clone)]
struct Shared {
    store: Arc<StateStore>,
    places: Places,
    id: WorkspaceId,
    streams: mpsc::Sender<StreamWanted>,
    /// What published ports lead over; there once the machine runs.
    ports: Arc<OnceLock<GuestStreams>>,
    /// How many ports more may be published.
    port_room: Arc<Semaphore>,
    /// Changes when nothing may be published any more.
    withdrawal: watch::Sender<()>,
}

impl Shared {
    /// Removes the logs of services that are not on record any more.
    fn remove_unrecorded_logs(&self) -> Result<(), StoreError> {
        let kept: HashSet<i64> = self.store.services(self.id)?.iter().map(|service| service.token).collect();
        for entry in std::fs::read_dir(self.places.services(self.id)).into_iter().flatten().flatten() {
            let token = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if token.is_none_or(|token| !kept.contains(&token)) {
                // Found again the next time where it cannot be removed now.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        Ok(())
    }

    /// A new stream to the agent.
    async fn agent(&self) -> io::Result<UnixStream> {
        let (wanted, stream) = oneshot::channel();
        // The event loop that would answer ends with the machine, and with it everybody who asks.
        self.streams.send(wanted).await.map_err(io::Error::other)?;
        stream.await.map_err(io::Error::other)?
    }
}

/// The services that live.
pub(super) struct Services {
    shared: Shared,
    wanted: mpsc::Receiver<StreamWanted>,
    live: HashMap<String, Live>,
    tasks: JoinSet<()>,
}

struct Live {
    /// Closed when its end is on record.
    progress: watch::Receiver<Progress>,
    orders: mpsc::UnboundedSender<Order>,
}

/// How far a service is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    phase: Phase,
    /// Starts of its process so far.
    starts: u64,
    /// Whether ports of the host lead to it.
    is_published: bool,
    printed: Printed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Starting,
    Running,
    Backoff,
}

/// What a service is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Stop(Why),
    Restart,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Asked,
    WorkspaceStops,
}

impl Services {
    /// None lives yet. Logs of services that are not on record any more are removed.
    pub(super) fn open(store: Arc<StateStore>, places: Places, id: WorkspaceId) -> Result<Self, StoreError> {
        let (streams, wanted) = mpsc::channel(1);
        let shared = Shared {
            store,
            places,
            id,
            streams,
            ports: Arc::default(),
            port_room: Arc::new(Semaphore::new(WORKSPACE_PORTS)),
            withdrawal: watch::channel(()).0,
        };
        shared.remove_unrecorded_logs()?;
        Ok(Self { shared, wanted, live: HashMap::new(), tasks: JoinSet::new() })
    }

    /// The machine runs now: published ports lead over these.
    pub(super) fn use_streams(&self, streams: GuestStreams) {
        // A machine boots once.
        let _ = self.shared.ports.set(streams);
    }

    /// Starts the services that come back with their machine.
    pub(super) fn autostart(&mut self) -> Result<(), StoreError> {
        let services = self.shared.store.services(self.shared.id)?;
        for service in services.iter().filter(|service| service.autostart) {
            // One whose record is damaged stays as it is.
            let _ = self.again(service);
        }
        Ok(())
    }

    pub(super) fn start(&mut self, service: StartService) -> Result<Later, Problem> {
        self.forget_ended();
        let id = self.shared.id;
        let refused = |error: StoreError| error.explain();
        // The records do not know of one that the guest has not begun yet.
        if self.live.contains_key(&service.name) {
            return Err(refused(StoreError::ServiceRuns { id, name: service.name }));
        }
        if self.live.len() as u64 >= SERVICES {
            return Err(refused(StoreError::TooManyServices { id }));
        }
        self.shared.store.check_new_service(id, &service.name).map_err(refused)?;
        let (executed, is_executed) = oneshot::channel();
        let (name, spec) = (service.name.clone(), service.spec.clone());
        let mut progress = self.spawn(name, spec, First::New(Box::new(service), executed));
        Ok(Box::pin(async move {
            match is_executed.await {
                Ok(Ok(())) => {}
                Ok(Err(problem)) => return Answer::Failed(problem),
                // The machine ended meanwhile, which its client is told.
                Err(_) => return std::future::pending().await,
            }
            settled(&mut progress, 0).await;
            Answer::Done
        }))
    }

    pub(super) fn restart(&mut self, name: &str) -> Result<Later, Problem> {
        self.forget_ended();
        let (mut progress, starts) = match self.live.get(name) {
            Some(live) => {
                let starts = live.progress.borrow().starts;
                // One that ends at this moment does not hear it any more, which its record tells.
                let _ = live.orders.send(Order::Restart);
                (live.progress.clone(), starts)
            }
            None => {
                let store = &self.shared.store;
                let service = store.service(self.shared.id, name).map_err(|error| error.explain())?;
                (self.again(&service)?, 0)
            }
        };
        Ok(Box::pin(async move {
            settled(&mut progress, starts).await;
            Answer::Done
        }))
    }

    pub(super) fn stop(&self, name: &str) -> Later {
        if let Some(live) = self.live.get(name) {
            let _ = live.orders.send(Order::Stop(Why::Asked));
        }
        self.wait(name, ServiceAwaited::Ended)
    }

    pub(super) fn wait(&self, name: &str, until: ServiceAwaited) -> Later {
        let progress = self.live.get(name).map(|live| live.progress.clone());
        Box::pin(async move {
            if let Some(mut progress) = progress {
                let is_reached = |progress: &Progress| match until {
                    ServiceAwaited::Ready => progress.phase == Phase::Running,
                    ServiceAwaited::Ended => false,
                };
                let _ = progress.wait_for(is_reached).await;
            }
            Answer::Done
        })
    }

    pub(super) fn wait_log(&self, name: &str, seen: Printed) -> Later {
        let progress = self.live.get(name).map(|live| live.progress.clone());
        Box::pin(async move {
            if let Some(mut progress) = progress {
                let has_more = |Progress { printed, .. }: &Progress| {
                    printed.stdout > seen.stdout || printed.stderr > seen.stderr
                };
                let _ = progress.wait_for(has_more).await;
            }
            Answer::Done
        })
    }

    /// The next stream that a service wants. Cancel safe.
    pub(super) async fn next(&mut self) -> StreamWanted {
        loop {
            tokio::select! {
                Some(wanted) = self.wanted.recv() => return wanted,
                Some(_) = self.tasks.join_next() => self.forget_ended(),
                else => std::future::pending().await,
            }
        }
    }

    /// Frees the ports of all of them, which go on; what is given returns when they are free.
    pub(super) fn withdraw_ports(&self) -> impl Future<Output = ()> + Send + use<> {
        self.shared.withdrawal.send_replace(());
        let all: Vec<_> = self.live.values().map(|live| live.progress.clone()).collect();
        async move {
            for mut progress in all {
                // One that has ended has let go of them before.
                let _ = progress.wait_for(|progress| !progress.is_published).await;
            }
        }
    }

    /// Ends all of them, as far as they do so in time; their machine is about to end.
    pub(super) async fn stop_all(&mut self) {
        for live in self.live.values() {
            let _ = live.orders.send(Order::Stop(Why::WorkspaceStops));
        }
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(SERVICES_STOP_DEADLINE, ended).await;
    }

    /// The machine is gone. The record of its end is the record of theirs.
    pub(super) fn end(&mut self) {
        self.tasks.abort_all();
    }

    fn again(&mut self, service: &ServiceRecord) -> Result<watch::Receiver<Progress>, Problem> {
        let spec = service_spec(service)?;
        // Before anybody can ask, so that whoever waits for it does not see its last end.
        let changed =
            self.shared.store.change_service(self.shared.id, service.token, &ServiceChange::Starting, now());
        changed.map_err(|error| error.explain())?;
        Ok(self.spawn(service.name.clone(), spec, First::Again(service.token)))
    }

    fn spawn(&mut self, name: String, spec: ServiceSpec, first: First) -> watch::Receiver<Progress> {
        let (sender, progress) = watch::channel(Progress::default());
        let (orders, ordered) = mpsc::unbounded_channel();
        let life = Life::new(self.shared.clone(), name.clone(), spec, ordered, sender);
        self.tasks.spawn(life.run(first));
        self.live.insert(name, Live { progress: progress.clone(), orders });
        progress
    }

    /// Lets go of those whose task has ended. One that is not known to have ended all the same, because its task
    /// failed, has by now: its stream is closed.
    fn forget_ended(&mut self) {
        let Shared { store, id, .. } = &self.shared;
        self.live.retain(|name, live| {
            let lives = live.progress.has_changed().is_ok();
            if !lives
                && let Ok(service) = store.service(*id, name)
                && service.state.is_live()
            {
                let end = ServiceChange::Ended {
                    state: ServiceState::Failed,
                    exit_code: None,
                    reason: Some(ServiceStop::MachineEnded),
                    problem: Some("its supervisor failed"),
                };
                let _ = store.change_service(*id, service.token, &end, now());
            }
            lives
        });
    }
}

/// What it takes to run a service again.
fn service_spec(service: &ServiceRecord) -> Result<ServiceSpec, Problem> {
    serde_json::from_str(&service.spec).map_err(|error| {
        let damaged = crate::store::Damaged {
            id: service.workspace.to_string(),
            field: "spec",
            problem: error.to_string(),
        };
        damaged.explain()
    })
}

/// Waits until a service that was started after `starts` starts is ready, has failed, or waits to be started
/// again.
async fn settled(progress: &mut watch::Receiver<Progress>, starts: u64) {
    let is_settled = |progress: &Progress| match progress.phase {
        Phase::Running | Phase::Backoff => progress.starts > starts,
        Phase::Starting => false,
    };
    let _ = progress.wait_for(is_settled).await;
}
