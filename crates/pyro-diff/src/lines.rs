//! The difference of two texts, by lines.

mod script;

use std::ops::Range;

use imara_diff::{InternedInput, TokenSource};

use script::Edit;

const CONTEXT: usize = 3;

/// Lines with their ends; the last may have none.
pub(crate) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|byte| *byte == b'\n')
}

/// How many lines `text` has.
pub(crate) fn count(text: &[u8]) -> usize {
    let ends = text.iter().filter(|byte| **byte == b'\n').count();
    ends + usize::from(text.last().is_some_and(|byte| *byte != b'\n'))
}

/// Lines, counted exactly: the library's own guess lets one odd file ask for gigabytes.
#[derive(Clone, Copy)]
struct Counted<'a>(&'a [u8]);

impl<'a> TokenSource for Counted<'a> {
    type Token = &'a [u8];
    type Tokenizer = std::slice::SplitInclusive<'a, u8, fn(&u8) -> bool>;

    fn tokenize(&self) -> Self::Tokenizer {
        self.0.split_inclusive(|byte| *byte == b'\n')
    }

    fn estimate_tokens(&self) -> u32 {
        u32::try_from(count(self.0)).unwrap_or(u32::MAX)
    }
}

/// Appends the hunks that lead from `old` to `new`, with three lines of context; false if they are equal.
pub(crate) fn put_hunks(old: &[u8], new: &[u8], out: &mut Vec<u8>) -> bool {
    let input = InternedInput::new(Counted(old), Counted(new));
    put_edits(&input, &script::edits(&input), out)
}

fn put_edits(input: &InternedInput<&[u8]>, edits: &[Edit], out: &mut Vec<u8>) -> bool {
    let near = |one: &Edit, next: &Edit| next.before.start - one.before.end <= 2 * CONTEXT;
    for group in edits.chunk_by(near) {
        put_group(input, group, out);
    }
    !edits.is_empty()
}

fn put_group(input: &InternedInput<&[u8]>, group: &[Edit], out: &mut Vec<u8>) {
    let (Some(first), Some(last)) = (group.first(), group.last()) else { return };
    let lead = first.before.start.min(CONTEXT);
    let trail = (input.before.len() - last.before.end).min(CONTEXT);
    let old = first.before.start - lead..last.before.end + trail;
    let new = first.after.start - lead..last.after.end + trail;
    out.extend_from_slice(format!("@@ -{} +{} @@\n", span(&old), span(&new)).as_bytes());
    let mut at = old.start;
    for edit in group {
        put_lines(input, b' ', &input.before[at..edit.before.start], out);
        put_lines(input, b'-', &input.before[edit.before.clone()], out);
        put_lines(input, b'+', &input.after[edit.after.clone()], out);
        at = edit.before.end;
    }
    put_lines(input, b' ', &input.before[at..old.end], out);
}

fn put_lines(input: &InternedInput<&[u8]>, mark: u8, tokens: &[imara_diff::Token], out: &mut Vec<u8>) {
    for token in tokens {
        let line = input.interner[*token];
        out.push(mark);
        out.extend_from_slice(line);
        if line.last() != Some(&b'\n') {
            out.extend_from_slice(b"\n\\ No newline at end of file\n");
        }
    }
}

/// A range of lines as a hunk's header tells it: from 1, and the line before where there is none.
fn span(lines: &Range<usize>) -> String {
    match lines.len() {
        0 => format!("{},0", lines.start),
        1 => (lines.start + 1).to_string(),
        count => format!("{},{count}", lines.start + 1),
    }
}

fn to_usize(value: u32) -> usize {
    usize::try_from(value).expect("a usize has 32 bits at least")
}

#[cfg(test)]
mod tests;
