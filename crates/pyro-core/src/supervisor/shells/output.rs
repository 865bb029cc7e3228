//! What a shell has printed: its newest bytes, and the screen that they make.

use super::marks::{Mark, Marks};
use super::{ReadForm, ShellError, ShellScreen};
use crate::limits::SHELL_BYTES;
use crate::store::ShellRecord;
use crate::terminal::{self, Terminal};
use std::collections::VecDeque;
use tokio::time::Instant;

/// Bytes in one answer, which take twice as many in a packet.
pub(super) const ANSWER_BYTES: usize = 64 << 10;

/// Output that the emulator may lag behind, so that a shell that nobody looks at costs little.
const LAG_BYTES: usize = 64 << 10;

pub(super) struct Output {
    record: ShellRecord,
    /// The newest bytes.
    ring: VecDeque<u8>,
    /// The offset just after them.
    end: u64,
    /// Lags behind by what is in the ring.
    terminal: Terminal,
    last_at: Instant,
    marks: Marks,
    /// Where the prompt ended at which the shell waits for a command.
    prompt_at: Option<u64>,
    /// Where the output ended when a command was typed last.
    typed_at: u64,
}

/// What a reader is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) bytes: Vec<u8>,
    pub(super) next_cursor: u64,
    pub(super) lost_bytes: u64,
    pub(super) more: bool,
}

impl Output {
    pub(super) fn new(record: ShellRecord) -> Self {
        let terminal = Terminal::new(record.cols, record.rows);
        Self {
            record,
            ring: VecDeque::new(),
            end: 0,
            terminal,
            last_at: Instant::now(),
            marks: Marks::default(),
            prompt_at: None,
            typed_at: 0,
        }
    }

    pub(super) fn record(&self) -> &ShellRecord {
        &self.record
    }

    pub(super) fn is_running(&self) -> bool {
        self.record.is_running
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// When there was output last.
    pub(super) fn last_at(&self) -> Instant {
        self.last_at
    }

    /// Takes the next bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.last_at = Instant::now();
        for (shown, mark) in self.marks.take(bytes) {
            self.end += shown.len() as u64;
            self.ring.extend(shown);
            match mark {
                Some(Mark::PromptEnd) => self.prompt_at = Some(self.end),
                Some(Mark::Executed) => self.prompt_at = None,
                None => {}
            }
        }
        if self.end - self.terminal.fed() > LAG_BYTES as u64 {
            self.catch_up();
        }
        let excess = self.ring.len().saturating_sub(SHELL_BYTES);
        self.ring.drain(..excess);
    }

    /// Notes that it has ended.
    pub(super) fn stop(&mut self, record: ShellRecord) {
        self.record = record;
    }

    /// Notes a new size.
    pub(super) fn resize(&mut self, record: ShellRecord) {
        self.catch_up();
        self.terminal.resize(record.cols, record.rows);
        self.record = record;
    }

    /// Notes that a command, or what ends one, has been typed: a prompt before that is none any more.
    pub(super) fn typed(&mut self, bytes: &[u8]) {
        if bytes.iter().any(|byte| matches!(byte, b'\n' | b'\r' | 0x03 | 0x04 | 0x1a)) {
            self.typed_at = self.end;
        }
    }

    /// Whether the shell waits for a command.
    pub(super) fn is_at_prompt(&self) -> bool {
        self.prompt_at.is_some_and(|at| at > self.typed_at)
    }

    fn start(&self) -> u64 {
        self.end - self.ring.len() as u64
    }

    fn catch_up(&mut self) {
        let behind = usize::try_from(self.end - self.terminal.fed()).unwrap_or(usize::MAX);
        let from = self.ring.len().saturating_sub(behind);
        let bytes: Vec<u8> = self.ring.range(from..).copied().collect();
        self.terminal.feed(&bytes);
    }

    /// What there is beyond `cursor`, at most about `most` bytes.
    pub(super) fn read(&mut self, cursor: u64, most: usize, form: ReadForm) -> Result<Piece, ShellError> {
        if cursor > self.end {
            return Err(ShellError::BeyondEnd { cursor, end: self.end });
        }
        // Also for the bytes: what a plain reader is told later as changed since their end is exact then.
        self.catch_up();
        match form {
            ReadForm::Raw => Ok(self.raw(cursor, most)),
            ReadForm::Plain => {
                let changes = self.terminal.changes(cursor, most);
                Ok(Piece {
                    bytes: changes.text.into_bytes(),
                    next_cursor: changes.next,
                    lost_bytes: changes.lost_bytes,
                    more: changes.more,
                })
            }
        }
    }

    fn raw(&self, cursor: u64, most: usize) -> Piece {
        let from = cursor.max(self.start());
        let skipped = usize::try_from(from - self.start()).unwrap_or(usize::MAX);
        let mut bytes: Vec<u8> = self.ring.range(skipped..).take(most).copied().collect();
        // A character is not cut where more of it is there or may come.
        let more = from + (bytes.len() as u64) < self.end;
        let partial = terminal::incomplete(&bytes);
        if (more || self.is_running()) && partial < bytes.len() {
            bytes.truncate(bytes.len() - partial);
        }
        let next_cursor = from + bytes.len() as u64;
        Piece { bytes, next_cursor, lost_bytes: from - cursor, more }
    }

    /// The screen as it is.
    pub(super) fn screen(&mut self) -> ShellScreen {
        self.catch_up();
        let drawing = self.terminal.drawing(ANSWER_BYTES);
        ShellScreen {
            record: self.record.clone(),
            next_cursor: self.end,
            drawing: hex::encode(drawing.bytes),
            undo: hex::encode(drawing.undo),
        }
    }
}
