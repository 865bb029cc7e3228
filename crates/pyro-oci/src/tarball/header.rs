//! One 512-byte header block.

use super::TarError;

/// Offsets and lengths as claimed.
pub(super) type SparseMap = Vec<(u64, u64)>;

/// A header with its checksum verified and its numbers decoded.
pub(super) struct Header {
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) flag: u8,
    pub(super) size: u64,
    pub(super) mode: u16,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) mtime: i64,
    pub(super) major: u64,
    pub(super) minor: u64,
    raw: [u8; 512],
}

impl Header {
    pub(super) fn parse(raw: &[u8; 512], at: u64) -> Result<Self, TarError> {
        let bad = |what: String| TarError::Header { at, what };
        verify_checksum(raw).map_err(bad)?;
        let gnu = &raw[257..265] == b"ustar  \0";
        let posix = &raw[257..263] == b"ustar\0";
        let flag = raw[156];
        let field = |range: std::ops::Range<usize>, what: &str| {
            number(&raw[range]).map_err(|why| TarError::Header { at, what: format!("{what} {why}") })
        };
        let unsigned = |range: std::ops::Range<usize>, what: &str| {
            field(range, what).and_then(|n| {
                u64::try_from(n).map_err(|_| TarError::Header { at, what: format!("{what} {n} is negative") })
            })
        };
        let mut name = until_nul(&raw[0..100]).to_vec();
        let prefix = until_nul(&raw[345..500]);
        if posix && !prefix.is_empty() {
            name = [prefix, b"/", &name].concat();
        }
        let device = matches!(flag, b'3' | b'4');
        let mtime = field(136..148, "mtime")?;
        Ok(Self {
            name,
            link: until_nul(&raw[157..257]).to_vec(),
            flag,
            size: unsigned(124..136, "size")?,
            mode: (unsigned(100..108, "mode")? & 0o7777) as u16,
            uid: unsigned(108..116, "uid")?,
            gid: unsigned(116..124, "gid")?,
            mtime: i64::try_from(mtime)
                .map_err(|_| TarError::Header { at, what: format!("mtime {mtime} is out of range") })?,
            major: if device && (gnu || posix) { unsigned(329..337, "device major")? } else { 0 },
            minor: if device && (gnu || posix) { unsigned(337..345, "device minor")? } else { 0 },
            raw: *raw,
        })
    }

    /// The up to four entries of an old GNU sparse map, the claimed real size, and whether
    /// extension blocks follow.
    pub(super) fn old_gnu_sparse(&self, at: u64) -> Result<(SparseMap, u64, bool), TarError> {
        let entries = sparse_entries(&self.raw[386..482], at)?;
        let size = sparse_number(&self.raw[483..495], at)?;
        Ok((entries, size, self.raw[482] != 0))
    }
}

/// The 21 entries of one old GNU extension block, and whether another follows.
pub(super) fn sparse_extension(block: &[u8; 512], at: u64) -> Result<(SparseMap, bool), TarError> {
    Ok((sparse_entries(&block[0..504], at)?, block[504] != 0))
}

fn sparse_entries(bytes: &[u8], at: u64) -> Result<SparseMap, TarError> {
    let mut entries = Vec::new();
    for entry in bytes.chunks_exact(24) {
        if entry[0] == 0 {
            break;
        }
        entries.push((sparse_number(&entry[0..12], at)?, sparse_number(&entry[12..24], at)?));
    }
    Ok(entries)
}

fn sparse_number(field: &[u8], at: u64) -> Result<u64, TarError> {
    let bad = |why: String| TarError::Header { at, what: format!("sparse map {why}") };
    let n = number(field).map_err(bad)?;
    u64::try_from(n).map_err(|_| TarError::Header { at, what: format!("sparse map number {n} is negative") })
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or_default()
}

/// The checksum counts its own field as spaces; some old writers summed signed bytes.
fn verify_checksum(raw: &[u8; 512]) -> Result<(), String> {
    let claimed = number(&raw[148..156]).map_err(|why| format!("checksum {why}"))?;
    let byte = |i: usize| if (148..156).contains(&i) { b' ' } else { raw[i] };
    let unsigned: i128 = (0..512).map(|i| i128::from(byte(i))).sum();
    let signed: i128 = (0..512).map(|i| i128::from(byte(i) as i8)).sum();
    if claimed == unsigned || claimed == signed {
        Ok(())
    } else {
        Err(format!("checksum {claimed} does not match {unsigned}"))
    }
}

/// A numeric field: octal text, or base-256 when the first bit is set.
fn number(field: &[u8]) -> Result<i128, String> {
    let first = field.first().copied().unwrap_or_default();
    if first & 0x80 != 0 {
        return Ok(base256(field));
    }
    let text: &[u8] = field.split(|&b| b == 0).next().unwrap_or_default();
    let digits = text.trim_ascii();
    if digits.iter().any(|b| !(b'0'..=b'7').contains(b)) {
        return Err(format!("is not an octal number: {:?}", digits.escape_ascii().to_string()));
    }
    Ok(digits.iter().fold(0, |n, b| n * 8 + i128::from(b - b'0')))
}

/// Twelve bytes at most, so 95 bits of value: an `i128` holds it.
fn base256(field: &[u8]) -> i128 {
    let negative = field[0] & 0x40 != 0;
    let start: i128 = if negative { -1 } else { 0 };
    let first = field[0] & 0x7f | if negative { 0x80 } else { 0 };
    let head = (start << 8) | i128::from(first);
    field[1..].iter().fold(head, |n, &b| (n << 8) | i128::from(b))
}
