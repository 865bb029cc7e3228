use std::fmt;

use super::{
    Cursor, RecordError, parse_facts, parse_mode, parse_path, parse_target, parse_time, put_bytes, put_facts,
    put_time, put_unsigned, record,
};
use crate::wire::{DATA_CHUNK_BYTES, FileFacts, FileTime, MAX_SECRET_BYTES, MAX_SECRET_NAME_BYTES};

/// What the agent sends for each path that `FilesOut` names, in the order of the paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchItem {
    /// No such file, or behind a symbolic link.
    Absent,
    /// A regular file; its content follows in `Chunk`s up to `End`.
    Content(FileFacts),
    /// A regular file over the request's limit, which is not sent.
    TooLarge(FileFacts),
    /// Something without content; a symbolic link's target is in its facts.
    Bare(FileFacts),
    /// Bytes of the current file.
    Chunk(Vec<u8>),
    /// The current file is complete.
    End,
}

impl FetchItem {
    /// Reads a record's body.
    pub fn parse(body: &[u8]) -> Result<Self, RecordError> {
        let mut cursor = Cursor::new(body);
        let item = match cursor.byte()? {
            1 => Self::Absent,
            2 => Self::Content(parse_facts(&mut cursor)?),
            3 => Self::TooLarge(parse_facts(&mut cursor)?),
            4 => Self::Bare(parse_facts(&mut cursor)?),
            5 => return Ok(Self::Chunk(parse_chunk(cursor)?)),
            6 => Self::End,
            tag => return Err(RecordError::UnknownTag(tag)),
        };
        cursor.finish()?;
        Ok(item)
    }

    /// Appends the record.
    pub fn emit(&self, out: &mut Vec<u8>) {
        record(out, |out| match self {
            Self::Absent => out.push(1),
            Self::Content(facts) => put_tagged(2, facts, out),
            Self::TooLarge(facts) => put_tagged(3, facts, out),
            Self::Bare(facts) => put_tagged(4, facts, out),
            Self::Chunk(bytes) => put_chunk(5, bytes, out),
            Self::End => out.push(6),
        });
    }
}

fn put_tagged(tag: u8, facts: &FileFacts, out: &mut Vec<u8>) {
    out.push(tag);
    put_facts(facts, out);
}

fn put_chunk(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(bytes);
}

/// Never empty, at most [`DATA_CHUNK_BYTES`].
fn parse_chunk(cursor: Cursor<'_>) -> Result<Vec<u8>, RecordError> {
    let bytes = cursor.remainder();
    if bytes.is_empty() || bytes.len() > DATA_CHUNK_BYTES {
        return Err(RecordError::Field("chunk"));
    }
    Ok(bytes.to_vec())
}

/// What must be at a path for a change to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Whatever there is.
    Any,
    /// Nothing.
    Absent,
    /// A regular file whose content, or a symbolic link whose target, has this SHA-256.
    Content([u8; 32]),
    /// A file of this size and modification time.
    Unchanged {
        /// Bytes.
        size_bytes: u64,
        /// Modification time.
        mtime: FileTime,
    },
}

/// What to do at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeAction {
    /// Write a regular file; its content follows in `Chunk`s up to `End`. Without a mode an existing
    /// file's is kept, and a new one gets 0644.
    Write {
        /// Permission bits.
        mode: Option<u32>,
    },
    /// Remove a file or link.
    Remove,
    /// Change a regular file's permission bits.
    Chmod {
        /// Permission bits.
        mode: u32,
    },
    /// Make a symbolic link.
    Symlink {
        /// Where it points, in any bytes but zero.
        target: Vec<u8>,
    },
}

/// One change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Relative to the transaction's root.
    pub path: Vec<u8>,
    /// The condition.
    pub expected: Expected,
    /// What to do.
    pub action: ChangeAction,
}

/// What the host sends of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeItem {
    /// The next change.
    Change(Change),
    /// Bytes of the file being written.
    Chunk(Vec<u8>),
    /// The file being written is complete.
    End,
}

impl ChangeItem {
    /// Reads a record's body.
    pub fn parse(body: &[u8]) -> Result<Self, RecordError> {
        let mut cursor = Cursor::new(body);
        let item = match cursor.byte()? {
            1 => Self::Change(Change {
                path: parse_path(&mut cursor)?,
                expected: parse_expected(&mut cursor)?,
                action: parse_action(&mut cursor)?,
            }),
            2 => return Ok(Self::Chunk(parse_chunk(cursor)?)),
            3 => Self::End,
            tag => return Err(RecordError::UnknownTag(tag)),
        };
        cursor.finish()?;
        Ok(item)
    }

