//! Takes secrets out of a byte stream that comes in pieces of any size.
//!
//! Every occurrence of a value becomes [`REDACTED`]; occurrences that overlap become one, so that no part
//! of any of them is left over. How the stream is cut makes no difference to the result.

use std::sync::Arc;

#[cfg(test)]
mod tests;

/// What stands in a secret's place.
pub const REDACTED: &[u8] = b"[REDACTED]";

/// The values to look for, prepared once.
#[derive(Clone, Default)]
pub struct Needles {
    /// Longest first, none empty.
    needles: Vec<Needle>,
    /// Bytes that a value starts with.
    starts: Vec<bool>,
}

#[derive(Clone)]
struct Needle {
    value: Vec<u8>,
    /// For each prefix of the value: the longest proper prefix of it that it ends with.
    borders: Vec<u32>,
}

impl Needle {
    fn new(value: Vec<u8>) -> Self {
        let mut borders = vec![0u32; value.len()];
        let mut matched = 0usize;
        for at in 1..value.len() {
            while matched > 0 && value[at] != value[matched] {
                matched = borders[matched - 1] as usize;
            }
            if value[at] == value[matched] {
                matched += 1;
            }
            borders[at] = u32::try_from(matched).expect("secrets are shorter than 4 GiB");
        }
        Self { value, borders }
    }

    /// The longest prefix that the stream ends with after `byte`, when it was `matched`, not all, before.
    fn step(&self, mut matched: usize, byte: u8) -> usize {
        while matched > 0 && self.value[matched] != byte {
            matched = self.borders[matched - 1] as usize;
        }
        if self.value[matched] == byte { matched + 1 } else { matched }
    }
}

impl Needles {
    /// Looks for these values; empty ones are left out.
    pub fn new(values: impl IntoIterator<Item = Vec<u8>>) -> Self {
        let mut values: Vec<Vec<u8>> = values.into_iter().filter(|value| !value.is_empty()).collect();
        values.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        values.dedup();
        let mut starts = vec![false; 256];
        for value in &values {
            starts[usize::from(value[0])] = true;
        }
        Self { needles: values.into_iter().map(Needle::new).collect(), starts }
    }

    /// Looks for secrets. A file's last line end is part of its value, and programs mostly print the rest.
    pub fn of_secrets<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let both = |value: &'a [u8]| [value, value.trim_ascii_end()];
        Self::new(values.into_iter().flat_map(both).map(<[u8]>::to_vec))
    }

    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.needles.is_empty()
    }
}

/// Their number alone.
impl std::fmt::Debug for Needles {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Needles({})", self.needles.len())
    }
}

/// A stretch of held bytes that is not to be seen.
#[derive(Clone, Copy, Debug)]
struct Run {
    start: usize,
    end: usize,
    /// Whether its mark has been written: its first part was passed on already.
    told: bool,
}

/// Bytes of a secret's beginning that [`Redactor::let_go`] shows: what a person types and sees echoed letter
/// by letter must not wait for the next one, and so much of a secret tells nothing.
pub const SHOWN_BYTES: usize = 3;

/// One stream being redacted. Holds back at most one byte less than the longest value.
pub struct Redactor {
    needles: Arc<Needles>,
    /// Per needle, how much of it the stream ends with.
    matched: Vec<usize>,
    /// The most of those. More than is held where some was let go.
    open: usize,
    held: Vec<u8>,
    /// Disjoint, in order, all in `held`.
    runs: Vec<Run>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Redactor").field("held_bytes", &self.held.len()).finish_non_exhaustive()
    }
}

impl Redactor {
    /// A stream from its start.
    pub fn new(needles: Arc<Needles>) -> Self {
        let matched = vec![0; needles.needles.len()];
        Self { needles, matched, open: 0, held: Vec::new(), runs: Vec::new() }
    }

    /// Takes the next bytes and appends to `out` what is certain.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if self.needles.is_empty() {
            out.extend_from_slice(bytes);
            return;
        }
        let mut rest = bytes;
        loop {
            // Most bytes are in no value at all.
            if self.held.is_empty() && self.open == 0 {
                let starts = &self.needles.starts;
                let clear = rest.iter().position(|byte| starts[usize::from(*byte)]).unwrap_or(rest.len());
                out.extend_from_slice(&rest[..clear]);
                rest = &rest[clear..];
            }
            let Some((byte, after)) = rest.split_first() else { break };
            rest = after;
            self.take(*byte);
            if self.open == 0 {
                self.release(self.held.len(), out);
            }
        }
        self.release(self.held.len().saturating_sub(self.open), out);
    }

    /// Whether [`Redactor::let_go`] has something to show.
    pub fn can_let_go(&self) -> bool {
        !self.held.is_empty() && self.open <= SHOWN_BYTES
    }

    /// Shows what may be the beginning of a value and is at most [`SHOWN_BYTES`] long; the rest of that value
    /// is hidden all the same, should it come.
    pub fn let_go(&mut self, out: &mut Vec<u8>) {
        if self.can_let_go() {
            self.release(self.held.len(), out);
        }
    }

    /// Appends what was held back; the next byte starts a new stream.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.release(self.held.len(), out);
        self.matched.fill(0);
        self.open = 0;
    }

    /// Takes one byte and tells in `open` how many of the last ones may still become part of an occurrence.
    fn take(&mut self, byte: u8) {
        self.held.push(byte);
        let end = self.held.len();
        let mut open = 0;
        for (needle, matched) in self.needles.needles.iter().zip(&mut self.matched) {
            *matched = needle.step(*matched, byte);
            if *matched == needle.value.len() {
                // Of one whose beginning was let go, the rest.
                hide(&mut self.runs, end.saturating_sub(*matched), end);
                // What may overlap with this occurrence is what the value ends with.
                *matched = needle.borders[*matched - 1] as usize;
            }
            open = open.max(*matched);
        }
        self.open = open;
    }

    /// Passes on the first `count` held bytes.
    fn release(&mut self, count: usize, out: &mut Vec<u8>) {
        let mut at = 0;
        let mut kept = Vec::new();
        for run in self.runs.drain(..) {
            if run.start < count {
                out.extend_from_slice(&self.held[at..run.start]);
                if !run.told {
                    out.extend_from_slice(REDACTED);
                }
                at = run.end.min(count);
            }
            if run.end > count {
                let start = run.start.saturating_sub(count);
                kept.push(Run { start, end: run.end - count, told: run.told || run.start < count });
            }
        }
        self.runs = kept;
        out.extend_from_slice(&self.held[at..count]);
        self.held.drain(..count);
    }
}

/// Adds an occurrence, joined with those that it overlaps.
fn hide(runs: &mut Vec<Run>, start: usize, end: usize) {
    let mut new = Run { start, end, told: false };
    while let Some(last) = runs.pop_if(|last| last.end > new.start) {
        new =
            Run { start: new.start.min(last.start), end: new.end.max(last.end), told: new.told || last.told };
    }
    runs.push(new);
}

/// A whole text at once.
pub fn redact(needles: &Arc<Needles>, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut redactor = Redactor::new(Arc::clone(needles));
    redactor.push(bytes, &mut out);
    redactor.finish(&mut out);
    out
}
