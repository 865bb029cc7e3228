//! What a person would see of a terminal's output: an emulator without I/O, fed with a guest's bytes.
//!
//! Lines carry the offset of the output that changed them last, so that a reader is told those that have
//! changed since it looked, as they stand now: progress bars collapse, colours are gone. Lines that scroll off
//! the screen are kept as text, the newest [`HISTORY_BYTES`] of them.
//!
//! The bytes are hostile. What they make the emulator hold is bounded by the screen's size; what they make it
//! do, for each few bytes, by a clamp on what they repeat.

mod repeats;
mod rows;

use repeats::Repeats;
use rows::{Line, Rows};
use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use vt100::capture::{BasicFormattedCaptureState, RowContents, basic_formatted_to_plain};

/// Columns of a terminal. Programs misbehave below; the supervisor holds 32 bytes for each cell.
pub const COLS: RangeInclusive<u64> = 2..=500;
/// Rows of a terminal.
pub const ROWS: RangeInclusive<u64> = 2..=200;
/// Text kept of lines that have scrolled off the screen, and as much again for what is known of each.
pub const HISTORY_BYTES: usize = 1 << 20;
/// Bytes that a change is told by: of what comes at once, each step of this size is looked at by itself.
pub const STEP_BYTES: usize = 4 << 10;

/// A terminal, as far as it has been fed.
pub struct Terminal {
    parser: vt100::Parser<Watch>,
    repeats: Repeats,
    /// The beginning of a character, of which more is to come.
    partial: Vec<u8>,
    /// Offset of the output's first byte that it has not been fed.
    fed: u64,
    primary: Rows,
    /// The alternate screen, which full-screen programs use; while it is shown the primary one stands still.
    alternate: Rows,
    history: VecDeque<Line>,
    history_bytes: usize,
    /// The last offset that a forgotten line was changed at.
    forgotten: u64,
}

/// What the emulator tells while it is fed.
#[derive(Default)]
struct Watch {
    /// Rows that have scrolled off the primary screen, and whether each goes on in the next.
    scrolled: Vec<(String, bool)>,
}

impl vt100::Callbacks for Watch {
    fn on_scroll(&mut self, row: RowContents<'_>, is_alternate: bool) {
        if !is_alternate {
            self.scrolled.push(text_of(&row));
        }
    }
}

/// A row's text, and whether it goes on in the next row.
fn text_of(row: &RowContents<'_>) -> (String, bool) {
    let mut state = BasicFormattedCaptureState::new();
    let (mut text, mut again) = (String::new(), String::new());
    // Writing to a string cannot fail. What separates a row from the next tells whether it goes on there.
    let _ = row.write_formatted_basic(&mut text, &mut state);
    let _ = row.write_formatted_basic(&mut again, &mut state);
    (basic_formatted_to_plain(&text).collect(), !again.starts_with('\n'))
}

/// Lines that have changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The lines, without blanks at their ends, each but the last with an end of line.
    pub text: String,
    /// Everything up to this offset is told.
    pub next: u64,
    /// Bytes of output whose lines are kept no more, about.
    pub lost_bytes: u64,
    /// Whether more lines have changed than were asked for.
    pub more: bool,
}

/// A screen as bytes that draw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drawing {
    /// What to write to a terminal of the same size.
    pub bytes: Vec<u8>,
    /// What brings that terminal back to its ordinary state.
    pub undo: Vec<u8>,
}

fn size(cols: u16, rows: u16) -> (NonZeroU16, NonZeroU16) {
    let clamped = |value: u16, range: &RangeInclusive<u64>| {
        let value = u64::from(value).clamp(*range.start(), *range.end());
        u16::try_from(value).ok().and_then(NonZeroU16::new).expect("the ranges lie within 1 and 65535")
    };
    (clamped(rows, &ROWS), clamped(cols, &COLS))
}

impl Terminal {
    /// An empty one; a size beyond [`COLS`] and [`ROWS`] is brought within.
    pub fn new(cols: u16, rows: u16) -> Self {
        let (rows, cols) = size(cols, rows);
        Self {
            parser: vt100::Parser::new_with_callbacks(rows, cols, 0, Watch::default()),
            repeats: Repeats::default(),
            partial: Vec::new(),
            fed: 0,
            primary: Rows::blank(rows.get().into()),
            alternate: Rows::blank(rows.get().into()),
            history: VecDeque::new(),
            history_bytes: 0,
            forgotten: 0,
        }
    }

