//! ELF64 executables: an uncompressed `vmlinux`.
//!
//! Linux's has two entries: the file's own, which is for long mode, and PVH's. The first is taken where there are both:
//! behind PVH's the kernel looks for Xen in 256 leaves of `cpuid`, each an exit.
//!
//! System V ABI, "Object Files" and "Program Loading"; Xen's `include/public/elfnote.h`.

use super::bzimage::IDENTITY_MAPPED_BYTES;
use super::{Image, LoadError, Segment, u16_at, u32_at, u64_at};

const MAGIC: &[u8; 4] = b"\x7fELF";
const HEADER_BYTES: usize = 64;
/// `e_ident` from `EI_CLASS`: 64-bit, little-endian, version 1.
const IDENT: [u8; 3] = [2, 1, 1];
const ET_EXEC: u16 = 2;
const EM_X86_64: u16 = 62;

const PROGRAM_HEADER_BYTES: usize = 56;
/// A vmlinux has five.
const MAX_PROGRAM_HEADERS: u16 = 64;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;

/// The notes of a vmlinux are below 1 KiB.
const MAX_NOTES_BYTES: u64 = 64 << 10;
const NOTE_HEADER_BYTES: usize = 12;
const XEN_NOTE_NAME: &[u8] = b"Xen\0";
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;

/// A kernel whose parts fit into the machine and do not overlap.
pub(super) struct Elf {
    segments: Vec<Segment>,
    entry: Entry,
}

/// A physical address to begin at.
#[derive(Clone, Copy)]
pub(super) enum Entry {
    /// In long mode.
    Long(u64),
    /// In protected mode.
    Pvh(u32),
}

impl Elf {
    /// Reads headers and notes.
    pub(super) fn parse(image: &Image<'_>, low_ram_end: u64) -> Result<Self, LoadError> {
        let (long_entry, headers) = headers(image)?;
        let mut segments = Vec::new();
        let mut pvh = None;
        for header in headers.chunks_exact(PROGRAM_HEADER_BYTES) {
            match u32_at(header, 0) {
                PT_LOAD => segments.extend(loadable(header, image, low_ram_end)?),
                PT_NOTE if pvh.is_none() => pvh = pvh_entry(header, image)?,
                _ => {}
            }
        }
        segments.sort_by_key(|segment| segment.address);
        if let Some(pair) = segments.windows(2).find(|pair| pair[0].end() > pair[1].address) {
            return Err(pair[1].refused());
        }
        let is_code = |address: u64| {
            let of_file = |segment: &Segment| segment.address..segment.address + segment.file_bytes;
            segments.iter().any(|segment| of_file(segment).contains(&address))
        };
        let is_mapped = segments.iter().all(|segment| segment.end() <= IDENTITY_MAPPED_BYTES);
        let entry = match pvh {
            _ if is_mapped && is_code(long_entry) => Entry::Long(long_entry),
            None => return Err(LoadError::Malformed("it has no entry")),
            Some(entry) if is_code(entry.into()) => Entry::Pvh(entry),
            Some(_) => return Err(LoadError::Malformed("its PVH entry is not in its code")),
        };
        Ok(Elf { segments, entry })
    }

    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    pub(super) fn entry(&self) -> Entry {
        self.entry
    }

    /// Behind the last segment.
    pub(super) fn end(&self) -> u64 {
        self.segments.last().map_or(0, Segment::end)
    }
}

/// Whether the file says that it is one.
pub(super) fn is_elf(image: &Image<'_>) -> Result<bool, LoadError> {
    let mut magic = [0; MAGIC.len()];
    if !image.holds(0, magic.len() as u64) {
        return Err(LoadError::Format);
    }
    image.read(0, &mut magic)?;
    Ok(&magic == MAGIC)
}

