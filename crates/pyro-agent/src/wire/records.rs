//! Many small things in one stream of `Data` frames: each a record of `len: u32` little endian and `len`
//! bytes. Numbers inside are LEB128 in their shortest form, so `parse` and `emit` are inverses.

use super::{FileFacts, FileKind, FileTime, GuestPath};

mod cursor;
mod items;
#[cfg(test)]
mod tests;

use cursor::{Cursor, put_bytes, put_signed, put_unsigned};
pub use items::{Change, ChangeAction, ChangeItem, Expected, FetchItem, SecretItem};

/// The longest record: a path as deep as the agent goes, or a chunk.
pub const MAX_RECORD_BYTES: usize = 256 << 10;
/// The longest path in a record: 512 names of 255 bytes.
pub const MAX_PATH_BYTES: usize = 128 << 10;

/// Why bytes are not a record.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RecordError {
    /// The announced length is over [`MAX_RECORD_BYTES`].
    #[error("record of {0} bytes is over the limit of {MAX_RECORD_BYTES}")]
    TooLarge(u32),
    /// It ends in the middle of a field.
    #[error("record is cut short")]
    Truncated,
    /// A field holds what it cannot.
    #[error("record's {0} is out of range")]
    Field(&'static str),
    /// The first byte of an item names nothing.
    #[error("record of unknown sort {0}")]
    UnknownTag(u8),
    /// Bytes follow the last field.
    #[error("record has {0} bytes too many")]
    Trailing(usize),
}

/// Cuts a stream into records. Holds one incomplete record and what is fed at a time.
#[derive(Debug, Default)]
pub struct RecordCutter {
    buffer: Vec<u8>,
    taken: usize,
}

impl RecordCutter {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes of the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next record's body, or `None` until more bytes are fed. After an error the stream is unusable.
    pub fn next_record(&mut self) -> Result<Option<&[u8]>, RecordError> {
        let Some((len, rest)) = self.buffer[self.taken..].split_first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_le_bytes(*len);
        if len as usize > MAX_RECORD_BYTES {
            return Err(RecordError::TooLarge(len));
        }
        if rest.len() < len as usize {
            return Ok(None);
        }
        let start = self.taken + 4;
        self.taken = start + len as usize;
        Ok(Some(&self.buffer[start..self.taken]))
    }

    /// Whether the stream may end here.
    pub fn is_empty(&self) -> bool {
        self.taken == self.buffer.len()
    }
}

/// Appends a record whose body `write` appends.
fn record(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    let len = u32::try_from(out.len() - start - 4).expect("records are bounded by MAX_RECORD_BYTES");
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
}

/// A name below a directory, and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the directory, without `.` or `..`; empty when a listing is of a single file.
    pub path: Vec<u8>,
    /// Its metadata.
    pub facts: FileFacts,
}

impl Entry {
    /// Reads a record's body.
    pub fn parse(body: &[u8]) -> Result<Self, RecordError> {
        let mut cursor = Cursor::new(body);
        let facts = parse_facts(&mut cursor)?;
        let path = parse_path(&mut cursor)?;
        cursor.finish()?;
        Ok(Self { path, facts })
    }

    /// Appends the record.
    pub fn emit(&self, out: &mut Vec<u8>) {
        emit_entry(&self.path, &self.facts, out);
    }
}

/// Appends the record of an [`Entry`] of these parts.
pub fn emit_entry(path: &[u8], facts: &FileFacts, out: &mut Vec<u8>) {
    record(out, |out| {
        put_facts(facts, out);
        put_bytes(path, out);
    });
}

/// Appends the record of a path.
pub fn emit_path(path: &[u8], out: &mut Vec<u8>) {
    record(out, |out| put_bytes(path, out));
}

/// Reads the body that [`emit_path`] makes: a relative path, of at most [`MAX_PATH_BYTES`].
pub fn parse_path_record(body: &[u8]) -> Result<Vec<u8>, RecordError> {
    let mut cursor = Cursor::new(body);
    let path = parse_path(&mut cursor)?;
    cursor.finish()?;
    Ok(path)
}

