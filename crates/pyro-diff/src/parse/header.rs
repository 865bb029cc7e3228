//! What stands between `diff --git` and the first hunk.

use super::cursor::{Cursor, bare};
use super::{ParseError, binary, checked, excerpt, hunk};
use crate::name::{shown, unquote};
use crate::patch::{Body, FilePatch, Operation};

/// What the extended header lines told.
#[derive(Default)]
struct Extended {
    added: bool,
    deleted: bool,
    old_mode: Option<u32>,
    new_mode: Option<u32>,
    rename: (Option<Vec<u8>>, Option<Vec<u8>>),
    copy: (Option<Vec<u8>>, Option<Vec<u8>>),
    ids: Option<(String, String)>,
}

/// A name after `---` or `+++`.
pub(super) enum Label {
    /// `/dev/null`: no file on this side.
    Nothing,
    Name(Vec<u8>),
}

pub(super) fn parse_git(cursor: &mut Cursor<'_>, inflated: &mut usize) -> Result<FilePatch, ParseError> {
    let line = cursor.line();
    let first = cursor.next().unwrap_or_default();
    let invalid = || ParseError::Header { line, text: excerpt(first) };
    let named = header_path(bare(&first[b"diff --git ".len()..]));
    let mut extended = parse_extended(cursor)?;
    let (labels, body) = parse_body(cursor, inflated)?;
    if let Some((old, new)) = &labels {
        extended.added |= matches!(old, Label::Nothing);
        extended.deleted |= matches!(new, Label::Nothing);
        let contradicted = (extended.added && matches!(old, Label::Name(_)))
            || (extended.deleted && matches!(new, Label::Name(_)));
        if contradicted {
            return Err(invalid());
        }
    }
    let (rename, copy) = (pair(extended.rename), pair(extended.copy));
    let (operation, path) = match (rename, copy, extended.added, extended.deleted) {
        (Some((from, to)), None, false, false) => (Operation::Rename { from: checked(from, line)? }, to),
        (None, Some((from, to)), false, false) => (Operation::Copy { from: checked(from, line)? }, to),
        (None, None, added, deleted) if !(added && deleted) => {
            let operation = match (added, deleted) {
                (true, _) => Operation::Add,
                (_, true) => Operation::Delete,
                _ => Operation::Modify,
            };
            (operation, labelled_path(labels, named).ok_or_else(invalid)?)
        }
        _ => return Err(invalid()),
    };
    let path = checked(path, line)?;
    if let (Some(old), Some(new)) = (extended.old_mode, extended.new_mode)
        && old & 0o170_000 != new & 0o170_000
    {
        let text = format!("{} changes its type in place", shown(&path));
        return Err(ParseError::Unsupported { line, text });
    }
    let idle = operation == Operation::Modify && extended.old_mode == extended.new_mode;
    if body == Body::None && idle {
        return Err(ParseError::NoHunks { line, path: shown(&path) });
    }
    let (old_mode, new_mode) = (extended.old_mode, extended.new_mode);
    Ok(FilePatch { path, operation, old_mode, new_mode, ids: extended.ids, body })
}

fn pair(names: (Option<Vec<u8>>, Option<Vec<u8>>)) -> Option<(Vec<u8>, Vec<u8>)> {
    Some((names.0?, names.1?))
}