    /// Offset of the first byte that it has not been fed.
    pub fn fed(&self) -> u64 {
        self.fed
    }

    /// Takes the next bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        for step in bytes.chunks(STEP_BYTES) {
            self.fed += step.len() as u64;
            self.partial.extend(self.repeats.clamp(step));
            // The emulator's parser does not put characters together reliably that come in two pieces.
            let rest = self.partial.split_off(self.partial.len() - incomplete(&self.partial));
            let whole = std::mem::replace(&mut self.partial, rest);
            self.guarded(|parser| parser.process(&whole));
            self.scroll(self.fed);
            self.notice(self.fed);
        }
    }

    /// Changes the size. What is on the screen stays as far as it fits; no line counts as changed by it.
    pub fn resize(&mut self, cols: u16, rows: u16) {
        let (rows, cols) = size(cols, rows);
        let before = self.parser.screen().cursor_position().0;
        self.guarded(|parser| parser.set_size(rows, cols));
        let after = self.parser.screen().cursor_position().0;
        self.scroll(0);
        // Rows that come in above are blank.
        self.primary.pull(usize::from(after.saturating_sub(before)));
        self.primary.set_len(rows.get().into());
        self.alternate.set_len(rows.get().into());
        self.notice(0);
    }

    /// Runs the emulator. Should hostile bytes ever make it panic, it begins anew: a shell's screen is worth
    /// less than its machine.
    fn guarded(&mut self, work: impl FnOnce(&mut vt100::Parser<Watch>)) {
        let (rows, cols) = self.parser.screen().size();
        if catch_unwind(AssertUnwindSafe(|| work(&mut self.parser))).is_err() {
            self.parser = vt100::Parser::new_with_callbacks(rows, cols, 0, Watch::default());
        }
    }

    /// Keeps what has scrolled away up to the offset `at`; 0 is no change.
    fn scroll(&mut self, at: u64) {
        for (text, goes_on) in std::mem::take(&mut self.parser.callbacks_mut().scrolled) {
            let line = self.primary.scroll(text, goes_on, at);
            self.keep(line);
        }
    }

    /// Takes note of what has changed up to the offset `at`; 0 is no change.
    fn notice(&mut self, at: u64) {
        let screen = self.parser.screen();
        let shown = if screen.alternate_screen() { &mut self.alternate } else { &mut self.primary };
        let cols = screen.size().1.get();
        for (number, text) in (0..).zip(screen.rows(0, cols)) {
            shown.set(usize::from(number), text, screen.row_wrapped(number), at);
        }
    }

    fn keep(&mut self, line: Line) {
        self.history_bytes += line.size();
        self.history.push_back(line);
        while self.history_bytes > HISTORY_BYTES {
            let Some(oldest) = self.history.pop_front() else { break };
            self.history_bytes -= oldest.size();
            self.forgotten = self.forgotten.max(oldest.changed_at);
        }
    }

    /// The lines that have changed since the offset `since`, oldest first, in about `most` bytes. A program
    /// that has the whole screen is told with its whole screen.
    pub fn changes(&self, since: u64, most: usize) -> Changes {
        let lost_bytes = self.forgotten.saturating_sub(since);
        let is_alternate = self.parser.screen().alternate_screen();
        let lines: Vec<&Line> = self.history.iter().chain(self.primary.iter()).collect();
        let mut groups: Vec<(u64, String)> = Vec::new();
        for group in lines.chunk_by(|line, _| line.goes_on) {
            let changed_at = group.iter().map(|line| line.changed_at).max().unwrap_or(0);
            if changed_at > since {
                groups.push((changed_at, joined(group)));
            }
        }
        let screen_at = self.alternate.iter().map(|line| line.changed_at).max().unwrap_or(0);
        if is_alternate && screen_at > since {
            let rows: Vec<&Line> = self.alternate.iter().collect();
            let text: Vec<String> = rows.chunks(1).map(joined).collect();
            groups.push((screen_at, text.join("\n").trim_end().to_owned()));
        }
        let next = step_within(&groups, most);
        let more = next.is_some();
        let next = next.unwrap_or(self.fed).max(since.min(self.fed));
        let told = groups.iter().filter(|(at, _)| !more || *at <= next).map(|(_, text)| text.as_str());
        let mut text = told.collect::<Vec<_>>().join("\n");
        text.truncate(text.trim_end_matches('\n').len());
        let is_cut = text.len() > most;
        text.truncate(text.floor_char_boundary(most));
        Changes { text, next, lost_bytes: lost_bytes.max(u64::from(is_cut)), more }
    }

    /// What draws the screen, in `most` bytes where that can be.
    pub fn drawing(&self, most: usize) -> Drawing {
        let screen = self.parser.screen();
        let is_alternate = screen.alternate_screen();
        let switch = if is_alternate { "\x1b[?1049h" } else { "" };
        let mut bytes = format!("{switch}{}", screen.state_formatted());
        if bytes.len() > most {
            // Without colours, and its last lines where even that is too much.
            let text = screen.contents();
            let lines: Vec<&str> = text.lines().collect();
            let mut first = lines.len();
            let mut size = 0;
            while first > 0 && size + lines[first - 1].len() + 2 <= most / 2 {
                first -= 1;
                size += lines[first].len() + 2;
            }
            bytes = format!("{switch}\x1b[H\x1b[2J{}", lines[first..].join("\r\n"));
        }
        let leave = if is_alternate { "\x1b[?1049l" } else { "" };
        // Mouse reports, bracketed paste, keypad and cursor modes, colours.
        let undo = format!(
            "\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l\x1b[?1l\x1b>{leave}\x1b[?25h\x1b[m"
        );
        Drawing { bytes: bytes.into_bytes(), undo: undo.into_bytes() }
    }

    /// The screen's rows as text.
    pub fn screen(&self) -> Vec<String> {
        let screen = self.parser.screen();
        screen.rows(0, screen.size().1.get()).map(|row| row.trim_end().to_owned()).collect()
    }
}