    /// Appends the record.
    pub fn emit(&self, out: &mut Vec<u8>) {
        record(out, |out| match self {
            Self::Change(change) => {
                out.push(1);
                put_bytes(&change.path, out);
                put_expected(change.expected, out);
                put_action(&change.action, out);
            }
            Self::Chunk(bytes) => put_chunk(2, bytes, out),
            Self::End => out.push(3),
        });
    }
}

fn parse_expected(cursor: &mut Cursor<'_>) -> Result<Expected, RecordError> {
    Ok(match cursor.byte()? {
        0 => Expected::Any,
        1 => Expected::Absent,
        2 => Expected::Content(cursor.array()?),
        3 => Expected::Unchanged { size_bytes: cursor.unsigned()?, mtime: parse_time(cursor)? },
        _ => return Err(RecordError::Field("condition")),
    })
}

fn put_expected(expected: Expected, out: &mut Vec<u8>) {
    match expected {
        Expected::Any => out.push(0),
        Expected::Absent => out.push(1),
        Expected::Content(sha256) => {
            out.push(2);
            out.extend_from_slice(&sha256);
        }
        Expected::Unchanged { size_bytes, mtime } => {
            out.push(3);
            put_unsigned(size_bytes, out);
            put_time(mtime, out);
        }
    }
}

fn parse_action(cursor: &mut Cursor<'_>) -> Result<ChangeAction, RecordError> {
    Ok(match cursor.byte()? {
        0 => ChangeAction::Write { mode: None },
        1 => ChangeAction::Write { mode: Some(parse_mode(cursor)?) },
        2 => ChangeAction::Remove,
        3 => ChangeAction::Chmod { mode: parse_mode(cursor)? },
        4 => {
            let target = parse_target(cursor)?;
            if target.is_empty() {
                return Err(RecordError::Field("link target"));
            }
            ChangeAction::Symlink { target: target.to_vec() }
        }
        _ => return Err(RecordError::Field("action")),
    })
}

fn put_action(action: &ChangeAction, out: &mut Vec<u8>) {
    let mut put_mode = |tag: u8, mode: u32| {
        out.push(tag);
        put_unsigned(mode.into(), out);
    };
    match action {
        ChangeAction::Write { mode: None } => out.push(0),
        ChangeAction::Write { mode: Some(mode) } => put_mode(1, *mode),
        ChangeAction::Remove => out.push(2),
        ChangeAction::Chmod { mode } => put_mode(3, *mode),
        ChangeAction::Symlink { target } => {
            out.push(4);
            put_bytes(target, out);
        }
    }
}

/// A secret on its way into a guest. Its value is never part of `Debug` output.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretItem {
    /// Letters, digits and `.`, `_`, `-`, not first a dot; at most 64 bytes.
    pub name: String,
    /// Its value, at most 64 KiB.
    pub value: Vec<u8>,
}

impl SecretItem {
    /// Whether `name` can name a secret: it becomes a file's name in the guest.
    pub fn is_name(name: &str) -> bool {
        !name.is_empty()
            && name.len() <= MAX_SECRET_NAME_BYTES
            && !name.starts_with('.')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
    }

    /// Reads a record's body.
    pub fn parse(body: &[u8]) -> Result<Self, RecordError> {
        let mut cursor = Cursor::new(body);
        let name = cursor.bytes(MAX_SECRET_NAME_BYTES, "secret name")?;
        let name = std::str::from_utf8(name).ok().filter(|name| Self::is_name(name));
        let name = name.ok_or(RecordError::Field("secret name"))?.to_owned();
        let value = cursor.bytes(MAX_SECRET_BYTES, "secret value")?.to_vec();
        cursor.finish()?;
        Ok(Self { name, value })
    }

    /// Appends the record.
    pub fn emit(&self, out: &mut Vec<u8>) {
        record(out, |out| {
            put_bytes(self.name.as_bytes(), out);
            put_bytes(&self.value, out);
        });
    }
}

impl fmt::Debug for SecretItem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("SecretItem").field("name", &self.name).finish_non_exhaustive()
    }
}