fn parse_extended(cursor: &mut Cursor<'_>) -> Result<Extended, ParseError> {
    let mut extended = Extended::default();
    while let Some(whole) = cursor.peek() {
        let line = cursor.line();
        let text = bare(whole);
        let after = |word: &str| text.strip_prefix(word.as_bytes());
        let mode = |digits: &[u8]| parse_mode(digits, line, whole);
        let name =
            |name: &[u8]| parse_name(name).ok_or_else(|| ParseError::Header { line, text: excerpt(whole) });
        if let Some(digits) = after("old mode ") {
            extended.old_mode = Some(mode(digits)?);
        } else if let Some(digits) = after("new mode ") {
            extended.new_mode = Some(mode(digits)?);
        } else if let Some(digits) = after("new file mode ") {
            extended.added = true;
            extended.new_mode = Some(mode(digits)?);
        } else if let Some(digits) = after("deleted file mode ") {
            extended.deleted = true;
            extended.old_mode = Some(mode(digits)?);
        } else if let Some(from) = after("rename from ").or_else(|| after("rename old ")) {
            extended.rename.0 = Some(name(from)?);
        } else if let Some(to) = after("rename to ").or_else(|| after("rename new ")) {
            extended.rename.1 = Some(name(to)?);
        } else if let Some(from) = after("copy from ") {
            extended.copy.0 = Some(name(from)?);
        } else if let Some(to) = after("copy to ") {
            extended.copy.1 = Some(name(to)?);
        } else if let Some(index) = after("index ") {
            take_index(&mut extended, index, line, whole)?;
        } else if after("similarity index ").or_else(|| after("dissimilarity index ")).is_none() {
            break;
        }
        cursor.next();
    }
    Ok(extended)
}

/// `OLD..NEW[ MODE]`: the mode tells the type of what stays what it is.
fn take_index(extended: &mut Extended, index: &[u8], line: usize, whole: &[u8]) -> Result<(), ParseError> {
    let invalid = || ParseError::Header { line, text: excerpt(whole) };
    let text = std::str::from_utf8(index).map_err(|_| invalid())?;
    let (ids, mode) = match text.split_once(' ') {
        Some((ids, mode)) => (ids, Some(mode)),
        None => (text, None),
    };
    let (old, new) = ids.split_once("..").ok_or_else(invalid)?;
    let is_id = |id: &str| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_id(old) || !is_id(new) {
        return Err(invalid());
    }
    if old.len() == 40 && new.len() == 40 {
        extended.ids = Some((old.to_ascii_lowercase(), new.to_ascii_lowercase()));
    }
    if let Some(mode) = mode {
        let mode = parse_mode(mode.as_bytes(), line, whole)?;
        extended.old_mode.get_or_insert(mode);
        extended.new_mode.get_or_insert(mode);
    }
    Ok(())
}

fn parse_mode(digits: &[u8], line: usize, whole: &[u8]) -> Result<u32, ParseError> {
    let digits = digits.trim_ascii();
    let octal = (1..=6).contains(&digits.len()) && digits.iter().all(|digit| (b'0'..=b'7').contains(digit));
    if !octal {
        return Err(ParseError::Header { line, text: excerpt(whole) });
    }
    let mode = digits.iter().fold(0, |mode, digit| mode * 8 + u32::from(digit - b'0'));
    match mode & 0o170_000 {
        0o100_000 if mode & 0o111 != 0 => Ok(0o100_755),
        0o100_000 => Ok(0o100_644),
        0o120_000 => Ok(0o120_000),
        _ => Err(ParseError::Unsupported { line, text: excerpt(whole) }),
    }
}

/// Labels and hunks, or a binary patch, or nothing.
fn parse_body(
    cursor: &mut Cursor<'_>,
    inflated: &mut usize,
) -> Result<(Option<(Label, Label)>, Body), ParseError> {
    let Some(line) = cursor.peek() else { return Ok((None, Body::None)) };
    if line.starts_with(b"--- ") {
        let number = cursor.line();
        let old = parse_label(cursor, b"--- ")?;
        if !cursor.peek().is_some_and(|next| next.starts_with(b"+++ ")) {
            return Err(ParseError::MissingNew { line: number, text: excerpt(line) });
        }
        let new = parse_label(cursor, b"+++ ")?;
        let hunks = hunk::parse_hunks(cursor)?;
        if hunks.is_empty() {
            return Err(ParseError::NoHunks { line: number, path: excerpt(&line[4..]) });
        }
        return Ok((Some((old, new)), Body::Text(hunks)));
    }
    if bare(line) == b"GIT binary patch" {
        return Ok((None, Body::Binary(binary::parse_binary(cursor, inflated)?)));
    }
    if line.starts_with(b"Binary files ") {
        return Err(ParseError::Unsupported { line: cursor.line(), text: excerpt(line) });
    }
    Ok((None, Body::None))
}

