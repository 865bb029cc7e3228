//! A workspace's commands that run, as its supervisor sees them. Detached ones run here, in a task each, which
//! keeps their output and records their end. Of the others, which their clients run, only the end is known.
//!
//! ```text
//! starting --guest has executed it--> running --its end is on record--> (gone from here)
//!                                        |  kill: the signal, and after a grace SIGKILL to its whole tree
//! ```

use super::network::DeniedSince;
use super::protocol::{Answer, Patience, RunCommand, SeenOutput};
use super::serve::until;
use crate::exec::{self, AgentError, ExecEvent, ExecInput, ExecOutput};
use crate::limits::{DETACHED_COMMANDS, KILL_GRACE, SUPERVISOR_DEADLINE};
use crate::problem::{Blame, Explain, Problem};
use crate::store::{
    CommandKey, CommandOutcome, CommandOutput, DETAIL_BYTES, EventKind, NewCommand, OUTPUT_BYTES, StateStore,
    StoreError, WorkspaceId,
};
use crate::workspace::{now, outcome};
use pyro_agent::wire::Exit;
use serde_json::json;
use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};

/// Output that has arrived is on record after this long at the latest, for every step of [`SAVE_STEP_BYTES`]
/// that is kept: each time all of it is written anew.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);
const SAVE_STEP_BYTES: usize = 128 << 10;
/// Output in one answer: twice as long in its hexadecimal form, which must fit a packet.
const ANSWER_BYTES: usize = 64 << 10;
const SIGKILL: i32 = 9;

/// An answer that is not known yet.
pub(super) type Later = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// Why nothing can be done with a command.
#[derive(Debug, thiserror::Error)]
pub(super) enum DetachedError {
    #[error("{DETACHED_COMMANDS} detached commands run in this workspace already")]
    TooMany,
    #[error("command #{0} is not detached")]
    Attached(u64),
    #[error("the guest could not execute it in time")]
    Deadline,
    #[error("cannot reach the guest's agent")]
    Connect(#[from] io::Error),
}

impl Explain for DetachedError {
    fn explain(&self) -> Problem {
        match self {
            Self::TooMany => Problem::new("too_many_commands", Blame::Caller, self)
                .with_hint("`pyro workspace exec list` shows them, `pyro workspace exec kill` ends one"),
            Self::Attached(_) => Problem::new("not_detached", Blame::Caller, self)
                .with_hint("it ends with the pyro that runs it"),
            Self::Deadline => Problem::new("exec_deadline", Blame::Guest, self),
            Self::Connect(_) => Problem::new("agent_io", Blame::Host, self),
        }
    }
}

/// The commands that run.
pub(super) struct Commands {
    store: Arc<StateStore>,
    running: HashMap<CommandKey, RunningCommand>,
    tasks: JoinSet<()>,
}

struct RunningCommand {
    /// What it has printed so far; closed when its end is on record.
    progress: watch::Receiver<CommandOutput>,
    runner: Runner,
    begun: Instant,
}

enum Runner {
    /// Its client: holding the other end of `progress` is what keeps the command in here.
    Client(#[allow(dead_code, reason = "held to be dropped")] watch::Sender<CommandOutput>),
    Task {
        kills: mpsc::UnboundedSender<i32>,
        task: AbortHandle,
        denied: Option<DeniedSince>,
    },
}

impl Commands {
    pub(super) fn new(store: Arc<StateStore>) -> Self {
        Self { store, running: HashMap::new(), tasks: JoinSet::new() }
    }

    /// Puts a command on record that its client runs itself.
    pub(super) fn begin(&mut self, id: WorkspaceId, new: &NewCommand) -> Result<CommandKey, StoreError> {
        let key = self.store.begin_command(id, new, now())?;
        let (sender, progress) = watch::channel(CommandOutput::default());
        let begun = Instant::now();
        self.running.insert(key, RunningCommand { progress, runner: Runner::Client(sender), begun });
        Ok(key)
    }

    /// The client that ran these has left: what it did not finish is lost.
    pub(super) fn client_left(&mut self, begun: &[CommandKey]) {
        for key in begun {
            // Fails where its end is on record, as it mostly is.
            let lost = CommandOutcome::Lost;
            let _ = self.store.finish_command(*key, lost, 0, &CommandOutput::default(), now());
            self.running.remove(key);
        }
    }

