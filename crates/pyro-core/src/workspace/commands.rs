//! Commands of a workspace beyond one that is run and watched: detached ones, which the workspace's supervisor
//! runs, and what has become of any.

use super::exec::{ExecFacts, Prepared, WorkspaceCommand};
use super::review::{self, LogEntry};
use super::views::seconds;
use super::{EXECUTION_MODE, Pyro, WorkspaceError, WorkspaceId, garbage};
use crate::exec::{AgentError, ExecRequest};
use crate::limits::{KILL_GRACE, MACHINE_LOCK_DEADLINE, PACKET_BYTES, SUPERVISOR_DEADLINE};
use crate::machine::{Link, MachineError, unexpected};
use crate::network::{NetworkDenial, NetworkDenials};
use crate::places::{FileLock, Hold};
use crate::store::{CommandKey, CommandOutput, CommandRecord, CommandState, EventKind, StoreError};
use crate::supervisor::protocol::{Answer, Patience, Request, RunCommand, SeenOutput};
use pyro_agent::wire::{Failure, FailureCode};
use serde::Serialize;
use std::collections::HashMap;
use std::io;
use std::time::Duration;

/// A command that runs on by itself.
#[derive(Clone, Debug, Serialize)]
pub struct DetachedCommand {
    /// What is known of it.
    #[serde(flatten)]
    pub facts: ExecFacts,
    /// `running`.
    pub state: &'static str,
    /// `guest_vsock`.
    pub execution_mode: &'static str,
}

/// A command on record.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CommandView {
    /// Its workspace.
    pub workspace_id: String,
    /// Its number since the last reset, from 1.
    pub sequence: u64,
    /// As a shell would take it, without secrets.
    pub command: String,
    /// Where it runs.
    pub cwd: String,
    /// Whether it runs on without whoever started it.
    pub detached: bool,
    /// `running`, `exited`, `killed` or `lost`.
    pub state: &'static str,
    /// How it ended; `None` while it runs or when that was never told.
    pub exit_code: Option<i32>,
    /// Milliseconds that it ran.
    pub duration_ms: Option<u64>,
    /// When it was started, seconds since the Unix epoch.
    pub started_at: f64,
    /// `guest_vsock`.
    pub execution_mode: &'static str,
    /// What the guest was denied while it ran, each once; also by others that ran at the time. Told when it has
    /// ended.
    pub network_denials: Vec<NetworkDenial>,
    /// Whether there was more.
    pub network_denials_truncated: bool,
}

/// A command that was waited for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WaitedCommand {
    /// What has become of it.
    #[serde(flatten)]
    pub command: CommandView,
    /// Whether the time for waiting was over first. The command runs on then.
    pub wait_timed_out: bool,
}

/// A signal that asks a command to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KillSignal {
    /// SIGHUP.
    Hup,
    /// SIGINT, as Ctrl-C.
    Int,
    /// SIGQUIT.
    Quit,
    /// SIGKILL, to all of the command's processes.
    Kill,
    /// SIGUSR1.
    Usr1,
    /// SIGUSR2.
    Usr2,
    /// SIGTERM.
    #[default]
    Term,
}

impl KillSignal {
    /// Its name, without `SIG`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hup => "HUP",
            Self::Int => "INT",
            Self::Quit => "QUIT",
            Self::Kill => "KILL",
            Self::Usr1 => "USR1",
            Self::Usr2 => "USR2",
            Self::Term => "TERM",
        }
    }

    /// Its number in a Linux guest.
    pub fn number(self) -> i32 {
        match self {
            Self::Hup => 1,
            Self::Int => 2,
            Self::Quit => 3,
            Self::Kill => 9,
            Self::Usr1 => 10,
            Self::Usr2 => 12,
            Self::Term => 15,
        }
    }
}

impl Pyro {
    /// Starts a command that the workspace's supervisor runs from then on, whatever becomes of this process.
    /// It ends by itself, by [`Pyro::command_kill`], or with its machine. Standard input is empty, and there is
    /// no terminal.
    pub async fn exec_detached(
        &self,
        address: &str,
        command: &WorkspaceCommand,
    ) -> Result<DetachedCommand, WorkspaceError> {
        let Prepared { id, link, request: exec, facts } = self.prepare(address, command)?;
        let exec = ExecRequest { stdin: false, tty: None, ..exec };
        let run = RunCommand { command: facts.command.clone(), cwd: facts.cwd.clone(), exec };
        let request = Request::RunCommand(Box::new(run));
        check_size(&request)?;
        // The supervisor bounds the start itself; this bound is for a supervisor that hangs.
        let run = async { Ok(link.ask(&request, SUPERVISOR_DEADLINE * 2).await?) };
        match self.during(id, &link, run).await? {
            Answer::Begun { command } => Ok(DetachedCommand {
                facts: ExecFacts { sequence: command.sequence, ..facts },
                state: CommandState::Running.as_str(),
                execution_mode: EXECUTION_MODE,
            }),
            other => Err(unexpected(other).into()),
        }
    }