/// The file's own entry and its program headers.
fn headers(image: &Image<'_>) -> Result<(u64, Vec<u8>), LoadError> {
    let mut header = [0; HEADER_BYTES];
    if !image.holds(0, HEADER_BYTES as u64) {
        return Err(LoadError::Malformed("its ELF header is cut off"));
    }
    image.read(0, &mut header)?;
    if header[4..7] != IDENT || u16_at(&header, 16) != ET_EXEC || u16_at(&header, 18) != EM_X86_64 {
        return Err(LoadError::Malformed("it is no executable for x86-64"));
    }
    let (offset, count) = (u64_at(&header, 32), u16_at(&header, 56));
    if usize::from(u16_at(&header, 54)) != PROGRAM_HEADER_BYTES || count > MAX_PROGRAM_HEADERS {
        return Err(LoadError::Malformed("its program headers are too many or of an unknown kind"));
    }
    let mut headers = vec![0; usize::from(count) * PROGRAM_HEADER_BYTES];
    if !image.holds(offset, headers.len() as u64) {
        return Err(LoadError::Malformed("its program headers are not in the file"));
    }
    image.read(offset, &mut headers)?;
    Ok((u64_at(&header, 24), headers))
}

/// `None` for a segment without bytes.
fn loadable(header: &[u8], image: &Image<'_>, low_ram_end: u64) -> Result<Option<Segment>, LoadError> {
    let segment = Segment {
        file_offset: u64_at(header, 8),
        address: u64_at(header, 24),
        file_bytes: u64_at(header, 32),
        memory_bytes: u64_at(header, 40),
    };
    if segment.file_bytes > segment.memory_bytes || !image.holds(segment.file_offset, segment.file_bytes) {
        return Err(LoadError::Malformed("a segment is not in the file"));
    }
    if segment.memory_bytes == 0 {
        return Ok(None);
    }
    if segment.fits(low_ram_end) { Ok(Some(segment)) } else { Err(segment.refused()) }
}

/// Looks for Xen's note with the address of the 32-bit entry.
fn pvh_entry(header: &[u8], image: &Image<'_>) -> Result<Option<u32>, LoadError> {
    let (offset, len_bytes, align) = (u64_at(header, 8), u64_at(header, 32), u64_at(header, 48));
    if len_bytes > MAX_NOTES_BYTES || !image.holds(offset, len_bytes) {
        return Err(LoadError::Malformed("its notes are too long or not in the file"));
    }
    let mut notes = vec![0; len_bytes as usize];
    image.read(offset, &mut notes)?;
    // Other values are as good as 4, which all tools take them for.
    let align = if align == 8 { 8 } else { 4 };
    let mut rest = notes.as_slice();
    while let Some((note, tail)) = Note::parse(rest, align) {
        if note.name == XEN_NOTE_NAME && note.kind == XEN_ELFNOTE_PHYS32_ENTRY {
            return note.address().map(Some);
        }
        rest = tail;
    }
    Ok(None)
}

struct Note<'a> {
    name: &'a [u8],
    kind: u32,
    description: &'a [u8],
}

impl<'a> Note<'a> {
    /// The first note of `bytes` and what follows it; `None` at the end and at what is cut off.
    fn parse(bytes: &'a [u8], align: usize) -> Option<(Self, &'a [u8])> {
        let header = bytes.get(..NOTE_HEADER_BYTES)?;
        let (name_len, len) = (u32_at(header, 0) as usize, u32_at(header, 4) as usize);
        let name = bytes.get(NOTE_HEADER_BYTES..NOTE_HEADER_BYTES.checked_add(name_len)?)?;
        let start = (NOTE_HEADER_BYTES + name_len).checked_next_multiple_of(align)?;
        let end = start.checked_add(len)?;
        let description = bytes.get(start..end)?;
        let next = end.checked_next_multiple_of(align)?.min(bytes.len());
        Some((Note { name, kind: u32_at(header, 8), description }, &bytes[next..]))
    }

    /// Linux writes the address with 8 bytes, Xen's own examples with 4.
    fn address(&self) -> Result<u32, LoadError> {
        let address = match self.description.len() {
            4 => Some(u32_at(self.description, 0)),
            8 => u32::try_from(u64_at(self.description, 0)).ok(),
            _ => None,
        };
        address.ok_or(LoadError::Malformed("its PVH entry is no address of 32 bits"))
    }
}
