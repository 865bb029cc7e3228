//! Shells: sessions in a terminal of the guest that live until they are closed or the machine ends, whatever
//! becomes of the processes that use them.

mod attach;

pub use attach::{AttachInput, AttachOutput, AttachRestore, Attached, Attachment};

use super::exec::with_defaults;
use super::files::workspace_path;
use super::views::seconds;
use super::{EXECUTION_MODE, KillSignal, Pyro, WORKSPACE_PATH, WorkspaceError, WorkspaceId};
use crate::exec::ExecRequest;
use crate::limits::{self, SHELL_CLOSE_GRACE, SHELL_PATTERN_BYTES, SUPERVISOR_DEADLINE};
use crate::machine::{Link, MachineError, unexpected};
use crate::store::{ShellId, ShellRecord, ShellState, StoreError};
use crate::supervisor::protocol::{Answer, Request};
use crate::supervisor::shells::{self, ShellAction, ShellAnswer, ShellRead, ShellRequest, Until};
use crate::terminal;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use std::io;
use std::time::Duration;

/// A shell to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenShell {
    /// Where it begins, below `/workspace`; `None` is `/workspace`. It must be there.
    pub cwd: Option<String>,
    /// Columns of its terminal, see [`terminal::COLS`].
    pub cols: u64,
    /// Rows of its terminal, see [`terminal::ROWS`].
    pub rows: u64,
    /// The workspace's secrets, and the variables that get their values.
    pub secret_env: Vec<(String, String)>,
}

impl Default for OpenShell {
    fn default() -> Self {
        Self { cwd: None, cols: 120, rows: 30, secret_env: Vec::new() }
    }
}

/// What to read of a shell, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadShell {
    /// Offset of the first byte of output that is wanted: what the last read told as `next_cursor`.
    pub cursor: u64,
    /// The most bytes to give, see [`limits::SHELL_READ_BYTES`].
    pub max_bytes: u64,
    /// Lines as a person would see them instead of the bytes: those that have changed since the cursor.
    pub plain: bool,
    /// What to wait for first.
    pub wait: Option<ShellWait>,
    /// How long, see [`limits::SHELL_WAIT_SECONDS`].
    pub wait_seconds: u64,
}

impl Default for ReadShell {
    fn default() -> Self {
        Self { cursor: 0, max_bytes: 65_536, plain: false, wait: None, wait_seconds: 30 }
    }
}

/// What to wait for in a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShellWait {
    /// No output for this many milliseconds, see [`limits::IDLE_MS`].
    IdleMs(u64),
    /// The shell has carried out everything and waits for a command.
    Prompt,
    /// This text in what is read.
    Text(String),
    /// A match of this regular expression in what is read; `^` and `$` are a line's ends.
    Pattern(String),
}

/// A shell, as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShellView {
    /// Its workspace.
    pub workspace_id: String,
    /// 12 hexadecimal digits.
    pub shell_id: String,
    /// Where it began.
    pub cwd: String,
    /// Columns of its terminal.
    pub cols: u16,
    /// Rows of its terminal.
    pub rows: u16,
    /// `running` or `stopped`.
    pub state: &'static str,
    /// When it was opened, seconds since the Unix epoch.
    pub started_at: f64,
    /// When it ended.
    pub ended_at: Option<f64>,
    /// How it ended; 128 + N after signal N.
    pub exit_code: Option<i32>,
    /// `guest_vsock`.
    pub execution_mode: &'static str,
}

/// What a shell has printed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShellOutput {
    /// The shell by now.
    #[serde(flatten)]
    pub shell: ShellView,
    /// The cursor that was asked for.
    pub cursor: u64,
    /// The cursor for the next read.
    pub next_cursor: u64,
    /// The output. Bytes that are no UTF-8 are replaced.
    pub output: String,
    /// The bytes themselves in base64, where they are no UTF-8.
    pub output_base64: Option<String>,
    /// The bytes.
    #[serde(skip)]
    pub bytes: Vec<u8>,
    /// Whether there is output beyond the cursor that is not in here.
    pub truncated: bool,
    /// Bytes beyond the cursor that are kept no more.
    pub lost_bytes: u64,
    /// Whether more output follows.
    pub more: bool,
    /// Whether these are lines as a person would see them.
    pub plain: bool,
    /// How long the output had to be idle, where that was waited for.
    pub wait_for_idle_ms: Option<u64>,
    /// Whether what was waited for is there; `None` where nothing was.
    pub wait_satisfied: Option<bool>,
}