fn parse_label(cursor: &mut Cursor<'_>, mark: &[u8]) -> Result<Label, ParseError> {
    let line = cursor.line();
    let whole = cursor.next().unwrap_or_default();
    let text = bare(whole.strip_prefix(mark).unwrap_or_default());
    label(text).map(|(label, _)| label).ok_or_else(|| ParseError::Header { line, text: excerpt(whole) })
}

/// The label in `text`, and what stands after the tab behind it.
pub(super) fn label(text: &[u8]) -> Option<(Label, &[u8])> {
    let (name, rest) = if text.starts_with(b"\"") {
        unquote(text)?
    } else {
        let end = text.iter().position(|byte| *byte == b'\t').unwrap_or(text.len());
        (text[..end].to_vec(), &text[end..])
    };
    let rest = rest.strip_prefix(b"\t").unwrap_or(rest);
    match name.as_slice() {
        b"" => None,
        b"/dev/null" => Some((Label::Nothing, rest)),
        _ => Some((Label::Name(name), rest)),
    }
}

fn parse_name(text: &[u8]) -> Option<Vec<u8>> {
    if text.starts_with(b"\"") {
        return unquote(text).and_then(|(name, rest)| rest.is_empty().then_some(name));
    }
    (!text.is_empty()).then(|| text.to_vec())
}

/// The path that labels and header agree on.
fn labelled_path(labels: Option<(Label, Label)>, named: Option<Vec<u8>>) -> Option<Vec<u8>> {
    let Some((old, new)) = labels else { return named };
    let path = match (old, new) {
        (Label::Name(old), Label::Name(new)) => common_path(&old, &new)?,
        (Label::Name(one), Label::Nothing) | (Label::Nothing, Label::Name(one)) => match &named {
            Some(named) if *named == one || without_prefix(&one) == Some(named) => {
                return Some(named.clone());
            }
            Some(_) => return None,
            None => without_prefix(&one).map(<[u8]>::to_vec).unwrap_or(one),
        },
        (Label::Nothing, Label::Nothing) => return None,
    };
    named.is_none_or(|named| named == path).then_some(path)
}

/// The path in `a/PATH b/PATH` or, without prefixes, `PATH PATH`.
fn header_path(text: &[u8]) -> Option<Vec<u8>> {
    let (old, new) = if text.starts_with(b"\"") {
        let (old, rest) = unquote(text)?;
        (old, parse_name(rest.strip_prefix(b" ")?)?)
    } else if text.ends_with(b"\"") {
        let at = text.windows(2).position(|pair| pair == b" \"")?;
        (text[..at].to_vec(), parse_name(&text[at + 1..])?)
    } else {
        let half = text.len() / 2;
        if text.len().is_multiple_of(2) || text[half] != b' ' {
            return None;
        }
        (text[..half].to_vec(), text[half + 1..].to_vec())
    };
    common_path(&old, &new)
}

/// The path that two names stand for: themselves, if they are equal, else what follows their first parts.
pub(super) fn common_path(old: &[u8], new: &[u8]) -> Option<Vec<u8>> {
    if old == new {
        return Some(new.to_vec());
    }
    let (old, new) = (without_prefix(old)?, without_prefix(new)?);
    (old == new).then(|| new.to_vec())
}

fn without_prefix(name: &[u8]) -> Option<&[u8]> {
    let slash = name.iter().position(|byte| *byte == b'/')?;
    name.get(slash + 1..).filter(|rest| !rest.is_empty())
}
