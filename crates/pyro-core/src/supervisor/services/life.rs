//! The life of one service, from its first start to its last end.

use super::publish::{Published, publish};
use super::{Order, Phase, Progress, Shared, Why, readiness};
use crate::exec::{self, ExecEvent, ExecInput, ExecOutput, ExecRequest};
use crate::faults::FaultPoint;
use crate::limits::{BACKOFF_RESET, SERVICE_STOP_GRACE, SUPERVISOR_DEADLINE};
use crate::problem::{Explain, Problem};
use crate::service_logs::{LogWriter, Stream};
use crate::services::{RestartPolicy, ServiceSpec, backoff};
use crate::store::{EventKind, NewService, ServiceChange, ServiceState, ServiceStop};
use crate::supervisor::detached::{DetachedError, why_not_started};
use crate::supervisor::protocol::StartService;
use crate::supervisor::serve::until;
use crate::workspace::now;
use serde_json::json;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

/// How a service comes to life.
pub(super) enum First {
    /// It is new; told whether the guest has executed it.
    New(Box<StartService>, oneshot::Sender<Result<(), Problem>>),
    /// It is on record under this token.
    Again(i64),
}

type Halves = (ExecInput, ExecOutput);

/// What a service does next.
enum Next {
    /// It runs.
    Attend(Halves),
    /// It is started again.
    Start,
    /// The same after this long.
    Wait(Duration),
    /// Nothing: its end is on record.
    Over,
}

/// How one run of a service's process ended.
struct Run {
    /// `None` when the guest did not tell.
    exit_code: Option<i32>,
    /// What it was told to do.
    order: Option<Order>,
    /// Whether it had to be killed for that.
    is_killed: bool,
    /// When it became ready.
    ready_at: Option<Instant>,
    /// Why it was not ready in time.
    late: Option<Late>,
}

/// Why a service is not what it was to be.
struct Late {
    reason: ServiceStop,
    problem: String,
}

/// How hard a process is being ended.
#[derive(Clone, Copy)]
enum Ending {
    NotAsked,
    /// It was asked to; at this time it is killed.
    Asked(Instant),
    /// It was killed; at this time nobody waits for the guest's word any more.
    Killed(Instant),
}

impl Ending {
    fn next(self) -> Option<Instant> {
        match self {
            Self::NotAsked => None,
            Self::Asked(at) | Self::Killed(at) => Some(at),
        }
    }
}

pub(super) struct Life {
    shared: Shared,
    name: String,
    spec: ServiceSpec,
    orders: mpsc::UnboundedReceiver<Order>,
    progress: watch::Sender<Progress>,
    token: i64,
    /// `None` where they cannot be written.
    logs: Option<[LogWriter; 2]>,
    /// In a row.
    failures: u64,
    /// Whether it was ever ready: one that never was is not started again.
    is_proven: bool,
    ports: Published,
}

impl Life {
    pub(super) fn new(
        shared: Shared,
        name: String,
        spec: ServiceSpec,
        orders: mpsc::UnboundedReceiver<Order>,
        progress: watch::Sender<Progress>,
    ) -> Self {
        let ports = Published::default();
        Self {
            shared,
            name,
            spec,
            orders,
            progress,
            token: 0,
            logs: None,
            failures: 0,
            is_proven: false,
            ports,
        }
    }

    pub(super) async fn run(mut self, first: First) {
        let mut next = match first {
            First::New(service, executed) => match self.begin(&service).await {
                Ok(halves) => {
                    // Its client may have left; a service runs all the same.
                    let _ = executed.send(Ok(()));
                    Next::Attend(halves)
                }
                Err(problem) => return drop(executed.send(Err(problem))),
            },
            First::Again(token) => {
                self.is_proven = true;
                self.take(token);
                Next::Start
            }
        };
        loop {
            next = match next {
                Next::Attend(halves) => {
                    let run = self.attend(halves).await;
                    // Before its end is on record: whoever reads that finds them free.
                    self.close_ports().await;
                    self.judge(run).await
                }
                Next::Start => self.start().await,
                Next::Wait(time) => self.pause(time).await,
                Next::Over => return,
            };
        }
    }