    /// The commands of a workspace since its last reset, detached ones and others.
    pub fn command_list(&self, address: &str) -> Result<Vec<CommandView>, WorkspaceError> {
        let id = self.resolve(address)?;
        let commands = self.store.commands(id)?;
        let mut denied = self.denied_by_command(id)?;
        let view = |command: CommandRecord| {
            let denied = denied.remove(&command.key.sequence).unwrap_or_default();
            view(command, denied)
        };
        Ok(commands.into_iter().map(view).collect())
    }

    /// Waits until a command does not run any more, for `limit` at most.
    pub async fn command_wait(
        &self,
        address: &str,
        sequence: u64,
        limit: Option<Duration>,
    ) -> Result<WaitedCommand, WorkspaceError> {
        let key = self.command_key(address, sequence)?;
        let ended = match limit {
            None => Some(self.await_end(key).await?),
            Some(limit) => match tokio::time::timeout(limit, self.await_end(key)).await {
                Ok(ended) => Some(ended?),
                Err(_) => None,
            },
        };
        let wait_timed_out = ended.is_none();
        let command = ended.map_or_else(|| self.record_of(key), Ok)?;
        Ok(WaitedCommand { command: self.command_view(command)?, wait_timed_out })
    }

    /// Ends a detached command: sends `signal` to its process group, and where it runs on for
    /// [`KILL_GRACE`], SIGKILL to all its processes. Returns when it has ended.
    pub async fn command_kill(
        &self,
        address: &str,
        sequence: u64,
        signal: KillSignal,
    ) -> Result<CommandView, WorkspaceError> {
        let key = self.command_key(address, sequence)?;
        let is_running = self.record_of(key)?.state == CommandState::Running;
        match self.link(key.workspace)? {
            Some(link) if is_running => {
                let request = Request::KillCommand { command: key, signal: signal.number() };
                match link.ask(&request, KILL_GRACE * 2 + SUPERVISOR_DEADLINE * 2).await {
                    // It has ended, or with it the machine.
                    Ok(Answer::Done | Answer::Ended(_)) | Err(MachineError::SupervisorLost(_)) => {}
                    Ok(other) => return Err(unexpected(other).into()),
                    Err(error) => return Err(error.into()),
                }
                self.command_view(self.await_end(key).await?)
            }
            _ => Err(StoreError::CommandEnded { id: key.workspace, sequence }.into()),
        }
    }

    /// What a command has printed so far, as far as it is kept.
    pub async fn command_output(&self, address: &str, sequence: u64) -> Result<LogEntry, WorkspaceError> {
        let key = self.command_key(address, sequence)?;
        let mut output = self.store.output(key)?;
        if let (CommandState::Running, Some(link)) = (self.record_of(key)?.state, self.link(key.workspace)?) {
            // The records lag behind.
            loop {
                let seen = SeenOutput { stdout: output.stdout.len(), stderr: output.stderr.len() };
                let request = Request::ReadOutput { command: key, seen, patience: Patience::None };
                let Some(new) = new_output(link.ask(&request, SUPERVISOR_DEADLINE).await)? else { break };
                output.stdout.extend(new.stdout);
                output.stderr.extend(new.stderr);
            }
        }
        let record = self.record_of(key)?;
        let denied = self.denied_by_command(key.workspace)?.remove(&sequence).unwrap_or_default();
        Ok(review::log_entry(record, &output, denied))
    }

    /// Follows what a command prints, from its beginning to its end.
    pub fn command_follow(&self, address: &str, sequence: u64) -> Result<CommandFollow<'_>, WorkspaceError> {
        let key = self.command_key(address, sequence)?;
        Ok(CommandFollow { pyro: self, key, seen: SeenOutput::default(), link: self.link(key.workspace)? })
    }

    /// What was denied while each command ran, by its number.
    pub(super) fn denied_by_command(
        &self,
        id: WorkspaceId,
    ) -> Result<HashMap<u64, NetworkDenials>, WorkspaceError> {
        let denials = self.store.events_of(id, EventKind::Denial)?;
        Ok(denials.iter().filter_map(|event| NetworkDenials::of_detail(&event.detail)).collect())
    }

    fn command_view(&self, record: CommandRecord) -> Result<CommandView, WorkspaceError> {
        let mut denied = self.denied_by_command(record.key.workspace)?;
        let denied = denied.remove(&record.key.sequence).unwrap_or_default();
        Ok(view(record, denied))
    }

    fn command_key(&self, address: &str, sequence: u64) -> Result<CommandKey, WorkspaceError> {
        Ok(self.store.command(self.resolve(address)?, sequence)?.key)
    }

    /// The record of this command, not that of another one that has its number after a reset.
    fn record_of(&self, key: CommandKey) -> Result<CommandRecord, WorkspaceError> {
        let CommandKey { workspace: id, sequence, .. } = key;
        let found = self.store.command(id, sequence)?;
        match found.key == key {
            true => Ok(found),
            false => Err(StoreError::NoCommand { id, sequence }.into()),
        }
    }

    /// Waits until the command does not run any more; the supervisor tells.
    pub(super) async fn await_end(&self, key: CommandKey) -> Result<CommandRecord, WorkspaceError> {
        // A supervisor that dies is heard of, then its death is put on record.
        for _ in 0..LOOKS {
            let record = self.record_of(key)?;
            if record.state != CommandState::Running {
                return Ok(record);
            }
            match self.link(key.workspace)? {
                Some(link) => match link.ask_patiently(&Request::WaitCommand { command: key }).await {
                    Ok(Answer::Done | Answer::Ended(_)) | Err(MachineError::SupervisorLost(_)) => {}
                    Ok(other) => return Err(unexpected(other).into()),
                    Err(error) => return Err(error.into()),
                },
                None => self.settle_machine(key.workspace).await?,
            }
        }
        Err(MachineError::SupervisorLost(None).into())
    }

    /// Puts on record that a machine is gone whose supervisor could not.
    pub(super) async fn settle_machine(&self, id: WorkspaceId) -> Result<(), WorkspaceError> {
        let path = self.places.machine_lock(id);
        let released = FileLock::take_within(&path, Hold::Shared, MACHINE_LOCK_DEADLINE).await;
        drop(released.map_err(|error| self.gone_or(id, "lock", path, error))?);
        garbage::recover(&self.store, &self.places)
    }
}

