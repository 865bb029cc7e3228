//! PAX records: `LENGTH KEY=VALUE\n`.

/// One record's key and value.
pub(super) type Record<'a> = (&'a [u8], &'a [u8]);

/// Splits a block of records. The length counts itself, the space and the newline.
pub(super) fn records(mut block: &[u8]) -> Result<Vec<Record<'_>>, String> {
    let mut out = Vec::new();
    while !block.is_empty() {
        // Some writers pad the block with NULs.
        if block.iter().all(|&b| b == 0) {
            break;
        }
        let space = block.iter().take(21).position(|&b| b == b' ').ok_or("a record has no length")?;
        let len = decimal(&block[..space]).ok_or("a record's length is not a number")?;
        let len = usize::try_from(len).map_err(|_| "a record's length is out of range")?;
        if len <= space + 1 || len > block.len() {
            return Err(format!("a record claims {len} bytes where {} remain", block.len()));
        }
        let record = &block[space + 1..len];
        let Some((b'\n', body)) = record.split_last() else {
            return Err("a record does not end with a newline".into());
        };
        let equals = body.iter().position(|&b| b == b'=').ok_or("a record has no `=`")?;
        out.push((&body[..equals], &body[equals + 1..]));
        block = &block[len..];
    }
    Ok(out)
}

/// One record as bytes. The length field is part of the length it states.
pub(super) fn emit_record(out: &mut Vec<u8>, key: &str, value: &str) {
    let body = key.len() + value.len() + 3;
    let mut len = body + digits(body);
    if body + digits(len) != len {
        len = body + digits(len);
    }
    out.extend_from_slice(format!("{len} {key}={value}\n").as_bytes());
}

fn digits(n: usize) -> usize {
    n.to_string().len()
}

/// An unsigned decimal number, digits only.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds with an optional fraction: `-12.5` is 13 seconds before the epoch and half a second on.
pub(super) fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |&b| b == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let nanos = match parts.next() {
        None | Some(b"") => 0,
        Some(fraction) if fraction.iter().all(u8::is_ascii_digit) => {
            (0..9).fold(0_u32, |n, i| n * 10 + fraction.get(i).map_or(0, |b| u32::from(b - b'0')))
        }
        Some(_) => return None,
    };
    Some(match (negative, nanos) {
        (false, _) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}
