//! Headers of plain `diff -u`: two labels with times.

use super::cursor::{Cursor, bare};
use super::header::{Label, common_path, label};
use super::{ParseError, checked, excerpt, hunk};
use crate::name::shown;
use crate::patch::{Body, FilePatch, Operation};

pub(super) fn parse_traditional(cursor: &mut Cursor<'_>) -> Result<FilePatch, ParseError> {
    let line = cursor.line();
    let first = cursor.next().unwrap_or_default();
    let second = cursor.next().unwrap_or_default();
    let invalid = |text: &[u8]| ParseError::Header { line, text: excerpt(text) };
    let (old, old_time) = label(bare(&first[4..])).ok_or_else(|| invalid(first))?;
    let (new, new_time) = label(bare(&second[4..])).ok_or_else(|| invalid(second))?;
    let hunks = hunk::parse_hunks(cursor)?;
    let added = matches!(old, Label::Nothing)
        || (is_epoch(old_time) && hunks.iter().all(|hunk| hunk.old_count == 0 && hunk.old_start == 0));
    let deleted = matches!(new, Label::Nothing)
        || (is_epoch(new_time) && hunks.iter().all(|hunk| hunk.new_count == 0 && hunk.new_start == 0));
    let path = match (old, new) {
        (Label::Name(old), Label::Name(new)) => two_names(&old, &new).ok_or_else(|| invalid(second))?,
        (Label::Name(one), Label::Nothing) | (Label::Nothing, Label::Name(one)) => {
            without_letter(&one).to_vec()
        }
        (Label::Nothing, Label::Nothing) => return Err(invalid(second)),
    };
    let path = checked(path, line)?;
    if hunks.is_empty() {
        return Err(ParseError::NoHunks { line, path: shown(&path) });
    }
    let operation = match (added, deleted) {
        (true, true) => return Err(invalid(second)),
        (true, false) => Operation::Add,
        (false, true) => Operation::Delete,
        (false, false) => Operation::Modify,
    };
    Ok(FilePatch { path, operation, old_mode: None, new_mode: None, ids: None, body: Body::Text(hunks) })
}

/// The path of `x x`, `a/x b/x`, `old/x new/x`, `x.orig x` or `x x.new`.
fn two_names(old: &[u8], new: &[u8]) -> Option<Vec<u8>> {
    if old == new {
        return Some(without_letter(new).to_vec());
    }
    if let Some(path) = common_path(old, new) {
        return Some(path);
    }
    let (old, new) = (without_letter(old), without_letter(new));
    if old.starts_with(new) {
        return Some(new.to_vec());
    }
    new.starts_with(old).then(|| old.to_vec())
}

fn without_letter(name: &[u8]) -> &[u8] {
    name.strip_prefix(b"a/").or_else(|| name.strip_prefix(b"b/")).unwrap_or(name)
}

/// Whether a time is the start of 1970, in any zone: how `diff -N` tells an absent file.
fn is_epoch(time: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(time) else { return false };
    let mut words = text.split_ascii_whitespace();
    let (Some(date), Some(clock), Some(zone)) = (words.next(), words.next(), words.next()) else {
        return false;
    };
    let (hours_minutes, seconds) = clock.split_at_checked(5).unwrap_or_default();
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<i32>().ok());
    let minutes =
        |text: &str, gap: usize| Some(number(text.get(..2))? * 60 + number(text.get(2 + gap..4 + gap))?);
    let (Some(clock), Some(zone_size)) =
        (minutes(hours_minutes, 1), minutes(zone.get(1..).unwrap_or_default(), 0))
    else {
        return false;
    };
    let whole = seconds.strip_prefix(":00").is_some_and(|rest| {
        rest.is_empty()
            || rest.strip_prefix('.').is_some_and(|digits| digits.bytes().all(|digit| digit == b'0'))
    });
    let offset = if zone.starts_with('-') { -zone_size } else { zone_size };
    let day = match date {
        "1970-01-01" => 0,
        "1969-12-31" => -24 * 60,
        _ => return false,
    };
    whole && day + clock - offset == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_is_known_in_every_zone() {
        for time in [
            "1970-01-01 00:00:00.000000000 +0000",
            "1969-12-31 19:00:00 -0500",
            "1970-01-01 05:30:00.0 +0530",
        ] {
            assert!(is_epoch(time.as_bytes()), "{time}");
        }
        for time in [
            "1970-01-01 00:00:01 +0000",
            "2024-01-01 00:00:00 +0000",
            "",
            "1970-01-01",
            "1970-01-01 é:00:00 +00é",
        ] {
            assert!(!is_epoch(time.as_bytes()), "{time}");
        }
    }
}