/// Looks at a running command's record: before, after its supervisor has gone, and once more for one that
/// another process was settling.
const LOOKS: u32 = 4;

/// The output of a command as it comes.
pub struct CommandFollow<'a> {
    pyro: &'a Pyro,
    key: CommandKey,
    seen: SeenOutput,
    /// Gone when the supervisor has nothing more to tell.
    link: Option<Link>,
}

/// What a command has printed since.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewOutput {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl CommandFollow<'_> {
    /// The next bytes; `None` when the command has ended and everything that is kept was told. Of a command
    /// that is not detached all comes at its end.
    pub async fn next(&mut self) -> Result<Option<NewOutput>, WorkspaceError> {
        let mut new = match &self.link {
            Some(link) => {
                let (command, seen) = (self.key, self.seen);
                let request = Request::ReadOutput { command, seen, patience: Patience::UntilThereIsMore };
                new_output(link.ask_patiently(&request).await)?
            }
            None => None,
        };
        if new.is_none() {
            self.link = None;
            self.pyro.await_end(self.key).await?;
            let CommandOutput { stdout, stderr, .. } = self.pyro.store.output(self.key)?;
            let rest = |bytes: Vec<u8>, from| bytes.get(from..).unwrap_or_default().to_vec();
            let rest =
                NewOutput { stdout: rest(stdout, self.seen.stdout), stderr: rest(stderr, self.seen.stderr) };
            new = (rest != NewOutput::default()).then_some(rest);
        }
        if let Some(new) = &new {
            self.seen.stdout += new.stdout.len();
            self.seen.stderr += new.stderr.len();
        }
        Ok(new)
    }
}

/// What a supervisor says that it has; `None` where that is nothing, or it is gone.
fn new_output(answer: Result<Answer, MachineError>) -> Result<Option<NewOutput>, WorkspaceError> {
    let (stdout, stderr) = match answer {
        Ok(Answer::Output { stdout, stderr }) => (stdout, stderr),
        Ok(Answer::Done | Answer::Ended(_)) | Err(MachineError::SupervisorLost(_)) => return Ok(None),
        Ok(other) => return Err(unexpected(other).into()),
        Err(error) => return Err(error.into()),
    };
    let bytes = |text: String| {
        hex::decode(text).map_err(|error| MachineError::SupervisorLost(Some(io::Error::other(error))))
    };
    Ok(Some(NewOutput { stdout: bytes(stdout)?, stderr: bytes(stderr)? }))
}

/// Refuses a command that does not fit a packet, which would look like a supervisor that is gone.
pub(super) fn check_size(request: &Request) -> Result<(), MachineError> {
    let bytes = serde_json::to_vec(request).map_or(usize::MAX, |packet| packet.len());
    if bytes <= PACKET_BYTES {
        return Ok(());
    }
    let message = format!("a detached command of {bytes} bytes is too long (at most {PACKET_BYTES})");
    Err(AgentError::Refused(Failure { code: FailureCode::BadRequest, message }).into())
}

fn view(record: CommandRecord, denied: NetworkDenials) -> CommandView {
    CommandView {
        workspace_id: record.key.workspace.to_string(),
        sequence: record.key.sequence,
        command: record.command,
        cwd: record.cwd,
        detached: record.detached,
        state: record.state.as_str(),
        exit_code: record.exit_code,
        duration_ms: record.duration_ms,
        started_at: seconds(record.started_at),
        execution_mode: EXECUTION_MODE,
        network_denials: denied.denials,
        network_denials_truncated: denied.truncated,
    }
}
