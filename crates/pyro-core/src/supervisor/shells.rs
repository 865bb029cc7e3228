//! A workspace's shells, as its supervisor keeps them: a task each, which reads what the guest's terminal gives,
//! whoever listens. They end with the machine.
//!
//! ```text
//! open --guest has executed it--> running --exits, or close: SIGHUP, after a grace SIGKILL--> stopped
//!                                    |  machine ends                                 close |
//!                                    +------------------> (gone from here) <---------------+
//! ```

mod marks;
mod messages;
mod output;
mod run;
mod wait;

pub(crate) use messages::{
    OpenShell, ReadForm, ReadShell, ShellAction, ShellAnswer, ShellRead, ShellRequest, ShellScreen, Until,
};

use super::detached::Later;
use super::protocol::Answer;
use crate::exec;
use crate::faults::FaultPoint;
use crate::limits::{SHELLS, SUPERVISOR_DEADLINE};
use crate::places::Places;
use crate::problem::{Blame, Explain, Problem};
use crate::store::{EventKind, NewShell, ShellId, ShellRecord, StateStore, StoreError, WorkspaceId};
use crate::workspace::now;
use output::Output;
use run::{Control, Run};
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// Why nothing can be done with a shell.
#[derive(Debug, thiserror::Error)]
enum ShellError {
    #[error("{SHELLS} shells are open in this workspace already")]
    TooMany,
    #[error("shell {0} is not running")]
    NotRunning(ShellId),
    #[error("the guest could not execute the shell in time")]
    Deadline,
    #[error("shell {0} did not end in time")]
    Stuck(ShellId),
    #[error("cursor {cursor} is beyond the end of the shell's output, {end}")]
    BeyondEnd { cursor: u64, end: u64 },
    #[error("the pattern cannot be used: {0}")]
    Pattern(String),
}

impl Explain for ShellError {
    fn explain(&self) -> Problem {
        match self {
            Self::TooMany => Problem::new("too_many_shells", Blame::Caller, self)
                .with_hint("`pyro workspace shell list` shows them, `pyro workspace shell close` ends one"),
            Self::NotRunning(_) => Problem::new("shell_not_running", Blame::Caller, self)
                .with_hint("what it printed can be read until it is closed; open another one"),
            Self::Deadline => Problem::new("shell_deadline", Blame::Guest, self),
            Self::Stuck(_) => Problem::new("shell_stuck", Blame::Guest, self)
                .with_hint("`pyro workspace stop` ends it with its machine"),
            Self::BeyondEnd { .. } => Problem::new("bad_cursor", Blame::Caller, self)
                .with_hint("take the next_cursor that the last read told"),
            Self::Pattern(_) => Problem::new("bad_pattern", Blame::Caller, self),
        }
    }
}

/// The shells that are open.
pub(super) struct Shells {
    store: Arc<StateStore>,
    workspace: WorkspaceId,
    places: Places,
    open: Arc<Mutex<HashMap<ShellId, Shell>>>,
    /// Ended when this is dropped.
    tasks: JoinSet<()>,
}

/// One shell, as those see it who use it.
#[derive(Clone)]
struct Shell {
    output: Arc<Mutex<Output>>,
    /// Told of every change of `output`. Its other end lives as long as the shell runs.
    changes: watch::Receiver<u64>,
    controls: mpsc::UnboundedSender<Control>,
}

/// The guard's holder never panics in the middle of a change that matters.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(error: impl Explain) -> Answer {
    Answer::Failed(error.explain())
}

fn at_once(answer: Answer) -> Later {
    Box::pin(std::future::ready(answer))
}

fn state(record: ShellRecord) -> Answer {
    Answer::Shell(Box::new(ShellAnswer::State(record)))
}

impl Shells {
    pub(super) fn new(store: Arc<StateStore>, places: Places, workspace: WorkspaceId) -> Self {
        Self { store, workspace, places, open: Arc::default(), tasks: JoinSet::new() }
    }

    /// Does what a client asks for. `agent` opens a stream to the guest's agent.
    pub(super) fn carry_out(
        &mut self,
        request: ShellRequest,
        agent: impl FnOnce() -> Result<UnixStream, Problem>,
    ) -> Result<Later, Problem> {
        // Those that have ended leave nothing but their result.
        while self.tasks.try_join_next().is_some() {}
        match request {
            ShellRequest::Open(new) => self.open(*new, agent()?),
            ShellRequest::To { shell, action } => {
                let found = lock(&self.open).get(&shell).cloned();
                let Some(found) = found else {
                    let error = StoreError::NoShell { id: self.workspace, shell: shell.to_string() };
                    return Err(error.explain());
                };
                self.act(shell, found, action)
            }
        }
    }