fn parse_path(cursor: &mut Cursor<'_>) -> Result<Vec<u8>, RecordError> {
    let path = cursor.bytes(MAX_PATH_BYTES, "path")?;
    if path.contains(&0) {
        return Err(RecordError::Field("path"));
    }
    Ok(path.to_vec())
}

fn parse_target<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], RecordError> {
    let target = cursor.bytes(MAX_PATH_BYTES, "link target")?;
    if target.contains(&0) { Err(RecordError::Field("link target")) } else { Ok(target) }
}

fn put_facts(facts: &FileFacts, out: &mut Vec<u8>) {
    out.push(facts.kind as u8);
    put_unsigned(facts.mode.into(), out);
    put_unsigned(facts.uid.into(), out);
    put_unsigned(facts.gid.into(), out);
    put_unsigned(facts.size_bytes, out);
    put_time(facts.mtime, out);
    put_time(facts.ctime, out);
    put_unsigned(facts.ino, out);
    put_unsigned(facts.link_count, out);
    if facts.kind == FileKind::Symlink {
        put_bytes(facts.link_target.as_ref().map_or(&[], GuestPath::as_bytes), out);
    }
}

fn put_time(time: FileTime, out: &mut Vec<u8>) {
    put_signed(time.seconds, out);
    put_unsigned(time.nanos.into(), out);
}

fn parse_facts(cursor: &mut Cursor<'_>) -> Result<FileFacts, RecordError> {
    let kind = FileKind::from_byte(cursor.byte()?).ok_or(RecordError::Field("kind"))?;
    let mode = parse_mode(cursor)?;
    Ok(FileFacts {
        kind,
        mode,
        uid: cursor.unsigned32("owner")?,
        gid: cursor.unsigned32("group")?,
        size_bytes: cursor.unsigned()?,
        mtime: parse_time(cursor)?,
        ctime: parse_time(cursor)?,
        ino: cursor.unsigned()?,
        link_count: cursor.unsigned()?,
        link_target: match kind {
            FileKind::Symlink => Some(GuestPath::new(parse_target(cursor)?)),
            _ => None,
        },
    })
}

fn parse_mode(cursor: &mut Cursor<'_>) -> Result<u32, RecordError> {
    let mode = cursor.unsigned32("mode")?;
    if mode > 0o7777 { Err(RecordError::Field("mode")) } else { Ok(mode) }
}

fn parse_time(cursor: &mut Cursor<'_>) -> Result<FileTime, RecordError> {
    let seconds = cursor.signed()?;
    let nanos = cursor.unsigned32("nanoseconds")?;
    if nanos >= 1_000_000_000 {
        return Err(RecordError::Field("nanoseconds"));
    }
    Ok(FileTime { seconds, nanos })
}

/// Drives everything that reads records, for fuzzing. What parses must emit back to itself.
pub fn fuzz_records(bytes: &[u8], cut: usize) {
    let mut cutter = RecordCutter::new();
    for piece in bytes.chunks(cut.max(1)) {
        cutter.feed(piece);
        while let Ok(Some(body)) = cutter.next_record() {
            let check = |emitted: Vec<u8>| assert_eq!(&emitted[4..], body, "emit is no inverse of parse");
            let emitted = |emit: &dyn Fn(&mut Vec<u8>)| {
                let mut out = Vec::new();
                emit(&mut out);
                check(out);
            };
            if let Ok(entry) = Entry::parse(body) {
                emitted(&|out| entry.emit(out));
            }
            if let Ok(item) = FetchItem::parse(body) {
                emitted(&|out| item.emit(out));
            }
            if let Ok(item) = ChangeItem::parse(body) {
                emitted(&|out| item.emit(out));
            }
            if let Ok(secret) = SecretItem::parse(body) {
                emitted(&|out| secret.emit(out));
            }
            if let Ok(path) = parse_path_record(body) {
                emitted(&|out| emit_path(&path, out));
            }
        }
    }
}
