//! The task of one shell that runs.

use super::lock;
use super::output::Output;
use crate::exec::{ExecEvent, ExecInput, ExecOutput};
use crate::limits::SHELL_CLOSE_GRACE;
use crate::store::{ShellId, ShellRecord, StateStore, WorkspaceId};
use crate::supervisor::serve::until;
use crate::workspace::now;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

const SIGHUP: i32 = 1;
const SIGKILL: i32 = 9;

/// How soon a shell that is closed is hung up again: first its foreground job hears it, then itself.
const HANG_UP_INTERVAL: Duration = Duration::from_millis(100);

/// What a client wants done. `done` is told when it is, and dropped when the shell ends before.
pub(super) enum Control {
    Write { bytes: Vec<u8>, done: oneshot::Sender<()> },
    Signal { signal: i32, done: oneshot::Sender<()> },
    Resize { cols: u16, rows: u16, done: oneshot::Sender<()> },
    Close,
}

pub(super) struct Run {
    pub(super) output: Arc<Mutex<Output>>,
    pub(super) sender: watch::Sender<u64>,
    pub(super) controlled: mpsc::UnboundedReceiver<Control>,
    pub(super) store: Arc<StateStore>,
    pub(super) workspace: WorkspaceId,
    pub(super) shell: ShellId,
}

/// Input that the guest has not taken yet.
struct Pending {
    bytes: Vec<u8>,
    sent: usize,
    done: oneshot::Sender<()>,
}

impl Run {
    /// Runs until the shell has ended, and puts that on record.
    pub(super) async fn finish(self, input: ExecInput, guest_output: ExecOutput) {
        let Self { output, sender, controlled, store, workspace, shell } = self;
        let exit_code = tokio::select! {
            exit_code = drain(guest_output, &output, &sender) => exit_code,
            () = feed(input, controlled, &output) => None,
        };
        let mut output = lock(&output);
        let ended_at = now();
        // Where that cannot be put on record now, its readers are told all the same.
        let record = store.end_shell(workspace, shell, exit_code, ended_at).unwrap_or_else(|_| ShellRecord {
            is_running: false,
            ended_at: Some(ended_at),
            exit_code,
            ..output.record().clone()
        });
        output.stop(record);
        drop(output);
        sender.send_modify(|changes| *changes += 1);
    }
}

/// Keeps what the shell prints; gives its exit code.
async fn drain(mut guest: ExecOutput, output: &Mutex<Output>, sender: &watch::Sender<u64>) -> Option<i32> {
    loop {
        match guest.next().await {
            Ok(ExecEvent::Stdout(bytes) | ExecEvent::Stderr(bytes)) => {
                lock(output).push(&bytes);
                sender.send_modify(|changes| *changes += 1);
                // What others want is done between a flood's pieces.
                tokio::task::yield_now().await;
            }
            Ok(ExecEvent::Exited(exit)) => return Some(exit.status()),
            // The agent is gone, and the machine mostly too.
            Err(_) => return None,
        }
    }
}

/// Carries out what clients want, until the shell's stream is broken or a close has taken too long. A signal
/// does not wait for input that nobody reads.
async fn feed(
    mut input: ExecInput,
    mut controlled: mpsc::UnboundedReceiver<Control>,
    output: &Mutex<Output>,
) {
    let mut pending: VecDeque<Pending> = VecDeque::new();
    let (mut hang_up_at, mut kill_at, mut is_killed) = (None, None, false);
    loop {
        let outcome = tokio::select! {
            control = controlled.recv() => match control {
                Some(Control::Write { bytes, done }) => {
                    pending.push_back(Pending { bytes, sent: 0, done });
                    Ok(())
                }
                Some(Control::Signal { signal, done }) => {
                    let sent = input.signal(signal).await;
                    let _ = done.send(());
                    sent
                }
                Some(Control::Resize { cols, rows, done }) => {
                    let sent = input.resize(cols, rows).await;
                    let _ = done.send(());
                    sent
                }
                Some(Control::Close) => {
                    hang_up_at.get_or_insert(Instant::now());
                    kill_at.get_or_insert(Instant::now() + SHELL_CLOSE_GRACE);
                    Ok(())
                }
                // Everybody who could want anything is gone: its machine is ending.
                None => return std::future::pending().await,
            },
            room = input.room(), if !pending.is_empty() => match room {
                Ok(room) => write(&mut input, &mut pending, room, output).await,
                Err(error) => Err(error),
            },
            () = until(hang_up_at), if !is_killed => {
                hang_up_at = Some(Instant::now() + HANG_UP_INTERVAL);
                input.signal(SIGHUP).await
            }
            () = until(kill_at) => {
                if is_killed {
                    // Without its stream the agent ends what is left.
                    return;
                }
                is_killed = true;
                kill_at = Some(Instant::now() + SHELL_CLOSE_GRACE);
                input.signal(SIGKILL).await
            }
        };
        if outcome.is_err() {
            // How it ended is told by the other direction.
            return std::future::pending().await;
        }
    }
}

/// Sends a piece of what is pending.
async fn write(
    input: &mut ExecInput,
    pending: &mut VecDeque<Pending>,
    room: usize,
    output: &Mutex<Output>,
) -> Result<(), crate::exec::AgentError> {
    let Some(first) = pending.front_mut() else { return Ok(()) };
    if first.sent == 0 && first.done.is_closed() {
        // Who wanted it written has given up.
        pending.pop_front();
        return Ok(());
    }
    let piece = &first.bytes[first.sent..(first.sent + room).min(first.bytes.len())];
    lock(output).typed(piece);
    input.stdin(piece).await?;
    first.sent += piece.len();
    if first.sent == first.bytes.len()
        && let Some(Pending { done, .. }) = pending.pop_front()
    {
        let _ = done.send(());
    }
    Ok(())
}