    /// Runs a new service, and puts it on record only when the guest has executed it: what is refused leaves
    /// nothing, not even in the place of an earlier one of its name.
    async fn begin(&mut self, service: &StartService) -> Result<Halves, Problem> {
        let halves = execute(&self.shared, &self.spec.exec).await?;
        self.shared.places.reach(FaultPoint::ServiceExecuted);
        let spec = serde_json::to_string(&service.spec).expect("a description has string keys");
        let new = NewService {
            name: &service.name,
            command: &service.command,
            cwd: &service.cwd,
            spec: &spec,
            autostart: service.autostart,
            pid: halves.0.pid(),
        };
        let (store, id) = (&self.shared.store, self.shared.id);
        let token = store.begin_service(id, &new, now()).map_err(|error| error.explain())?;
        let detail = json!({ "service_name": service.name, "command": service.command });
        let _ = store.record_event(id, EventKind::ServiceStart, &detail, now());
        self.shared.places.reach(FaultPoint::ServiceRecorded);
        // Of the one whose name it has, and of those that it took the place of.
        let _ = self.shared.remove_unrecorded_logs();
        self.take(token);
        self.started();
        Ok(halves)
    }

    fn take(&mut self, token: i64) {
        self.token = token;
        let dir = self.shared.places.service_log(self.shared.id, token);
        let open = |stream| LogWriter::open(&dir, stream);
        self.logs = open(Stream::Stdout).and_then(|stdout| Ok([stdout, open(Stream::Stderr)?])).ok();
        self.tell_printed();
    }

    /// Starts a service again that is on record.
    async fn start(&mut self) -> Next {
        let executed = tokio::select! {
            executed = execute(&self.shared, &self.spec.exec) => Ok(executed),
            order = next_order(&mut self.orders) => Err(order),
        };
        match executed {
            Ok(Ok(halves)) => {
                self.change(&ServiceChange::Restarted { pid: halves.0.pid() });
                self.started();
                Next::Attend(halves)
            }
            Ok(Err(problem)) => self.fail(None, ServiceStop::NotExecuted, Some(&problem.message)),
            Err(Order::Restart) => Next::Start,
            Err(Order::Stop(why)) => self.stopped(None, why, false),
        }
    }

    /// Lets time pass before a service is started again.
    async fn pause(&mut self, time: Duration) -> Next {
        tokio::select! {
            () = tokio::time::sleep(time) => Next::Start,
            order = next_order(&mut self.orders) => match order {
                Order::Restart => Next::Start,
                Order::Stop(why) => self.stopped(None, why, false),
            },
        }
    }

    fn started(&self) {
        self.progress.send_modify(|progress| {
            progress.phase = Phase::Starting;
            progress.starts += 1;
        });
    }

