//! The 512-byte header block: `parse` and `emit`.

use super::{BLOCK_BYTES, Extent};

/// A header block.
pub(super) type Block = [u8; BLOCK_BYTES];

/// What a header block says, before extended records amend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) type_flag: u8,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) size: u64,
    pub(super) mtime: i64,
}

const NAME: std::ops::Range<usize> = 0..100;
const MODE: std::ops::Range<usize> = 100..108;
const UID: std::ops::Range<usize> = 108..116;
const GID: std::ops::Range<usize> = 116..124;
const SIZE: std::ops::Range<usize> = 124..136;
const MTIME: std::ops::Range<usize> = 136..148;
const CHECKSUM: std::ops::Range<usize> = 148..156;
const TYPE: usize = 156;
const LINK: std::ops::Range<usize> = 157..257;
const MAGIC: std::ops::Range<usize> = 257..265;
const PREFIX: std::ops::Range<usize> = 345..500;

/// The largest value an octal field of 12 bytes holds.
pub(super) const MAX_OCTAL_SIZE: u64 = 0o777_7777_7777;
/// The largest value an octal field of 8 bytes holds.
pub(super) const MAX_OCTAL_ID: u64 = 0o777_7777;

impl Header {
    /// Reads a block, or says in a word which field is wrong.
    pub(super) fn parse(block: &Block) -> Result<Self, &'static str> {
        let stored = number(&block[CHECKSUM]).ok_or("checksum")?;
        if stored != i64::from(checksum(block)) {
            return Err("checksum");
        }
        let mut path = text(&block[NAME]).to_vec();
        let prefix = text(&block[PREFIX]);
        if &block[MAGIC] == b"ustar\x0000" && !prefix.is_empty() {
            path = [prefix, b"/", &path].concat();
        }
        let unsigned = |range: std::ops::Range<usize>, what| {
            number(&block[range]).and_then(|value| u64::try_from(value).ok()).ok_or(what)
        };
        Ok(Self {
            path,
            link: text(&block[LINK]).to_vec(),
            type_flag: block[TYPE],
            mode: u32::try_from(unsigned(MODE, "mode")? & 0o7777).expect("masked to twelve bits"),
            uid: unsigned(UID, "owner")?,
            gid: unsigned(GID, "group")?,
            size: unsigned(SIZE, "size")?,
            mtime: number(&block[MTIME]).ok_or("time")?,
        })
    }

    /// The block; names are cut and numbers out of range are zero, for records to carry the real ones.
    pub(super) fn emit(&self) -> Block {
        let mut block = [0; BLOCK_BYTES];
        put(&mut block[NAME], &self.path);
        put(&mut block[LINK], &self.link);
        put_octal(&mut block[MODE], u64::from(self.mode));
        put_octal(&mut block[UID], if self.uid > MAX_OCTAL_ID { 0 } else { self.uid });
        put_octal(&mut block[GID], if self.gid > MAX_OCTAL_ID { 0 } else { self.gid });
        put_octal(&mut block[SIZE], if self.size > MAX_OCTAL_SIZE { 0 } else { self.size });
        let mtime = u64::try_from(self.mtime).unwrap_or(0);
        put_octal(&mut block[MTIME], if mtime > MAX_OCTAL_SIZE { 0 } else { mtime });
        block[TYPE] = self.type_flag;
        block[MAGIC].copy_from_slice(b"ustar\x0000");
        let sum = format!("{:06o}\0 ", checksum(&block));
        block[CHECKSUM].copy_from_slice(sum.as_bytes());
        block
    }
}

/// The sum of all bytes, the checksum field itself counted as spaces.
fn checksum(block: &Block) -> u32 {
    let whole: u32 = block.iter().copied().map(u32::from).sum();
    let field: u32 = block[CHECKSUM].iter().copied().map(u32::from).sum();
    whole - field + 8 * u32::from(b' ')
}

fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Octal digits between spaces or NULs (an empty field is zero), or GNU's base-256.
fn number(field: &[u8]) -> Option<i64> {
    match field.split_first()? {
        (0x80, rest) => {
            let (high, low) = rest.split_at(rest.len().saturating_sub(8));
            if high.iter().any(|byte| *byte != 0) {
                return None;
            }
            let value = low.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
            i64::try_from(value).ok()
        }
        (0xff, rest) => {
            let (high, low) = rest.split_at(rest.len().saturating_sub(8));
            if high.iter().any(|byte| *byte != 0xff) {
                return None;
            }
            let value = low.iter().fold(u64::MAX, |value, byte| value << 8 | u64::from(*byte));
            Some(value.cast_signed()).filter(|value| *value < 0)
        }
        _ => {
            let digits = field.trim_ascii_start();
            let end = digits.iter().position(|b| matches!(b, 0 | b' ')).unwrap_or(digits.len());
            digits[..end].iter().try_fold(0i64, |value, digit| match digit {
                b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
                _ => None,
            })
        }
    }
}

fn put(field: &mut [u8], bytes: &[u8]) {
    let len = bytes.len().min(field.len());
    field[..len].copy_from_slice(&bytes[..len]);
}

fn put_octal(field: &mut [u8], value: u64) {
    let digits = format!("{value:0width$o}", width = field.len() - 1);
    put(field, digits.as_bytes());
}

/// Extents of GNU's old sparse header, its real size, and whether a block of more extents follows.
pub(super) fn parse_old_sparse(block: &Block) -> Option<(Vec<Extent>, u64, bool)> {
    let size = u64::try_from(number(&block[483..495])?).ok()?;
    Some((parse_extents(&block[386..482])?, size, block[482] != 0))
}

/// Extents of a continuation block, and whether another follows.
pub(super) fn parse_old_sparse_more(block: &Block) -> Option<(Vec<Extent>, bool)> {
    Some((parse_extents(&block[..504])?, block[504] != 0))
}

fn parse_extents(fields: &[u8]) -> Option<Vec<Extent>> {
    fields
        .chunks_exact(24)
        .take_while(|pair| pair.iter().any(|byte| *byte != 0))
        .map(|pair| {
            let (offset, len) = pair.split_at(12);
            Some(Extent {
                offset: u64::try_from(number(offset)?).ok()?,
                len: u64::try_from(number(len)?).ok()?,
            })
        })
        .collect()
}
