//! Extended header records: `LENGTH KEY=VALUE\n`, one after another.

use super::Time;

/// What the records of one member say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Time>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Name and length of a sparse file in format 1.0.
    pub(super) sparse: Option<(Vec<u8>, u64)>,
}

const XATTR: &[u8] = b"SCHILY.xattr.";

impl Records {
    /// Reads all records, or names the bad one.
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, String> {
        let mut records = Self::default();
        let (mut sparse_name, mut sparse_size, mut sparse_major) = (None, None, None);
        while !bytes.is_empty() {
            let (key, value, rest) = split_record(bytes).ok_or("extended record without a sound length")?;
            bytes = rest;
            let number = || parse_unsigned(value).ok_or_else(|| bad(key));
            match key {
                b"path" => records.path = Some(value.to_vec()),
                b"linkpath" => records.link = Some(value.to_vec()),
                b"size" => records.size = Some(number()?),
                b"uid" => records.uid = Some(number()?),
                b"gid" => records.gid = Some(number()?),
                b"mtime" => records.mtime = Some(parse_time(value).ok_or_else(|| bad(key))?),
                b"GNU.sparse.name" => sparse_name = Some(value.to_vec()),
                b"GNU.sparse.realsize" => sparse_size = Some(number()?),
                b"GNU.sparse.major" => sparse_major = Some(number()?),
                b"GNU.sparse.map" | b"GNU.sparse.numblocks" | b"GNU.sparse.size" => {
                    return Err("sparse formats 0.0 and 0.1 are not supported".to_owned());
                }
                _ => {
                    if let Some(name) = key.strip_prefix(XATTR) {
                        records.xattrs.push((unescape(name), value.to_vec()));
                    }
                }
            }
        }
        records.sparse = match (sparse_major, sparse_name, sparse_size) {
            (None, _, _) => None,
            (Some(1), Some(name), Some(size)) => Some((name, size)),
            _ => return Err("incomplete sparse records".to_owned()),
        };
        Ok(records)
    }

    /// The bytes that [`Records::parse`] reads.
    pub(super) fn emit(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let binary = |text: &Option<Vec<u8>>| text.as_ref().is_some_and(|t| std::str::from_utf8(t).is_err());
        if binary(&self.path) || binary(&self.link) {
            put_record(&mut bytes, b"hdrcharset", b"BINARY");
        }
        for (key, value) in [(&b"path"[..], &self.path), (b"linkpath", &self.link)] {
            if let Some(value) = value {
                put_record(&mut bytes, key, value);
            }
        }
        for (key, value) in [(&b"size"[..], self.size), (b"uid", self.uid), (b"gid", self.gid)] {
            if let Some(value) = value {
                put_record(&mut bytes, key, value.to_string().as_bytes());
            }
        }
        if let Some(time) = self.mtime {
            put_record(&mut bytes, b"mtime", emit_time(time).as_bytes());
        }
        if let Some((name, size)) = &self.sparse {
            put_record(&mut bytes, b"GNU.sparse.major", b"1");
            put_record(&mut bytes, b"GNU.sparse.minor", b"0");
            put_record(&mut bytes, b"GNU.sparse.name", name);
            put_record(&mut bytes, b"GNU.sparse.realsize", size.to_string().as_bytes());
        }
        for (name, value) in &self.xattrs {
            put_record(&mut bytes, &[XATTR, &escape(name)].concat(), value);
        }
        bytes
    }
}

fn bad(key: &[u8]) -> String {
    format!("extended record {:?} has a bad value", String::from_utf8_lossy(key))
}

fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(12).position(|byte| *byte == b' ')?;
    let len = usize::try_from(parse_unsigned(&bytes[..space])?).ok()?;
    let record = bytes.get(space + 1..len)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &bytes[len..]))
}

fn put_record(bytes: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // The length counts its own digits.
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len.to_string().len() + rest != len {
        len = len.to_string().len() + rest;
    }
    bytes.extend_from_slice(len.to_string().as_bytes());
    bytes.push(b' ');
    bytes.extend_from_slice(key);
    bytes.push(b'=');
    bytes.extend_from_slice(value);
    bytes.push(b'\n');
}

/// A plain decimal number, as in records and sparse maps.
pub(super) fn parse_unsigned(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

fn parse_time(value: &[u8]) -> Option<Time> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let mut halves = value.splitn(2, |byte| *byte == b'.');
    let whole = parse_unsigned(halves.next()?)?;
    let mut nanos = 0;
    let fraction = halves.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    for place in 0..9 {
        nanos = nanos * 10 + u32::from(fraction.get(place).map_or(0, |digit| digit - b'0'));
    }
    Some(match (negative, nanos) {
        (false, nanos) => Time { seconds: i64::try_from(whole).ok()?, nanos },
        (true, 0) => Time { seconds: 0i64.checked_sub_unsigned(whole)?, nanos: 0 },
        (true, nanos) => {
            let seconds = 0i64.checked_sub_unsigned(whole)?.checked_sub(1)?;
            Time { seconds, nanos: 1_000_000_000 - nanos }
        }
    })
}

fn emit_time(time: Time) -> String {
    let (sign, seconds, nanos) = match (time.seconds < 0, time.nanos) {
        (false, nanos) => ("", time.seconds.unsigned_abs(), nanos),
        (true, 0) => ("-", time.seconds.unsigned_abs(), 0),
        (true, nanos) => ("-", time.seconds.unsigned_abs() - 1, 1_000_000_000 - nanos),
    };
    match nanos {
        0 => format!("{sign}{seconds}"),
        _ => format!("{sign}{seconds}.{nanos:09}"),
    }
}

/// GNU tar's way to keep `=` out of keys.
fn escape(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    for byte in name {
        match byte {
            b'%' => out.extend_from_slice(b"%25"),
            b'=' => out.extend_from_slice(b"%3D"),
            byte => out.push(*byte),
        }
    }
    out
}

fn unescape(mut name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    while let Some((first, rest)) = name.split_first() {
        let (byte, len) = match (first, rest) {
            (b'%', [b'2', b'5', ..]) => (b'%', 3),
            (b'%', [b'3', b'D', ..]) => (b'=', 3),
            _ => (*first, 1),
        };
        out.push(byte);
        name = &name[len..];
    }
    out
}