    /// Follows a process to its end.
    async fn attend(&mut self, (mut input, mut output): Halves) -> Run {
        let mut run = Run { exit_code: None, order: None, is_killed: false, ready_at: None, late: None };
        let mut ending = Ending::NotAsked;
        let mut withdrawal = self.shared.withdrawal.subscribe();
        let mut readiness = readiness::wait(self.shared.clone(), &self.spec);
        if self.spec.readiness.is_none() {
            // Whatever it does next, it is ready first.
            match self.ready() {
                Ok(ready_at) => run.ready_at = Some(ready_at),
                Err(late) => {
                    run.late = Some(late);
                    ending = ask(&mut input).await;
                }
            }
        }
        loop {
            let is_awaited = run.ready_at.is_none() && matches!(ending, Ending::NotAsked);
            tokio::select! {
                event = output.next() => match event {
                    Ok(ExecEvent::Stdout(bytes)) => self.keep(Stream::Stdout, &bytes),
                    Ok(ExecEvent::Stderr(bytes)) => self.keep(Stream::Stderr, &bytes),
                    Ok(ExecEvent::Exited(exit)) => return Run { exit_code: Some(exit.status()), ..run },
                    Err(_) => return run,
                },
                waited = &mut readiness, if is_awaited => {
                    let waited = waited.map_err(|problem| Late { reason: ServiceStop::ReadinessTimeout, problem });
                    match waited.and_then(|()| self.ready()) {
                        Ok(ready_at) => run.ready_at = Some(ready_at),
                        Err(late) => {
                            run.late = Some(late);
                            ending = ask(&mut input).await;
                        }
                    }
                },
                Ok(()) = withdrawal.changed() => {
                    let had_some = !self.ports.is_empty();
                    // On record first: whoever waits for their end finds none listed.
                    if had_some {
                        self.change(&ServiceChange::Withdrawn);
                    }
                    self.close_ports().await;
                }
                order = next_order(&mut self.orders) => {
                    // Nobody else is let in to what is about to end.
                    self.close_ports().await;
                    run.order = Some(stronger(run.order, order));
                    if matches!(ending, Ending::NotAsked) {
                        ending = ask(&mut input).await;
                    }
                }
                () = until(ending.next()) => match ending {
                    Ending::Asked(_) => {
                        run.is_killed = true;
                        ending = kill(&mut input).await;
                    }
                    Ending::NotAsked | Ending::Killed(_) => return run,
                },
            }
        }
    }

    /// Publishes its ports, and says that it is ready.
    fn ready(&mut self) -> Result<Instant, Late> {
        self.ports = publish(&self.shared, &self.spec.ports, self.spec.port_limits)
            .map_err(|problem| Late { reason: ServiceStop::PublishedPortFailed, problem })?;
        self.is_proven = true;
        let published = self.ports.to_json();
        self.change(&ServiceChange::Ready { published: published.as_deref() });
        self.shared.places.reach(FaultPoint::ServiceReady);
        self.progress.send_modify(|progress| {
            progress.phase = Phase::Running;
            progress.is_published = !self.ports.is_empty();
        });
        Ok(Instant::now())
    }

    /// Frees its ports, with every connection closed when this returns.
    async fn close_ports(&mut self) {
        self.ports.close().await;
        self.progress.send_if_modified(|progress| std::mem::take(&mut progress.is_published));
    }

    fn keep(&mut self, stream: Stream, bytes: &[u8]) {
        if let Some([stdout, stderr]) = &mut self.logs {
            match stream {
                Stream::Stdout => stdout.write(bytes),
                Stream::Stderr => stderr.write(bytes),
            }
        }
        self.tell_printed();
    }

    fn tell_printed(&self) {
        if let Some([stdout, stderr]) = &self.logs {
            self.progress.send_modify(|progress| {
                progress.printed.stdout = stdout.at();
                progress.printed.stderr = stderr.at();
            });
        }
    }

    /// What becomes of a service whose process has ended.
    async fn judge(&mut self, run: Run) -> Next {
        match (run.order, run.exit_code, run.ready_at) {
            (Some(Order::Stop(why)), exit_code, _) => self.stopped(exit_code, why, run.is_killed),
            (Some(Order::Restart), ..) => {
                self.failures = 0;
                self.change(&ServiceChange::Starting);
                Next::Start
            }
            (None, None, _) if run.late.is_none() => {
                // With the agent mostly the machine is gone, whose end is this one's; it comes with an abort.
                tokio::time::sleep(SUPERVISOR_DEADLINE).await;
                self.fail(None, ServiceStop::MachineEnded, Some("the connection to the guest ended"))
            }
            (None, exit_code, None) => match &run.late {
                Some(Late { reason, problem }) => self.fail(exit_code, *reason, Some(problem)),
                None => self.fail(exit_code, ServiceStop::ExitedBeforeReady, None),
            },
            (None, Some(0), Some(_)) => self.over(ServiceState::Exited, Some(0), None, None),
            (None, exit_code, Some(ready_at)) => {
                if ready_at.elapsed() >= BACKOFF_RESET {
                    self.failures = 0;
                }
                match self.spec.restart {
                    RestartPolicy::No => self.over(ServiceState::Exited, exit_code, None, None),
                    RestartPolicy::OnFailure { .. } => self.fail(exit_code, ServiceStop::RestartLimit, None),
                }
            }
        }
    }

