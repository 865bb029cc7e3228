//! The caller's terminal: its size, and raw mode for as long as a guard lives.

use rustix::termios::{self, OptionalActions, Termios};
use std::io;

/// Columns and rows of standard input's terminal.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(io::stdin()).ok()?;
    // A terminal that does not know its size says 0; programs misbehave on that.
    let or = |value: u16, fallback| if value == 0 { fallback } else { value };
    Some((or(size.ws_col, 80), or(size.ws_row, 24)))
}

/// Keys go to the guest as they are until this is dropped.
pub(crate) struct RawMode(Termios);

impl RawMode {
    pub(crate) fn enter() -> io::Result<Self> {
        let before = termios::tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing better can be done when the terminal is gone.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