/// Input that a shell has.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShellWritten {
    /// The shell by now.
    #[serde(flatten)]
    pub shell: ShellView,
    /// Bytes of the input as it was given.
    pub input_length: u64,
    /// Whether an end of line was added.
    pub append_newline: bool,
}

/// A signal that was sent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShellSignalled {
    /// The shell by now.
    #[serde(flatten)]
    pub shell: ShellView,
    /// Its name: `INT`.
    pub signal: &'static str,
}

/// A shell that is gone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShellClosed {
    /// What it was at last.
    #[serde(flatten)]
    pub shell: ShellView,
    /// Always.
    pub closed: bool,
}

/// Bytes of input in one request, which take twice as many in a packet.
const INPUT_BYTES: usize = 64 << 10;

/// The prompt, with marks for those who wait for it: they tell where it ends and when a command is executed. The
/// supervisor takes them out. What a prompt looks like, programs print as well, and what is in the terminal's
/// foreground is the shell itself also while it carries out a command of its own.
const BASH_PROMPT: &str = r"pyro$ \[\e]133;B\a\]";
const BASH_EXECUTES: &str = r"\e]133;C\a";

/// Becomes bash where there is one, otherwise the guest's own shell, whose prompts know no escapes.
const PROGRAM: &str = r#"if command -v bash >/dev/null 2>&1; then exec bash --noprofile --norc -i; fi
PS1=$(printf 'pyro$ \033]133;B\007'); export PS1; exec /bin/sh -i"#;

impl Pyro {
    /// Opens a shell: bash where the guest has it, otherwise its `/bin/sh`, without anybody's start-up files.
    pub async fn shell_open(&self, address: &str, new: &OpenShell) -> Result<ShellView, WorkspaceError> {
        let cols = cells("cols", new.cols, &terminal::COLS)?;
        let rows = cells("rows", new.rows, &terminal::ROWS)?;
        let cwd = workspace_path(new.cwd.as_deref().unwrap_or(WORKSPACE_PATH))?;
        let id = self.resolve(address)?;
        let workspace = self.store.get(id)?;
        let link = self.started(id, OPERATION)?;
        let exec = ExecRequest {
            env: environment(),
            cwd: Some(cwd.clone()),
            stdin: true,
            tty: Some((cols, rows)),
            secret_env: new.secret_env.clone(),
            ..ExecRequest::new(["/bin/sh", "-c", PROGRAM].map(str::to_owned).to_vec())
        };
        let open = shells::OpenShell { cwd, exec: with_defaults(&workspace, &exec) };
        let request = Request::Shell(Box::new(ShellRequest::Open(Box::new(open))));
        // The supervisor bounds the start itself; this bound is for a supervisor that hangs.
        state(link.ask(&request, SUPERVISOR_DEADLINE * 2).await?)
    }

    /// The shells of a workspace, the oldest first.
    pub fn shell_list(&self, address: &str) -> Result<Vec<ShellView>, WorkspaceError> {
        let id = self.resolve(address)?;
        Ok(self.store.shells(id)?.iter().map(view).collect())
    }

    /// Reads what a shell has printed beyond a cursor, now or when there is what was waited for. A shell that
    /// ends, and time that is over, end a wait; then what there is is given.
    pub async fn shell_read(
        &self,
        address: &str,
        shell: &str,
        read: &ReadShell,
    ) -> Result<ShellOutput, WorkspaceError> {
        let max_bytes = limits::check("max_chars", read.max_bytes, &limits::SHELL_READ_BYTES)?;
        let wait_seconds = limits::check("wait_seconds", read.wait_seconds, &limits::SHELL_WAIT_SECONDS)?;
        let until = until(read.wait.as_ref())?;
        let open = self.open_shell(address, shell)?;
        let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        let form = if read.plain { shells::ReadForm::Plain } else { shells::ReadForm::Raw };
        let limit_ms = wait_seconds * 1000;
        let mut wanted = shells::ReadShell { cursor: read.cursor, most: max_bytes, form, until, limit_ms };
        let mut got = open.read(wanted.clone()).await?;
        let (is_satisfied, lost_bytes) = (got.is_satisfied, got.lost_bytes);
        let mut bytes = decoded(&got.output)?;
        // An answer holds less than may be asked for.
        let separator = usize::from(read.plain);
        while got.more && got.next_cursor > wanted.cursor && bytes.len() + separator < max_bytes {
            let (cursor, most) = (got.next_cursor, max_bytes - bytes.len() - separator);
            wanted = shells::ReadShell { cursor, most, until: Until::Now, ..wanted };
            let next = open.read(wanted.clone()).await?;
            let added = decoded(&next.output)?;
            if next.lost_bytes > 0 || added.is_empty() {
                break;
            }
            if read.plain && !bytes.is_empty() {
                bytes.push(b'\n');
            }
            bytes.extend(added);
            got = next;
        }
        Ok(ShellOutput {
            shell: view(&got.record),
            cursor: read.cursor,
            next_cursor: got.next_cursor,
            output: String::from_utf8_lossy(&bytes).into_owned(),
            output_base64: std::str::from_utf8(&bytes).is_err().then(|| STANDARD.encode(&bytes)),
            bytes,
            truncated: lost_bytes > 0 || got.more,
            lost_bytes,
            more: got.more,
            plain: read.plain,
            wait_for_idle_ms: match read.wait {
                Some(ShellWait::IdleMs(millis)) => Some(millis),
                Some(ShellWait::Prompt | ShellWait::Text(_) | ShellWait::Pattern(_)) | None => None,
            },
            wait_satisfied: read.wait.as_ref().map(|_| is_satisfied),
        })
    }