    /// A failure: the service is started again, or it has failed for `reason`.
    fn fail(&mut self, exit_code: Option<i32>, reason: ServiceStop, problem: Option<&str>) -> Next {
        self.failures += 1;
        if self.is_proven && self.spec.restart.allows(self.failures) {
            self.change(&ServiceChange::BackedOff { exit_code, problem });
            self.progress.send_modify(|progress| progress.phase = Phase::Backoff);
            return Next::Wait(backoff(self.failures));
        }
        self.over(ServiceState::Failed, exit_code, Some(reason), problem)
    }

    fn stopped(&mut self, exit_code: Option<i32>, why: Why, is_killed: bool) -> Next {
        let reason = match (why, is_killed) {
            (Why::WorkspaceStops, _) => ServiceStop::WorkspaceStopped,
            (Why::Asked, true) => ServiceStop::SigKill,
            (Why::Asked, false) => ServiceStop::SigTerm,
        };
        self.over(ServiceState::Stopped, exit_code, Some(reason), None)
    }

    fn over(
        &mut self,
        state: ServiceState,
        exit_code: Option<i32>,
        reason: Option<ServiceStop>,
        problem: Option<&str>,
    ) -> Next {
        self.shared.places.reach(FaultPoint::ServiceEnded);
        self.change(&ServiceChange::Ended { state, exit_code, reason, problem });
        let detail = json!({
            "service_name": self.name,
            "state": state.as_str(),
            "exit_code": exit_code,
            "stop_reason": reason.map(ServiceStop::as_str),
        });
        let _ = self.shared.store.record_event(self.shared.id, EventKind::ServiceStop, &detail, now());
        Next::Over
    }

    fn change(&self, change: &ServiceChange<'_>) {
        // Cleared by a reset, or the disk is full: there is nobody to tell.
        let _ = self.shared.store.change_service(self.shared.id, self.token, change, now());
    }
}

async fn execute(shared: &Shared, request: &ExecRequest) -> Result<Halves, Problem> {
    let agent = shared.agent().await.map_err(|error| DetachedError::Connect(error).explain())?;
    match timeout(SUPERVISOR_DEADLINE, exec::start(agent, request)).await {
        Ok(Ok(halves)) => Ok(halves),
        failed => Err(why_not_started(failed.map(|tried| tried.map(|_| ())))),
    }
}

/// The next order; for ever where nobody can give any.
async fn next_order(orders: &mut mpsc::UnboundedReceiver<Order>) -> Order {
    match orders.recv().await {
        Some(order) => order,
        None => std::future::pending().await,
    }
}

/// A service that is told both to stop and to start again stops.
fn stronger(before: Option<Order>, order: Order) -> Order {
    match (before, order) {
        (Some(stop @ Order::Stop(_)), Order::Restart) => stop,
        (_, order) => order,
    }
}

/// Asks a whole process tree to end. A guest that does not take it is told apart by the time that follows.
async fn ask(input: &mut ExecInput) -> Ending {
    let _ = timeout(SERVICE_STOP_GRACE, input.signal_tree(SIGTERM)).await;
    Ending::Asked(Instant::now() + SERVICE_STOP_GRACE)
}

async fn kill(input: &mut ExecInput) -> Ending {
    let _ = timeout(SERVICE_STOP_GRACE, input.signal_tree(SIGKILL)).await;
    Ending::Killed(Instant::now() + SUPERVISOR_DEADLINE)
}
