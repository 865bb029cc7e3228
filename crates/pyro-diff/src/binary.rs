//! The parts of git's binary patches: base 85, deflated literals, and deltas.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;

const ALPHABET: &[u8; 85] =
    b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";
const LINE_BYTES: usize = 52;

/// Appends `content` as `literal N` with its lines of base 85 and the empty line that ends them.
pub(crate) fn put_literal(content: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("literal {}\n", content.len()).as_bytes());
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).expect("a vector takes every byte");
    let deflated = encoder.finish().expect("a vector takes every byte");
    for line in deflated.chunks(LINE_BYTES) {
        let length = u8::try_from(line.len()).expect("lines are short");
        out.push(if length <= 26 { b'A' + length - 1 } else { b'a' + length - 27 });
        put_base85(line, out);
        out.push(b'\n');
    }
    out.push(b'\n');
}

fn put_base85(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.chunks(4) {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        let mut value = u32::from_be_bytes(word);
        let mut digits = [0; 5];
        for digit in digits.iter_mut().rev() {
            *digit = ALPHABET[(value % 85) as usize];
            value /= 85;
        }
        out.extend_from_slice(&digits);
    }
}

/// The bytes of one line of a binary patch, without its end.
pub(crate) fn parse_line(line: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (first, digits) = line.split_first()?;
    let length = match first {
        b'A'..=b'Z' => usize::from(first - b'A') + 1,
        b'a'..=b'z' => usize::from(first - b'a') + 27,
        _ => return None,
    };
    if digits.len() % 5 != 0 || digits.len() / 5 != length.div_ceil(4) {
        return None;
    }
    let start = out.len();
    for group in digits.chunks(5) {
        let mut value: u32 = 0;
        for digit in group {
            let digit = ALPHABET.iter().position(|known| known == digit)?;
            value = value.checked_mul(85)?.checked_add(u32::try_from(digit).ok()?)?;
        }
        out.extend_from_slice(&value.to_be_bytes());
    }
    out.truncate(start + length);
    Some(())
}

/// Inflates exactly `size` bytes; nothing if there are fewer or more.
pub(crate) fn inflate(deflated: &[u8], size: usize) -> Option<Vec<u8>> {
    let limit = u64::try_from(size).ok()?.checked_add(1)?;
    let mut out = Vec::new();
    ZlibDecoder::new(deflated).take(limit).read_to_end(&mut out).ok()?;
    (out.len() == size).then_some(out)
}

/// The size that a delta's result claims to have.
pub(crate) fn delta_result_size(delta: &[u8]) -> Option<usize> {
    let mut rest = delta;
    take_size(&mut rest)?;
    take_size(&mut rest)
}

/// Builds what `delta` makes of `base`; at most `most` bytes.
pub(crate) fn apply_delta(base: &[u8], delta: &[u8], most: usize) -> Option<Vec<u8>> {
    let mut rest = delta;
    if take_size(&mut rest)? != base.len() {
        return None;
    }
    let size = take_size(&mut rest).filter(|size| *size <= most)?;
    let mut out = Vec::new();
    while let Some((&op, after)) = rest.split_first() {
        rest = after;
        let piece = if op & 0x80 != 0 {
            let (mut offset, mut length) = (0, 0);
            for bit in 0..4 {
                if op & (1 << bit) != 0 {
                    offset |= usize::from(take_byte(&mut rest)?) << (8 * bit);
                }
            }
            for bit in 0..3 {
                if op & (0x10 << bit) != 0 {
                    length |= usize::from(take_byte(&mut rest)?) << (8 * bit);
                }
            }
            let length = if length == 0 { 0x10000 } else { length };
            base.get(offset..offset.checked_add(length)?)?
        } else if op != 0 {
            let (piece, after) = rest.split_at_checked(usize::from(op))?;
            rest = after;
            piece
        } else {
            return None;
        };
        if out.len() + piece.len() > size {
            return None;
        }
        out.extend_from_slice(piece);
    }
    (out.len() == size).then_some(out)
}

fn take_byte(rest: &mut &[u8]) -> Option<u8> {
    let (&byte, after) = rest.split_first()?;
    *rest = after;
    Some(byte)
}

fn take_size(rest: &mut &[u8]) -> Option<usize> {
    let mut value: u64 = 0;
    for shift in (0..35).step_by(7) {
        let byte = take_byte(rest)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return usize::try_from(value).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_reads_back_as_it_was() {
        for size in [0, 1, 3, 4, 5, 52, 53, 1000, 70_000] {
            let content: Vec<u8> =
                (0..size).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            let mut text = Vec::new();
            put_literal(&content, &mut text);
            let mut deflated = Vec::new();
            for line in text.split(|byte| *byte == b'\n').skip(1).take_while(|line| !line.is_empty()) {
                parse_line(line, &mut deflated).unwrap();
            }
            assert_eq!(inflate(&deflated, content.len()).unwrap(), content);
            assert_eq!(inflate(&deflated, content.len() + 1), None);
        }
    }

    #[test]
    fn deltas_copy_insert_and_are_checked() {
        let delta = [5, 6, 0x80 | 0x01 | 0x10, 1, 3, 3, b'x', b'y', b'z'];
        assert_eq!(apply_delta(b"abcde", &delta, 100).unwrap(), b"bcdxyz");
        assert_eq!(delta_result_size(&delta), Some(6));
        assert_eq!(apply_delta(b"abcd", &delta, 100), None);
        assert_eq!(apply_delta(b"abcde", &delta, 5), None);
        assert_eq!(apply_delta(b"abcde", &delta[..4], 100), None);
        assert_eq!(apply_delta(b"abcde", &[5, 1, 0], 100), None);
    }

    #[test]
    fn broken_lines_are_refused() {
        for line in [&b""[..], b"A", b"A0000", b"?00000", b"E00000", b"D~~~~~", b"A0000\xff"] {
            assert_eq!(parse_line(line, &mut Vec::new()), None, "{}", line.escape_ascii());
        }
    }
}