    /// Types `input` into a shell, and Enter after it where that is wanted. Returns when the guest has it.
    pub async fn shell_write(
        &self,
        address: &str,
        shell: &str,
        input: &[u8],
        newline: Newline,
    ) -> Result<ShellWritten, WorkspaceError> {
        let open = self.open_shell(address, shell)?;
        let mut whole = input.to_vec();
        if newline == Newline::Append {
            whole.push(b'\n');
        }
        let mut record = open.record.clone();
        for piece in whole.chunks(INPUT_BYTES) {
            record =
                match open.act(ShellAction::Write { input: hex::encode(piece) }, SUPERVISOR_DEADLINE).await {
                    Err(WorkspaceError::Machine(MachineError::SupervisorDeadline)) => {
                        return Err(WorkspaceError::ShellInput(open.record.shell.to_string()));
                    }
                    answered => answered?,
                };
        }
        if !record.is_running {
            return Err(WorkspaceError::ShellNotRunning(record.shell.to_string()));
        }
        Ok(ShellWritten {
            shell: view(&record),
            input_length: input.len() as u64,
            append_newline: newline == Newline::Append,
        })
    }

    /// Gives a shell's terminal another size.
    pub async fn shell_resize(
        &self,
        address: &str,
        shell: &str,
        cols: u64,
        rows: u64,
    ) -> Result<ShellView, WorkspaceError> {
        let cols = cells("cols", cols, &terminal::COLS)?;
        let rows = cells("rows", rows, &terminal::ROWS)?;
        let open = self.open_shell(address, shell)?;
        Ok(view(&open.act(ShellAction::Resize { cols, rows }, SUPERVISOR_DEADLINE).await?))
    }

    /// Sends a signal to what runs in a shell's foreground; SIGKILL to everything in it.
    pub async fn shell_signal(
        &self,
        address: &str,
        shell: &str,
        signal: KillSignal,
    ) -> Result<ShellSignalled, WorkspaceError> {
        let open = self.open_shell(address, shell)?;
        let action = ShellAction::Signal { signal: signal.number() };
        let record = open.act(action, SUPERVISOR_DEADLINE).await?;
        Ok(ShellSignalled { shell: view(&record), signal: signal.name() })
    }

    /// Hangs a shell up, ends what does not end by that, and forgets it. Returns when nothing of it runs.
    pub async fn shell_close(&self, address: &str, shell: &str) -> Result<ShellClosed, WorkspaceError> {
        let open = self.open_shell(address, shell)?;
        let within = SHELL_CLOSE_GRACE * 3 + SUPERVISOR_DEADLINE;
        Ok(ShellClosed { shell: view(&open.act(ShellAction::Close, within).await?), closed: true })
    }

    fn open_shell(&self, address: &str, shell: &str) -> Result<OpenedShell, WorkspaceError> {
        let id = self.resolve(address)?;
        let link = self.started(id, OPERATION)?;
        Ok(OpenedShell { link, record: self.shell_record(id, shell)? })
    }

    /// The shell that an id or a unique beginning of one means.
    fn shell_record(&self, id: WorkspaceId, shell: &str) -> Result<ShellRecord, StoreError> {
        let begins = |record: &ShellRecord| !shell.is_empty() && record.shell.to_string().starts_with(shell);
        let mut found: Vec<_> = self.store.shells(id)?.into_iter().filter(begins).collect();
        match (found.pop(), found.is_empty()) {
            (Some(record), true) => Ok(record),
            (Some(_), false) => Err(StoreError::AmbiguousShell { id, shell: shell.to_owned() }),
            (None, _) => Err(StoreError::NoShell { id, shell: shell.to_owned() }),
        }
    }
}

