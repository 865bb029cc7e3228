//! Hunks: counted runs of lines.

use super::cursor::Cursor;
use super::{ParseError, excerpt};
use crate::patch::Hunk;

/// Every hunk that follows here.
pub(super) fn parse_hunks(cursor: &mut Cursor<'_>) -> Result<Vec<Hunk>, ParseError> {
    let mut hunks = Vec::new();
    let mut ended = Ended::default();
    while let Some(line) = cursor.peek().filter(|line| line.starts_with(b"@@ -")) {
        let number = cursor.line();
        if ended.old || ended.new {
            return Err(ParseError::HunkHeader { line: number, text: excerpt(line) });
        }
        cursor.next();
        let mut hunk =
            parse_header(line).ok_or_else(|| ParseError::HunkHeader { line: number, text: excerpt(line) })?;
        parse_lines(cursor, &mut hunk, &mut ended)?;
        hunks.push(hunk);
    }
    if !hunks.is_empty() && cursor.peek().is_some_and(continues) {
        let text = excerpt(cursor.peek().unwrap_or_default());
        return Err(ParseError::HunkCounts { line: cursor.line(), text });
    }
    Ok(hunks)
}

/// Which sides have come to a last line without an end.
#[derive(Default)]
struct Ended {
    old: bool,
    new: bool,
}

/// Whether a line after a full hunk looks like more of it. A mail's signature and the next file do not.
fn continues(line: &[u8]) -> bool {
    let signature = line.trim_ascii_end() == b"--" || line.starts_with(b"--- ");
    matches!(line.first(), Some(b' ' | b'+' | b'-')) && !signature
}

/// `@@ -START[,COUNT] +START[,COUNT] @@`, and anything after.
fn parse_header(line: &[u8]) -> Option<Hunk> {
    let rest = line.strip_prefix(b"@@ -")?;
    let (old_start, old_count, rest) = parse_span(rest)?;
    let (new_start, new_count, rest) = parse_span(rest.strip_prefix(b" +")?)?;
    rest.strip_prefix(b" @@")?;
    let possible = |start: usize, count: usize| start > 0 || count == 0;
    let sane = possible(old_start, old_count) && possible(new_start, new_count) && old_count + new_count > 0;
    sane.then(|| Hunk { old_start, old_count, new_start, new_count, body: Vec::new() })
}

fn parse_span(text: &[u8]) -> Option<(usize, usize, &[u8])> {
    let (start, rest) = parse_number(text)?;
    match rest.strip_prefix(b",") {
        Some(rest) => {
            let (count, rest) = parse_number(rest)?;
            Some((start, count, rest))
        }
        None => Some((start, 1, rest)),
    }
}

fn parse_number(text: &[u8]) -> Option<(usize, &[u8])> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if !(1..=9).contains(&digits) {
        return None;
    }
    let number = text[..digits].iter().fold(0, |number, digit| number * 10 + usize::from(digit - b'0'));
    Some((number, &text[digits..]))
}

fn parse_lines(cursor: &mut Cursor<'_>, hunk: &mut Hunk, ended: &mut Ended) -> Result<(), ParseError> {
    let (mut old, mut new) = (0, 0);
    while old < hunk.old_count || new < hunk.new_count {
        let number = cursor.line();
        let line = cursor.next().unwrap_or_default();
        let (in_old, in_new) = match line.first() {
            Some(b' ' | b'\n') => (true, true),
            Some(b'\r') if line == b"\r\n" => (true, true),
            Some(b'-') => (true, false),
            Some(b'+') => (false, true),
            _ => return Err(ParseError::HunkCounts { line: number, text: excerpt(line) }),
        };
        old += usize::from(in_old);
        new += usize::from(in_new);
        if old > hunk.old_count || new > hunk.new_count {
            return Err(ParseError::HunkCounts { line: number, text: excerpt(line) });
        }
        if (in_old && ended.old) || (in_new && ended.new) {
            return Err(ParseError::HunkLine { line: number, text: excerpt(line) });
        }
        // An empty line of context has often lost its blank on the way.
        if matches!(line.first(), Some(b'\n' | b'\r')) {
            hunk.body.push(b' ');
        }
        hunk.body.extend_from_slice(line);
        if !line.ends_with(b"\n") {
            hunk.body.push(b'\n');
        }
        if cursor.next_if(|next| next.starts_with(b"\\ ")).is_some() {
            hunk.body.extend_from_slice(b"\\\n");
            ended.old |= in_old;
            ended.new |= in_new;
        }
    }
    Ok(())
}