/// The last offset up to which the groups' texts fit in `most` bytes; `None` when all of them do. At least the
/// groups of one offset are taken.
fn step_within(groups: &[(u64, String)], most: usize) -> Option<u64> {
    let size = |(_, text): &(u64, String)| text.len() + 1;
    if groups.iter().map(size).sum::<usize>() <= most {
        return None;
    }
    let mut by_offset: Vec<(u64, usize)> = groups.iter().map(|group| (group.0, size(group))).collect();
    by_offset.sort_unstable();
    let (last, mut total, mut taken) = (by_offset.last()?.0, 0, by_offset.first()?.0);
    for same in by_offset.chunk_by(|one, other| one.0 == other.0) {
        total += same.iter().map(|one| one.1).sum::<usize>();
        if total > most && same[0].0 != taken {
            break;
        }
        taken = same[0].0;
    }
    (taken < last).then_some(taken)
}

/// How many bytes at the end are the beginning of a character that is not complete.
pub(crate) fn incomplete(bytes: &[u8]) -> usize {
    let tail = bytes.len().min(3);
    for back in 1..=tail {
        let wanted = match bytes[bytes.len() - back] {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80..=0xbf => continue,
            _ => return 0,
        };
        return if wanted > back { back } else { 0 };
    }
    0
}

/// Rows that make one line.
fn joined(rows: &[&Line]) -> String {
    let mut text: String = rows.iter().map(|line| line.text.as_str()).collect();
    text.truncate(text.trim_end().len());
    text
}

/// Feeds hostile bytes, cut into pieces as the first ones say. For the fuzzer.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    let Some((control, bytes)) = bytes.split_at_checked(4) else { return };
    let mut terminal = Terminal::new((control[0] % 64).into(), (control[1] % 32).into());
    let mut since = 0;
    for piece in bytes.chunks(usize::from(control[2]).max(1)) {
        terminal.feed(piece);
        let changes = terminal.changes(since, usize::from(control[3]) * 8);
        assert!(changes.text.len() <= usize::from(control[3]) * 8 && changes.next <= terminal.fed());
        assert!(!changes.text.contains(|c: char| c.is_control() && c != '\n'), "{:?}", changes.text);
        since = changes.next;
        if piece[0] == 0xff {
            terminal.resize((piece.len() % 64) as u16, u16::from(piece[piece.len() / 2] % 32));
        }
        let _ = terminal.drawing(64 << 10);
    }
}

#[cfg(test)]
mod tests;
