//! The rows of a screen, and when each of them changed.

use std::collections::VecDeque;

/// A row's text, or that of a line's part that has scrolled away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    /// Whether its line goes on in the next row.
    pub(super) goes_on: bool,
    /// The output's offset just after what changed it last; 0 for a row that nothing was written to.
    pub(super) changed_at: u64,
}

impl Line {
    /// What keeping it takes.
    pub(super) fn size(&self) -> usize {
        self.text.len() + size_of::<Self>()
    }
}

#[derive(Clone, Debug)]
pub(super) struct Rows {
    rows: VecDeque<Line>,
    len: usize,
}

impl Rows {
    pub(super) fn blank(len: usize) -> Self {
        Self { rows: vec![Line::default(); len].into(), len }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Line> {
        self.rows.iter()
    }

    /// The first row scrolls away, with this text by now.
    pub(super) fn scroll(&mut self, text: String, goes_on: bool, at: u64) -> Line {
        let mut first = self.rows.pop_front().unwrap_or(Line { changed_at: at, ..Line::default() });
        replace(&mut first, text, goes_on, at);
        first
    }

    /// Blank rows come in above.
    pub(super) fn pull(&mut self, count: usize) {
        for _ in 0..count {
            self.rows.push_front(Line::default());
        }
    }

    pub(super) fn set_len(&mut self, len: usize) {
        self.len = len;
        self.rows.resize(len, Line::default());
    }

    /// What row `number` holds by now. Rows that came in below since are new whatever they hold.
    pub(super) fn set(&mut self, number: usize, text: String, goes_on: bool, at: u64) {
        if number >= self.len {
            return;
        }
        match self.rows.get_mut(number) {
            Some(row) => replace(row, text, goes_on, at),
            None => {
                let is_blank = text.trim_end().is_empty();
                let changed_at = if is_blank { 0 } else { at };
                self.rows.push_back(Line { text, goes_on, changed_at });
            }
        }
    }
}

fn replace(row: &mut Line, text: String, goes_on: bool, at: u64) {
    // Blanks that are written and blanks that never were look the same.
    if row.text.trim_end() != text.trim_end() {
        row.changed_at = row.changed_at.max(at);
    }
    (row.text, row.goes_on) = (text, goes_on);
}
