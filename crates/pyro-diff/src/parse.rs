//! Patches as `git diff` and `diff -u` write them, become values.
//!
//! Text before, between and after the changes is passed over, as `git apply` does. What is not understood
//! where it would matter is an error with its line, never a guess.

mod binary;
mod cursor;
mod header;
mod hunk;
mod traditional;

use std::collections::BTreeSet;

use crate::limits::{MAX_PATCH_BYTES, MAX_PATCH_FILES};
use crate::name::{check_path, shown};
use crate::patch::{FilePatch, Operation, Patch};
use cursor::Cursor;

/// Why a patch is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Nothing but blanks.
    #[error("patch must not be empty")]
    Empty,
    /// More than [`MAX_PATCH_BYTES`].
    #[error("patch must be at most {MAX_PATCH_BYTES} bytes, this one has {bytes}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// More than [`MAX_PATCH_FILES`].
    #[error("patch must change at most {MAX_PATCH_FILES} files")]
    TooManyFiles,
    /// Something that cannot be applied: submodules, merges, binary changes without their bytes.
    #[error("unsupported patch feature: {text} (line {line})")]
    Unsupported {
        /// Which line, from 1.
        line: usize,
        /// What it says.
        text: String,
    },
    /// A file's header that does not fit together.
    #[error("invalid patch header: {text} (line {line})")]
    Header {
        /// Which line, from 1.
        line: usize,
        /// What it says.
        text: String,
    },
    /// A `---` without its partner.
    #[error("patch is missing '+++' header after line {line}: {text}")]
    MissingNew {
        /// Which line, from 1.
        line: usize,
        /// What it says.
        text: String,
    },
    /// A path that is not below the workspace.
    #[error("patch must target a workspace path: {path}: {reason} (line {line})")]
    Path {
        /// Which line, from 1.
        line: usize,
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A line that starts a hunk wrongly.
    #[error("invalid patch hunk header: {text} (line {line})")]
    HunkHeader {
        /// Which line, from 1.
        line: usize,
        /// What it says.
        text: String,
    },
    /// A line within a hunk that cannot stand there.
    #[error("invalid patch hunk line: {text} (line {line})")]
    HunkLine {
        /// Which line, from 1.
        line: usize,
        /// What it says.
        text: String,
    },
    /// A hunk that is longer or shorter than it says.
    #[error("patch hunk line counts do not match the header: {text} (line {line})")]
    HunkCounts {
        /// The line where it shows, from 1.
        line: usize,
        /// What it says.
        text: String,
    },
    /// A binary part that cannot be decoded.
    #[error("invalid binary patch: {text} (line {line})")]
    Binary {
        /// Which line, from 1.
        line: usize,
        /// What it says, or what is wrong.
        text: String,
    },
    /// A header that announces changes which do not follow.
    #[error("patch for {path} has no hunks (line {line})")]
    NoHunks {
        /// Which line, from 1.
        line: usize,
        /// The path.
        path: String,
    },
    /// Text without a change in it.
    #[error("patch must contain at least one file change")]
    NoChanges,
    /// One path changed twice.
    #[error("patch contains duplicate file entries for {path}")]
    Duplicate {
        /// The path.
        path: String,
    },
}

/// Reads a patch.
///
/// # Errors
///
/// Whatever is not a patch of files below the workspace, with the line that shows it.
pub fn parse(text: &[u8]) -> Result<Patch, ParseError> {
    if text.len() > MAX_PATCH_BYTES {
        return Err(ParseError::TooLarge { bytes: text.len() });
    }
    if text.iter().all(u8::is_ascii_whitespace) {
        return Err(ParseError::Empty);
    }
    let mut cursor = Cursor::new(text);
    let mut files: Vec<FilePatch> = Vec::new();
    let mut seen = Seen::default();
    let mut inflated = 0;
    while let Some(line) = cursor.peek() {
        let file = if line.starts_with(b"diff --git ") {
            header::parse_git(&mut cursor, &mut inflated)?
        } else if starts_traditional(&cursor, line)? {
            traditional::parse_traditional(&mut cursor)?
        } else {
            cursor.next();
            continue;
        };
        if files.len() == MAX_PATCH_FILES {
            return Err(ParseError::TooManyFiles);
        }
        seen.add(&file)?;
        files.push(file);
    }
    if files.is_empty() {
        return Err(ParseError::NoChanges);
    }
    Ok(Patch { files })
}