    /// Puts a command on record and runs it over `agent`. The answer comes when the guest has executed it.
    pub(super) fn run(
        &mut self,
        id: WorkspaceId,
        command: RunCommand,
        agent: UnixStream,
        denied: Option<DeniedSince>,
    ) -> Result<Later, Problem> {
        if self.tasks.len() >= DETACHED_COMMANDS {
            return Err(DetachedError::TooMany.explain());
        }
        let new = NewCommand { command: command.command, cwd: command.cwd, detached: true };
        let key = self.store.begin_command(id, &new, now()).map_err(|error| error.explain())?;
        let (sender, progress) = watch::channel(CommandOutput::default());
        let (kills, killed) = mpsc::unbounded_channel();
        let (started, is_started) = oneshot::channel();
        let store = Arc::clone(&self.store);
        let exec = command.exec;
        let denied_meanwhile = denied.clone();
        let task = self.tasks.spawn(async move {
            let start = timeout(SUPERVISOR_DEADLINE, exec::start(agent, &exec)).await;
            let (input, output) = match start {
                Ok(Ok(halves)) => halves,
                failed => {
                    let output = CommandOutput::default();
                    let _ = store.finish_command(key, CommandOutcome::Lost, 0, &output, now());
                    let _ = started.send(Err(why_not_started(failed.map(|tried| tried.map(|_| ())))));
                    return;
                }
            };
            // Its client may have left; a detached command runs all the same.
            let _ = started.send(Ok(()));
            let denied = denied_meanwhile;
            let run = Run { store, key, input, output, killed, sender, denied, begun: Instant::now() };
            run.finish().await;
        });
        let runner = Runner::Task { kills, task, denied };
        self.running.insert(key, RunningCommand { progress, runner, begun: Instant::now() });
        Ok(Box::pin(async move {
            match is_started.await {
                Ok(Ok(())) => Answer::Begun { command: key },
                Ok(Err(problem)) => Answer::Failed(problem),
                // The machine ended meanwhile, which its client is told.
                Err(_) => std::future::pending().await,
            }
        }))
    }

    /// Answered when the command does not run any more.
    pub(super) fn wait(&self, key: CommandKey) -> Later {
        let progress = self.running.get(&key).map(|command| command.progress.clone());
        Box::pin(async move {
            if let Some(mut progress) = progress {
                while progress.changed().await.is_ok() {}
            }
            Answer::Done
        })
    }

    /// Asks the command to end, makes it do so after a grace, and answers when it has.
    pub(super) fn kill(&self, key: CommandKey, signal: i32) -> Result<Later, Problem> {
        match self.running.get(&key).map(|command| &command.runner) {
            // A command that ends at this moment does not hear it any more.
            Some(Runner::Task { kills, .. }) => drop(kills.send(signal)),
            Some(Runner::Client(_)) => return Err(DetachedError::Attached(key.sequence).explain()),
            None => {}
        }
        Ok(self.wait(key))
    }

    /// What a detached command has printed beyond `seen`.
    pub(super) fn output(&self, key: CommandKey, seen: SeenOutput, patience: Patience) -> Later {
        let progress = match self.running.get(&key) {
            Some(RunningCommand { progress, runner: Runner::Task { .. }, .. }) => Some(progress.clone()),
            Some(RunningCommand { runner: Runner::Client(_), .. }) | None => None,
        };
        Box::pin(async move {
            let Some(mut progress) = progress else { return Answer::Done };
            if patience == Patience::None && !seen.is_behind(&progress.borrow()) {
                return Answer::Done;
            }
            match progress.wait_for(|output| seen.is_behind(output)).await {
                Ok(output) => next_output(&output, seen),
                Err(_) => Answer::Done,
            }
        })
    }

    /// Whether a detached command runs. The workspace's time stands still meanwhile.
    pub(super) fn is_busy(&self) -> bool {
        !self.tasks.is_empty()
    }

    /// Waits until a detached command has ended; for ever where none runs. Cancel safe.
    pub(super) async fn ended(&mut self) {
        if self.tasks.join_next().await.is_none() {
            return std::future::pending().await;
        }
        self.running.retain(|_, command| match &command.runner {
            Runner::Client(_) => true,
            Runner::Task { task, .. } => !task.is_finished(),
        });
    }

