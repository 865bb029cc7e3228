//! A shell in the caller's own terminal.

use super::{OPERATION, OpenedShell, ShellView, cells, decoded, read_in, record_in, request, view};
use crate::limits::{SHELL_WAIT_SECONDS, SUPERVISOR_DEADLINE};
use crate::machine::{Link, unexpected};
use crate::store::ShellId;
use crate::supervisor::protocol::Answer;
use crate::supervisor::shells::{ReadForm, ReadShell, ShellAction, ShellAnswer, ShellScreen, Until};
use crate::terminal;
use crate::workspace::{Pyro, WorkspaceError};

/// A shell that the caller's terminal is attached to, in two halves that are used at the same time.
pub struct Attachment {
    /// The shell.
    pub shell: ShellView,
    /// From the caller's keys.
    pub input: AttachInput,
    /// To the caller's screen.
    pub output: AttachOutput,
    /// For afterwards.
    pub restore: AttachRestore,
}

/// What is typed, and the size of the terminal that it is typed in.
pub struct AttachInput {
    link: Link,
    shell: ShellId,
}

/// What is to be shown.
pub struct AttachOutput {
    link: Link,
    shell: ShellId,
    cursor: u64,
    /// The drawing of the screen is still to come.
    drawing: Option<Vec<u8>>,
}

/// Brings the caller's terminal back to its ordinary state.
pub struct AttachRestore {
    link: Link,
    shell: ShellId,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq)]
pub enum Attached {
    /// Bytes for the caller's terminal.
    Bytes(Vec<u8>),
    /// The shell has ended.
    Ended(ShellView),
}

impl Pyro {
    /// Attaches a terminal of this size to a shell, which gets that size as far as it may have it. Any number
    /// may be attached; the last one's size is the shell's.
    pub async fn shell_attach(
        &self,
        address: &str,
        shell: &str,
        cols: u16,
        rows: u16,
    ) -> Result<Attachment, WorkspaceError> {
        let open = self.open_shell(address, shell)?;
        let id = open.record.workspace;
        let shell = open.record.shell;
        let OpenedShell { link, .. } = open;
        let mut input = AttachInput { link: self.started(id, OPERATION)?, shell };
        input.resize(cols, rows).await?;
        let screen = screen(&link, shell).await?;
        let output = AttachOutput {
            link,
            shell,
            cursor: screen.next_cursor,
            drawing: Some(decoded(&screen.drawing)?),
        };
        // The other connections may owe an answer when it is used.
        let restore = AttachRestore { link: self.started(id, OPERATION)?, shell };
        Ok(Attachment { shell: view(&screen.record), input, output, restore })
    }
}

impl AttachInput {
    /// Types bytes.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), WorkspaceError> {
        for piece in bytes.chunks(super::INPUT_BYTES) {
            let action = ShellAction::Write { input: hex::encode(piece) };
            record_in(self.link.ask_patiently(&request(self.shell, action)).await?)?;
        }
        Ok(())
    }

    /// Gives the shell the size of the caller's terminal.
    pub async fn resize(&mut self, cols: u16, rows: u16) -> Result<ShellView, WorkspaceError> {
        let within = |value: u16, range: &std::ops::RangeInclusive<u64>| {
            u64::from(value).clamp(*range.start(), *range.end())
        };
        let cols = cells("cols", within(cols, &terminal::COLS), &terminal::COLS)?;
        let rows = cells("rows", within(rows, &terminal::ROWS), &terminal::ROWS)?;
        let action = ShellAction::Resize { cols, rows };
        Ok(view(&record_in(self.link.ask(&request(self.shell, action), SUPERVISOR_DEADLINE).await?)?))
    }
}

impl AttachOutput {
    /// Waits for what is to be shown next. Dropped in the middle, it must not be called again.
    pub async fn next(&mut self) -> Result<Attached, WorkspaceError> {
        if let Some(drawing) = self.drawing.take() {
            return Ok(Attached::Bytes(drawing));
        }
        loop {
            let read = ReadShell {
                cursor: self.cursor,
                most: usize::MAX,
                form: ReadForm::Raw,
                until: Until::More,
                limit_ms: SHELL_WAIT_SECONDS.end() * 1000,
            };
            let action = ShellAction::Read(read);
            let got = read_in(self.link.ask_patiently(&request(self.shell, action)).await?)?;
            if got.lost_bytes > 0 {
                // The caller's terminal is too slow for that much: it gets the result.
                let screen = screen(&self.link, self.shell).await?;
                self.cursor = screen.next_cursor;
                return Ok(Attached::Bytes(decoded(&screen.drawing)?));
            }
            self.cursor = got.next_cursor;
            let bytes = decoded(&got.output)?;
            if !bytes.is_empty() {
                return Ok(Attached::Bytes(bytes));
            }
            if !got.record.is_running {
                return Ok(Attached::Ended(view(&got.record)));
            }
        }
    }
}

impl AttachRestore {
    /// What to write to the caller's terminal, for what the shell has made of it by now.
    pub async fn bytes(self) -> Result<Vec<u8>, WorkspaceError> {
        Ok(decoded(&screen(&self.link, self.shell).await?.undo)?)
    }
}

async fn screen(link: &Link, shell: ShellId) -> Result<ShellScreen, WorkspaceError> {
    match link.ask(&request(shell, ShellAction::Screen), SUPERVISOR_DEADLINE).await? {
        Answer::Shell(answer) => match *answer {
            ShellAnswer::Screen(screen) => Ok(screen),
            other @ (ShellAnswer::State(_) | ShellAnswer::Read(_)) => {
                Err(unexpected(Answer::Shell(Box::new(other))).into())
            }
        },
        other => Err(unexpected(other).into()),
    }
}