/// Runs the parser, and the application of what it accepts, on any bytes; for fuzzing.
pub fn fuzz_patch(bytes: &[u8]) {
    let (old, text) = match bytes.iter().position(|byte| *byte == 0) {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (&[][..], bytes),
    };
    if let Ok(patch) = parse(text) {
        for file in &patch.files {
            check_path(&file.path).expect("accepted paths are below the tree");
        }
        let side = crate::Side { kind: crate::SideKind::File, mode: 0o644, content: old.to_vec() };
        let _ = crate::plan(&patch, |_| Some(side.clone()));
        let _ = crate::plan(&patch, |_| None);
    }
}

/// Whether a `---`/`+++` pair stands here; lines that only a patch has, out of place, are errors.
fn starts_traditional(cursor: &Cursor<'_>, line: &[u8]) -> Result<bool, ParseError> {
    let at = |offset| cursor.peek_at(offset).unwrap_or_default();
    if line.starts_with(b"--- ") {
        if at(1).starts_with(b"+++ ") {
            return Ok(true);
        }
        if at(1).starts_with(b"@@ -") {
            return Err(ParseError::MissingNew { line: cursor.line(), text: excerpt(line) });
        }
        return Ok(false);
    }
    if line.starts_with(b"@@ -") && line[4..].first().is_some_and(u8::is_ascii_digit) {
        return Err(ParseError::Header { line: cursor.line(), text: excerpt(line) });
    }
    let merge = line.starts_with(b"diff --cc ") || line.starts_with(b"diff --combined ");
    let differ = line.starts_with(b"Binary files ") && line.trim_ascii_end().ends_with(b" differ");
    if merge || differ {
        return Err(ParseError::Unsupported { line: cursor.line(), text: excerpt(line) });
    }
    Ok(false)
}

/// Which paths a patch has come by.
#[derive(Default)]
struct Seen {
    written: BTreeSet<Vec<u8>>,
    removed: BTreeSet<Vec<u8>>,
    modified: BTreeSet<Vec<u8>>,
}

impl Seen {
    fn add(&mut self, file: &FilePatch) -> Result<(), ParseError> {
        let path = &file.path;
        let fresh = match &file.operation {
            Operation::Add | Operation::Copy { .. } => self.written.insert(path.clone()),
            Operation::Modify => {
                self.modified.insert(path.clone());
                !self.removed.contains(path) && self.written.insert(path.clone())
            }
            Operation::Delete => !self.written.contains(path) && self.removed.insert(path.clone()),
            Operation::Rename { from } => {
                if self.modified.contains(from) || !self.removed.insert(from.clone()) {
                    return Err(ParseError::Duplicate { path: shown(from) });
                }
                self.written.insert(path.clone())
            }
        };
        if fresh { Ok(()) } else { Err(ParseError::Duplicate { path: shown(path) }) }
    }
}

fn checked(path: Vec<u8>, line: usize) -> Result<Vec<u8>, ParseError> {
    match check_path(&path) {
        Ok(()) => Ok(path),
        Err(reason) => {
            let path = excerpt(&path);
            Err(ParseError::Path { line, path, reason })
        }
    }
}

/// A line as an error shows it: without its end, and not too long.
fn excerpt(line: &[u8]) -> String {
    const MOST: usize = 120;
    let line = line.trim_ascii_end();
    if line.len() <= MOST {
        return shown(line);
    }
    format!("{}...", shown(&line[..MOST]))
}

#[cfg(test)]
mod tests;