    fn act(&self, id: ShellId, shell: Shell, action: ShellAction) -> Result<Later, Problem> {
        match action {
            ShellAction::Read(read) => wait::read(shell, read),
            ShellAction::Screen => {
                let mut output = lock(&shell.output);
                let screen = ShellAnswer::Screen(output.screen());
                Ok(at_once(Answer::Shell(Box::new(screen))))
            }
            ShellAction::Write { input } => {
                let bytes =
                    hex::decode(input).map_err(|error| Problem::new("bad_input", Blame::Bug, &error))?;
                if !lock(&shell.output).is_running() {
                    return Err(ShellError::NotRunning(id).explain());
                }
                Ok(Self::ask(id, shell, |done| Control::Write { bytes, done }))
            }
            ShellAction::Signal { signal } => {
                if !lock(&shell.output).is_running() {
                    return Err(ShellError::NotRunning(id).explain());
                }
                Ok(Self::ask(id, shell, |done| Control::Signal { signal, done }))
            }
            ShellAction::Resize { cols, rows } => {
                if !lock(&shell.output).is_running() {
                    return Err(ShellError::NotRunning(id).explain());
                }
                let record = self.store.resize_shell(self.workspace, id, cols, rows);
                lock(&shell.output).resize(record.map_err(|error| error.explain())?);
                Ok(Self::ask(id, shell, |done| Control::Resize { cols, rows, done }))
            }
            ShellAction::Close => Ok(self.close(id, shell)),
        }
    }

    /// Hands something to the shell's task. Answered with the shell's state when it is done.
    fn ask(id: ShellId, shell: Shell, control: impl FnOnce(oneshot::Sender<()>) -> Control) -> Later {
        let (done, is_done) = oneshot::channel();
        let _ = shell.controls.send(control(done));
        Box::pin(async move {
            match is_done.await {
                Ok(()) => state(lock(&shell.output).record().clone()),
                // It has ended meanwhile.
                Err(_) => failed(ShellError::NotRunning(id)),
            }
        })
    }

    fn open(&mut self, new: OpenShell, agent: UnixStream) -> Result<Later, Problem> {
        let mut random = [0; ShellId::BYTES];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| Problem::new("no_randomness", Blame::Host, &error))?;
        let id = ShellId::from_bytes(random);
        let stopped = lock(&self.open).values().filter(|shell| !lock(&shell.output).is_running()).count();
        // The others have a task each, those that are being opened too.
        if stopped + self.tasks.len() >= SHELLS {
            return Err(ShellError::TooMany.explain());
        }
        let (opened, is_opened) = oneshot::channel();
        let (store, workspace, open) = (Arc::clone(&self.store), self.workspace, Arc::clone(&self.open));
        let places = self.places.clone();
        self.tasks.spawn(async move {
            let start = timeout(SUPERVISOR_DEADLINE, exec::start(agent, &new.exec)).await;
            let (input, guest_output) = match start {
                Ok(Ok(halves)) => halves,
                Ok(Err(error)) => return drop(opened.send(failed(error))),
                Err(_) => return drop(opened.send(failed(ShellError::Deadline))),
            };
            places.reach(FaultPoint::ShellExecuted);
            let (cols, rows) = new.exec.tty.unwrap_or((80, 24));
            let new = NewShell { shell: id, cwd: new.cwd, cols, rows };
            let record = match store.open_shell(workspace, &new, now()) {
                Ok(record) => record,
                // The machine is ending, or the disk is full; the shell ends with its streams.
                Err(error) => return drop(opened.send(failed(error))),
            };
            places.reach(FaultPoint::ShellRecorded);
            let _ = store.record_event(workspace, EventKind::ShellOpen, &json!({ "shell_id": id }), now());
            let output = Arc::new(Mutex::new(Output::new(record.clone())));
            let (sender, changes) = watch::channel(0);
            let (controls, controlled) = mpsc::unbounded_channel();
            let shell = Shell { output: Arc::clone(&output), changes, controls };
            lock(&open).insert(id, shell);
            // Who asked may have left, and finds it by its id.
            let _ = opened.send(state(record));
            let run = Run { output, sender, controlled, store: Arc::clone(&store), workspace, shell: id };
            run.finish(input, guest_output).await;
        });
        Ok(Box::pin(async move {
            match is_opened.await {
                Ok(answer) => answer,
                // The machine ended meanwhile, which its client is told.
                Err(_) => std::future::pending().await,
            }
        }))
    }

    /// Ends a shell and forgets it. Answered when none of its processes is left.
    fn close(&self, id: ShellId, shell: Shell) -> Later {
        // Nothing that runs says so any more, or it is asked to end now.
        let _ = shell.controls.send(Control::Close);
        let (store, workspace, open) = (Arc::clone(&self.store), self.workspace, Arc::clone(&self.open));
        let places = self.places.clone();
        Box::pin(async move {
            if !ended(&shell, SUPERVISOR_DEADLINE + crate::limits::SHELL_CLOSE_GRACE).await {
                return failed(ShellError::Stuck(id));
            }
            places.reach(FaultPoint::ShellEnded);
            let record = lock(&shell.output).record().clone();
            // Another client may have closed it at the same time.
            if lock(&open).remove(&id).is_some() {
                let _ = store.close_shell(workspace, id, now());
                places.reach(FaultPoint::ShellForgotten);
                let detail = json!({ "shell_id": id, "exit_code": record.exit_code });
                let _ = store.record_event(workspace, EventKind::ShellClose, &detail, now());
            }
            state(record)
        })
    }
}

/// Waits until the shell has ended; tells whether it did in time.
async fn ended(shell: &Shell, within: std::time::Duration) -> bool {
    let mut changes = shell.changes.clone();
    let ended = async {
        while lock(&shell.output).is_running() {
            if changes.changed().await.is_err() && lock(&shell.output).is_running() {
                // Its machine is ending.
                return std::future::pending().await;
            }
        }
    };
    tokio::time::timeout_at(Instant::now() + within, ended).await.is_ok()
}

#[cfg(test)]
mod tests;
