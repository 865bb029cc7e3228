//! Writing the archives of an artifact: one file each, with owner, mode and time normalised so that
//! the same file always gives the same bytes.

use std::io::{self, Read, Write};

use super::{RECORD, pax};

/// A whole plain member.
pub(crate) fn write_file(
    out: &mut (impl Write + ?Sized),
    name: &str,
    size: u64,
    content: &mut impl Read,
) -> io::Result<()> {
    out.write_all(&header(name, b'0', size))?;
    let copied = io::copy(&mut content.take(size), out)?;
    if copied != size {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{name} shrank while it was read")));
    }
    pad(out, size)
}

/// The headers and the map of a sparse member (PAX 1.0). The caller writes the segments' bytes, in
/// order, then [`write_end`]s with what is returned: the number of bytes stored, map included.
pub(crate) fn write_sparse_header(
    out: &mut (impl Write + ?Sized),
    name: &str,
    size: u64,
    map: &[(u64, u64)],
) -> io::Result<u64> {
    let mut table = format!("{}\n", map.len()).into_bytes();
    for (offset, len) in map {
        table.extend_from_slice(format!("{offset}\n{len}\n").as_bytes());
    }
    table.resize(table.len().next_multiple_of(RECORD as usize), 0);
    let stored = table.len() as u64 + map.iter().map(|(_, len)| len).sum::<u64>();

    let mut records = Vec::new();
    pax::emit_record(&mut records, "GNU.sparse.major", "1");
    pax::emit_record(&mut records, "GNU.sparse.minor", "0");
    pax::emit_record(&mut records, "GNU.sparse.name", name);
    pax::emit_record(&mut records, "GNU.sparse.realsize", &size.to_string());
    out.write_all(&header(&format!("PaxHeaders/{name}"), b'x', records.len() as u64))?;
    out.write_all(&records)?;
    pad(out, records.len() as u64)?;
    out.write_all(&header(&format!("GNUSparseFile.0/{name}"), b'0', stored))?;
    out.write_all(&table)?;
    Ok(stored)
}

/// Fills the last record of a member of `len` bytes, then ends the archive.
pub(crate) fn write_end(out: &mut (impl Write + ?Sized), len: u64) -> io::Result<()> {
    pad(out, len)?;
    out.write_all(&[0; 2 * RECORD as usize])
}

fn pad(out: &mut (impl Write + ?Sized), len: u64) -> io::Result<()> {
    let rest = (len.next_multiple_of(RECORD) - len) as usize;
    out.write_all(&[0; RECORD as usize][..rest])
}

fn header(name: &str, flag: u8, size: u64) -> [u8; 512] {
    let mut raw = [0_u8; 512];
    let name = name.as_bytes();
    raw[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
    raw[100..108].copy_from_slice(b"0000644\0");
    raw[108..116].copy_from_slice(b"0000000\0");
    raw[116..124].copy_from_slice(b"0000000\0");
    if size < 1 << 33 {
        raw[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    } else {
        raw[124] = 0x80;
        raw[128..136].copy_from_slice(&size.to_be_bytes());
    }
    raw[136..148].copy_from_slice(b"00000000000\0");
    raw[148..156].fill(b' ');
    raw[156] = flag;
    raw[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = raw.iter().map(|&b| u32::from(b)).sum();
    raw[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    raw
}
