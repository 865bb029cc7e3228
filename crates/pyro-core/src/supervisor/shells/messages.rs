//! What a client and a supervisor say to each other about shells. Bytes are hexadecimal digits.

use crate::exec::ExecRequest;
use crate::store::{ShellId, ShellRecord};
use serde::{Deserialize, Serialize};

/// From client to supervisor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ShellRequest {
    /// Answered with `State` when the guest has executed it.
    Open(Box<OpenShell>),
    /// Something with a shell that is there.
    To { shell: ShellId, action: ShellAction },
}

/// A shell to open.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct OpenShell {
    pub(crate) cwd: String,
    /// With a terminal's size.
    pub(crate) exec: ExecRequest,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ShellAction {
    /// Answered with `Read` when there is what the client waits for, or its time is over.
    Read(ReadShell),
    /// Answered with `Screen`.
    Screen,
    /// Answered with `State` when the guest has all of it, however long that takes.
    Write {
        input: String,
    },
    Signal {
        signal: i32,
    },
    Resize {
        cols: u16,
        rows: u16,
    },
    /// Answered with `State` when it has ended.
    Close,
}

/// What a reader wants.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ReadShell {
    /// Offset of the first byte it has not seen.
    pub(crate) cursor: u64,
    /// Bytes in the answer.
    pub(crate) most: usize,
    pub(crate) form: ReadForm,
    pub(crate) until: Until,
    /// How long it waits, milliseconds.
    pub(crate) limit_ms: u64,
}

/// What a reader makes of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReadForm {
    /// As they are.
    Raw,
    /// As lines that a person would see.
    Plain,
}

/// What a reader waits for. A shell that has ended ends every wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Until {
    /// Nothing.
    Now,
    /// Output beyond the cursor.
    More,
    /// No output for this many milliseconds.
    Idle(u64),
    /// The shell waits for a command.
    Prompt,
    /// This text beyond the cursor.
    Text(String),
    /// A match of this pattern beyond the cursor.
    Pattern(String),
}

/// From supervisor to client.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ShellAnswer {
    State(ShellRecord),
    Read(ShellRead),
    Screen(ShellScreen),
}

/// What a reader gets.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ShellRead {
    pub(crate) record: ShellRecord,
    pub(crate) next_cursor: u64,
    pub(crate) output: String,
    /// Bytes beyond the cursor that are kept no more.
    pub(crate) lost_bytes: u64,
    /// Whether there is more than this.
    pub(crate) more: bool,
    /// Whether what it waited for is there.
    pub(crate) is_satisfied: bool,
}

/// A shell's screen for a terminal of its size.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ShellScreen {
    pub(crate) record: ShellRecord,
    /// The output that the screen does not show begins here.
    pub(crate) next_cursor: u64,
    pub(crate) drawing: String,
    pub(crate) undo: String,
}
