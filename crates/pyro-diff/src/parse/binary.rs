//! `GIT binary patch` parts.

use super::cursor::{Cursor, bare};
use super::{ParseError, excerpt};
use crate::binary::{delta_result_size, inflate, parse_line};
use crate::limits::MAX_INFLATED_BYTES;
use crate::patch::Binary;

/// The forward part; the way back, if it is there, is passed over.
pub(super) fn parse_binary(cursor: &mut Cursor<'_>, inflated: &mut usize) -> Result<Binary, ParseError> {
    cursor.next();
    let forward = parse_part(cursor, inflated)?;
    if cursor.peek().is_some_and(|line| line.starts_with(b"literal ") || line.starts_with(b"delta ")) {
        cursor.next();
        while cursor.next_if(|line| !bare(line).is_empty()).is_some() {}
    }
    Ok(forward)
}

fn parse_part(cursor: &mut Cursor<'_>, inflated: &mut usize) -> Result<Binary, ParseError> {
    let number = cursor.line();
    let first = cursor.next().unwrap_or_default();
    let text = bare(first);
    let invalid = |line, text: &[u8]| ParseError::Binary { line, text: excerpt(text) };
    let (literal, digits) = match (text.strip_prefix(b"literal "), text.strip_prefix(b"delta ")) {
        (Some(digits), _) => (true, digits),
        (_, Some(digits)) => (false, digits),
        _ => return Err(invalid(number, first)),
    };
    let size: usize = std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| invalid(number, first))?;
    take_allowance(inflated, size, number)?;
    let mut deflated = Vec::new();
    loop {
        let number = cursor.line();
        let line = cursor.next().unwrap_or_default();
        if bare(line).is_empty() {
            break;
        }
        parse_line(bare(line), &mut deflated).ok_or_else(|| invalid(number, line))?;
    }
    let content = inflate(&deflated, size).ok_or_else(|| invalid(number, first))?;
    if literal {
        return Ok(Binary::Literal(content));
    }
    let result = delta_result_size(&content).ok_or_else(|| invalid(number, first))?;
    take_allowance(inflated, result, number)?;
    Ok(Binary::Delta(content))
}

fn take_allowance(inflated: &mut usize, size: usize, line: usize) -> Result<(), ParseError> {
    *inflated = inflated.saturating_add(size);
    if *inflated > MAX_INFLATED_BYTES {
        let text = format!("more than {MAX_INFLATED_BYTES} bytes of content");
        return Err(ParseError::Binary { line, text });
    }
    Ok(())
}
