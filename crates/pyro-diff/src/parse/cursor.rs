//! Lines of a patch, one after the other.

#[derive(Clone)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
    line: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { rest: text, line: 1 }
    }

    /// The number of the line that comes next, from 1.
    pub(super) fn line(&self) -> usize {
        self.line
    }

    /// The next line with its end.
    pub(super) fn peek(&self) -> Option<&'a [u8]> {
        self.rest.split_inclusive(|byte| *byte == b'\n').next()
    }

    /// The line `offset` lines after the next one.
    pub(super) fn peek_at(&self, offset: usize) -> Option<&'a [u8]> {
        self.rest.split_inclusive(|byte| *byte == b'\n').nth(offset)
    }

    pub(super) fn next(&mut self) -> Option<&'a [u8]> {
        let line = self.peek()?;
        self.rest = &self.rest[line.len()..];
        self.line += 1;
        Some(line)
    }

    pub(super) fn next_if(&mut self, wanted: impl FnOnce(&[u8]) -> bool) -> Option<&'a [u8]> {
        let line = self.peek()?;
        if wanted(line) { self.next() } else { None }
    }
}

/// `line` without its end, a carriage return of mail or Windows included.
pub(super) fn bare(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}