    /// The machine is gone: what ran is recorded as `outcome`, with what it has printed.
    pub(super) fn end(&mut self, outcome: CommandOutcome) {
        for (key, command) in &self.running {
            if let Runner::Task { task, denied, .. } = &command.runner {
                task.abort();
                if !task.is_finished() {
                    record_denials(&self.store, *key, denied.as_ref());
                }
                let output = command.progress.borrow().clone();
                // Fails where its own end was heard before.
                let _ = self.store.finish_command(*key, outcome, millis(command.begun), &output, now());
            }
        }
    }
}

pub(super) fn why_not_started(tried: Result<Result<(), AgentError>, tokio::time::error::Elapsed>) -> Problem {
    match tried {
        Ok(Err(error)) => error.explain(),
        Ok(Ok(())) | Err(_) => DetachedError::Deadline.explain(),
    }
}

fn next_output(output: &CommandOutput, seen: SeenOutput) -> Answer {
    let rest = |bytes: &[u8], from: usize, most: usize| {
        let rest = bytes.get(from..).unwrap_or_default();
        rest[..rest.len().min(most)].to_vec()
    };
    let stdout = rest(&output.stdout, seen.stdout, ANSWER_BYTES);
    let stderr = rest(&output.stderr, seen.stderr, ANSWER_BYTES - stdout.len());
    Answer::Output { stdout: hex::encode(stdout), stderr: hex::encode(stderr) }
}

/// One detached command that runs.
struct Run {
    store: Arc<StateStore>,
    key: CommandKey,
    input: ExecInput,
    output: ExecOutput,
    killed: mpsc::UnboundedReceiver<i32>,
    sender: watch::Sender<CommandOutput>,
    denied: Option<DeniedSince>,
    begun: Instant,
}

/// Puts on record what was denied while a command ran, before its end, which others wait for.
fn record_denials(store: &StateStore, key: CommandKey, denied: Option<&DeniedSince>) {
    if let Some(detail) = denied.and_then(|denied| denied.told().detail(key.sequence, DETAIL_BYTES)) {
        // It says less than the log, which has it all.
        let _ = store.record_event(key.workspace, EventKind::Denial, &detail, now());
    }
}

/// How hard a command is being ended.
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

impl Run {
    async fn finish(mut self) {
        let (outcome, duration_ms) = self.follow().await;
        let output = self.sender.borrow().clone();
        record_denials(&self.store, self.key, self.denied.as_ref());
        // Cleared by a reset, or the disk is full: there is nobody to tell.
        let _ = self.store.finish_command(self.key, outcome, duration_ms, &output, now());
        if let CommandOutcome::Exited(code) | CommandOutcome::Killed(Some(code)) = outcome {
            let detail = json!({ "sequence": self.key.sequence, "exit_code": code });
            let _ = self.store.record_event(self.key.workspace, EventKind::Exec, &detail, now());
        }
    }

    async fn follow(&mut self) -> (CommandOutcome, u64) {
        let mut ending = Ending::NotAsked;
        let mut save_at = None;
        loop {
            tokio::select! {
                event = self.output.next() => match event {
                    Ok(ExecEvent::Exited(exit)) => return ended(&exit),
                    Ok(ExecEvent::Stdout(bytes)) => self.keep(&bytes, &[], &mut save_at),
                    Ok(ExecEvent::Stderr(bytes)) => self.keep(&[], &bytes, &mut save_at),
                    // The agent is gone, and the machine mostly too; then its end says why.
                    Err(_) => return (CommandOutcome::Lost, millis(self.begun)),
                },
                Some(signal) = self.killed.recv() => ending = self.signal(signal, ending).await,
                () = until(ending.next()) => match ending {
                    Ending::Asked(_) => ending = self.signal(SIGKILL, ending).await,
                    Ending::NotAsked | Ending::Killed(_) => {
                        return (CommandOutcome::Killed(None), millis(self.begun));
                    }
                },
                () = until(save_at) => {
                    save_at = None;
                    let output = self.sender.borrow().clone();
                    let _ = self.store.save_output(self.key, &output);
                }
            }
        }
    }

    fn keep(&self, stdout: &[u8], stderr: &[u8], save_at: &mut Option<Instant>) {
        let is_new = self.sender.send_if_modified(|output| {
            let new = push(&mut output.stdout, &mut output.stdout_truncated, stdout);
            push(&mut output.stderr, &mut output.stderr_truncated, stderr) || new
        });
        if is_new && save_at.is_none() {
            let output = self.sender.borrow();
            let steps = 1 + (output.stdout.len() + output.stderr.len()) / SAVE_STEP_BYTES;
            *save_at = Some(Instant::now() + SAVE_INTERVAL * u32::try_from(steps).unwrap_or(u32::MAX));
        }
    }

    async fn signal(&mut self, signal: i32, ending: Ending) -> Ending {
        // A guest that does not take it is told apart by the time that follows.
        let _ = timeout(KILL_GRACE, self.input.signal(signal)).await;
        match (signal, ending) {
            (SIGKILL, Ending::NotAsked | Ending::Asked(_)) => {
                Ending::Killed(Instant::now() + SUPERVISOR_DEADLINE)
            }
            (_, Ending::NotAsked) => Ending::Asked(Instant::now() + KILL_GRACE),
            (_, asked @ (Ending::Asked(_) | Ending::Killed(_))) => asked,
        }
    }
}

fn ended(exit: &Exit) -> (CommandOutcome, u64) {
    (outcome(exit), exit.duration_ms)
}

/// Keeps the first [`OUTPUT_BYTES`]; tells whether that changed anything.
fn push(kept: &mut Vec<u8>, truncated: &mut bool, bytes: &[u8]) -> bool {
    let room = OUTPUT_BYTES - kept.len();
    let is_cut = bytes.len() > room;
    let is_new = (room > 0 && !bytes.is_empty()) || (is_cut && !*truncated);
    *truncated |= is_cut;
    kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
    is_new
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