/// Whether Enter is pressed after the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Newline {
    /// It is.
    Append,
    /// It is not.
    Omit,
}

/// What needs a running machine here.
const OPERATION: &str = "shell operations";

/// A shell with a connection to its supervisor.
struct OpenedShell {
    link: Link,
    record: ShellRecord,
}

impl OpenedShell {
    fn request(&self, action: ShellAction) -> Request {
        request(self.record.shell, action)
    }

    async fn act(&self, action: ShellAction, within: Duration) -> Result<ShellRecord, WorkspaceError> {
        record_in(self.link.ask(&self.request(action), within).await?)
    }

    async fn read(&self, read: shells::ReadShell) -> Result<ShellRead, WorkspaceError> {
        read_in(self.link.ask_patiently(&self.request(ShellAction::Read(read))).await?)
    }
}

fn request(shell: ShellId, action: ShellAction) -> Request {
    Request::Shell(Box::new(ShellRequest::To { shell, action }))
}

fn record_in(answer: Answer) -> Result<ShellRecord, WorkspaceError> {
    match answer {
        Answer::Shell(answer) => match *answer {
            ShellAnswer::State(record) => Ok(record),
            other @ (ShellAnswer::Read(_) | ShellAnswer::Screen(_)) => {
                Err(unexpected(Answer::Shell(Box::new(other))).into())
            }
        },
        other => Err(unexpected(other).into()),
    }
}

fn read_in(answer: Answer) -> Result<ShellRead, WorkspaceError> {
    match answer {
        Answer::Shell(answer) => match *answer {
            ShellAnswer::Read(read) => Ok(read),
            other @ (ShellAnswer::State(_) | ShellAnswer::Screen(_)) => {
                Err(unexpected(Answer::Shell(Box::new(other))).into())
            }
        },
        other => Err(unexpected(other).into()),
    }
}

fn state(answer: Answer) -> Result<ShellView, WorkspaceError> {
    Ok(view(&record_in(answer)?))
}

fn decoded(text: &str) -> Result<Vec<u8>, MachineError> {
    hex::decode(text).map_err(|error| MachineError::SupervisorLost(Some(io::Error::other(error))))
}

fn cells(
    name: &'static str,
    value: u64,
    range: &std::ops::RangeInclusive<u64>,
) -> Result<u16, limits::OutOfRange> {
    let value = limits::check(name, value, range)?;
    Ok(u16::try_from(value).expect("a terminal's bounds lie within 65535"))
}

fn until(wait: Option<&ShellWait>) -> Result<Until, WorkspaceError> {
    let bounded = |text: &String| match text.len() {
        0 => Err(WorkspaceError::EmptyPattern),
        len if len > SHELL_PATTERN_BYTES => Err(WorkspaceError::LongPattern),
        _ => Ok(text.clone()),
    };
    Ok(match wait {
        None => Until::Now,
        Some(ShellWait::IdleMs(millis)) => {
            Until::Idle(limits::check("wait_for_idle_ms", *millis, &limits::IDLE_MS)?)
        }
        Some(ShellWait::Prompt) => Until::Prompt,
        Some(ShellWait::Text(text)) => Until::Text(bounded(text)?),
        Some(ShellWait::Pattern(text)) => Until::Pattern(bounded(text)?),
    })
}

fn environment() -> Vec<(String, String)> {
    let fixed = [
        ("TERM", "xterm-256color"),
        ("PS1", BASH_PROMPT),
        ("PS0", BASH_EXECUTES),
        ("PROMPT_COMMAND", ""),
        // What is typed may hold secrets, and the tree is compared and exported.
        ("HISTFILE", ""),
    ];
    fixed.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn view(record: &ShellRecord) -> ShellView {
    let state = if record.is_running { ShellState::Running } else { ShellState::Stopped };
    ShellView {
        workspace_id: record.workspace.to_string(),
        shell_id: record.shell.to_string(),
        cwd: record.cwd.clone(),
        cols: record.cols,
        rows: record.rows,
        state: state.as_str(),
        started_at: seconds(record.started_at),
        ended_at: record.ended_at.map(seconds),
        exit_code: record.exit_code,
        execution_mode: EXECUTION_MODE,
    }
}
