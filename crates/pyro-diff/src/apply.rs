//! One file's patch, applied to its content.

use crate::binary::apply_delta;
use crate::emit::blob_name;
use crate::limits::{MAX_PATCHED_BYTES, MAX_SEARCH_STEPS};
use crate::name::shown;
use crate::patch::{Binary, Body, FilePatch, Hunk, Mark, Operation};

/// Why a patch does not apply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The path to be added is taken.
    #[error("workspace patch cannot add an existing path: {path}")]
    Exists {
        /// The path.
        path: String,
    },
    /// There is nothing to change.
    #[error("workspace patch cannot modify a missing path: {path}")]
    Missing {
        /// The path.
        path: String,
    },
    /// A directory, device, pipe or socket is there.
    #[error("workspace patch only supports regular files and symbolic links: {path}")]
    NotRegular {
        /// The path.
        path: String,
    },
    /// A link where the patch has a file, or the reverse.
    #[error("workspace patch expects {expected} at {path}, but there is {found}")]
    WrongType {
        /// The path.
        path: String,
        /// What the patch was made from.
        expected: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// Lines are not those the patch was made from.
    #[error(
        "patch context does not match for {path}: hunk {hunk} expects {expected} at line {line}, found {found}"
    )]
    Context {
        /// The path.
        path: String,
        /// Which hunk, from 1.
        hunk: usize,
        /// Which line of the present content, from 1.
        line: usize,
        /// What the patch has there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A hunk beyond the end of the file.
    #[error("patch hunk is out of range for {path}: hunk {hunk} starts at line {line} of {lines}")]
    OutOfRange {
        /// The path.
        path: String,
        /// Which hunk, from 1.
        hunk: usize,
        /// Where it would start, from 1.
        line: usize,
        /// How many lines there are.
        lines: usize,
    },
    /// Too many lines are alike to find a hunk's place.
    #[error("patch hunk {hunk} for {path} cannot be placed: too many lines are alike")]
    Search {
        /// The path.
        path: String,
        /// Which hunk, from 1.
        hunk: usize,
    },
    /// The old content is not what a binary patch was made from, or the new one is not what it promised.
    #[error("binary patch does not match the content of {path}")]
    Binary {
        /// The path.
        path: String,
    },
    /// Content is left of a file that should go.
    #[error("delete patch did not remove all content for {path}")]
    NotEmptied {
        /// The path.
        path: String,
    },
    /// The file is, or would be, too large.
    #[error("patched file {path} exceeds the maximum supported size of {MAX_PATCHED_BYTES} bytes")]
    TooLarge {
        /// The path.
        path: String,
    },
    /// A link's new target cannot be one.
    #[error("workspace patch gives {path} an impossible link target")]
    Target {
        /// The path.
        path: String,
    },
    /// One change needs a directory where another puts a file.
    #[error("workspace patch needs {path} as a file and as a directory")]
    Collision {
        /// The path.
        path: String,
    },
}

/// The content that `file` makes of `old`; `None` is an absent file.
///
/// Each hunk must match exactly, at its stated line or at the nearest place, as with `git apply`: a hunk that
/// starts at line 1 must match at the start, one without lines of context at its end must match at the end.
/// A deletion gives an empty content.
///
/// # Errors
///
/// The first hunk that has no place, and the line that stands in its way.
pub fn apply(file: &FilePatch, old: Option<&[u8]>) -> Result<Vec<u8>, ApplyError> {
    let path = || shown(&file.path);
    let content = old.unwrap_or_default();
    if content.len() > MAX_PATCHED_BYTES {
        return Err(ApplyError::TooLarge { path: path() });
    }
    let new = match &file.body {
        Body::None => content.to_vec(),
        Body::Binary(binary) => apply_binary(file, binary, old)?,
        Body::Text(hunks) => {
            let mut placer = Placer::new(content);
            for (index, hunk) in hunks.iter().enumerate() {
                placer.apply(hunk, index + 1, &file.path)?;
            }
            placer.finish()
        }
    };
    if new.len() > MAX_PATCHED_BYTES {
        return Err(ApplyError::TooLarge { path: path() });
    }
    if file.operation == Operation::Delete && !new.is_empty() {
        return Err(ApplyError::NotEmptied { path: path() });
    }
    Ok(new)
}

fn apply_binary(file: &FilePatch, binary: &Binary, old: Option<&[u8]>) -> Result<Vec<u8>, ApplyError> {
    let wrong = || ApplyError::Binary { path: shown(&file.path) };
    let absent = |id: &str| id.bytes().all(|digit| digit == b'0');
    let content = old.unwrap_or_default();
    if let Some((before, _)) = &file.ids {
        let same = if absent(before) { content.is_empty() } else { blob_name(content) == *before };
        if !same {
            return Err(wrong());
        }
    }
    let new = match binary {
        Binary::Literal(new) => new.clone(),
        // A delta on other content would give rubbish without a sign, so the names must tell.
        Binary::Delta(_) if file.ids.is_none() => return Err(wrong()),
        Binary::Delta(delta) => apply_delta(content, delta, MAX_PATCHED_BYTES).ok_or_else(wrong)?,
    };
    match &file.ids {
        Some((_, after)) if !absent(after) && blob_name(&new) != *after => Err(wrong()),
        _ => Ok(new),
    }
}

/// The old content, of which the lines before `cursor` have their place in `new`.
struct Placer<'a> {
    old: &'a [u8],
    /// Where each line starts, and the end.
    starts: Vec<u32>,
    cursor: usize,
    /// By how many lines the new text is longer so far.
    grown: i64,
    steps: u64,
    new: Vec<u8>,
}

/// Lines that a hunk needs to find, and where it may.
struct Wanted<'a> {
    lines: Vec<&'a [u8]>,
    guess: usize,
    at_start: bool,
    at_end: bool,
    /// No other place than the guess: nothing around the hunk says where it belongs.
    fixed: bool,
}

impl<'a> Placer<'a> {
    fn new(old: &'a [u8]) -> Self {
        let offset = |at: usize| u32::try_from(at).expect("contents are bounded");
        let mut starts = vec![0];
        let mut at = 0;
        for line in crate::lines::lines(old) {
            at += line.len();
            starts.push(offset(at));
        }
        Self { old, starts, cursor: 0, grown: 0, steps: 0, new: Vec::new() }
    }

    fn count(&self) -> usize {
        self.starts.len() - 1
    }

    fn line(&self, index: usize) -> &'a [u8] {
        &self.old[self.starts[index] as usize..self.starts[index + 1] as usize]
    }

    fn apply(&mut self, hunk: &Hunk, number: usize, path: &[u8]) -> Result<(), ApplyError> {
        let wanted = self.wanted(hunk);
        let place = match self.find(&wanted) {
            Ok(Some(place)) => place,
            Ok(None) => return Err(self.explain(&wanted, number, path)),
            Err(TooMuch) => return Err(ApplyError::Search { path: shown(path), hunk: number }),
        };
        self.copy_until(place);
        for (mark, line) in hunk.lines() {
            if mark != Mark::Remove {
                self.new.extend_from_slice(line);
            }
        }
        self.cursor = place + wanted.lines.len();
        let (old, new) = (i64::try_from(hunk.old_count), i64::try_from(hunk.new_count));
        self.grown += new.unwrap_or(0) - old.unwrap_or(0);
        Ok(())
    }

    fn wanted<'h>(&self, hunk: &'h Hunk) -> Wanted<'h> {
        let (mut leading, mut trailing) = (0, 0);
        let mut changed = false;
        let mut lines = Vec::with_capacity(hunk.old_count);
        for (mark, line) in hunk.lines() {
            if mark != Mark::Add {
                lines.push(line);
            }
            if mark == Mark::Context {
                trailing += 1;
                leading += usize::from(!changed);
            } else {
                changed = true;
                trailing = 0;
            }
        }
        let insertion = lines.is_empty() && hunk.old_start > 0;
        let fixed = leading == 0 && trailing == 0 && (insertion || hunk.old_start > 1);
        let stated = i64::try_from(hunk.new_start.saturating_sub(1)).unwrap_or(i64::MAX) - self.grown;
        let guess = if fixed {
            hunk.old_start - usize::from(!insertion)
        } else {
            usize::try_from(stated).unwrap_or(0)
        };
        Wanted {
            lines,
            guess,
            at_start: !fixed && hunk.old_start <= 1,
            at_end: !fixed && trailing == 0,
            fixed,
        }
    }

    /// The place nearest to the guess, later ones first.
    fn find(&mut self, wanted: &Wanted<'_>) -> Result<Option<usize>, TooMuch> {
        let Some(last) = self.count().checked_sub(wanted.lines.len()).filter(|last| *last >= self.cursor)
        else {
            return Ok(None);
        };
        let only = match (wanted.fixed, wanted.at_start, wanted.at_end) {
            (true, _, _) => Some(wanted.guess),
            (_, true, true) if last != 0 => return Ok(None),
            (_, true, _) => Some(0),
            (_, _, true) => Some(last),
            _ => None,
        };
        if let Some(place) = only {
            let possible = (self.cursor..=last).contains(&place);
            return Ok((possible && self.matches(wanted, place)?).then_some(place));
        }
        let guess = wanted.guess.clamp(self.cursor, last);
        for distance in 0..=last - self.cursor {
            let later = guess.checked_add(distance).filter(|place| *place <= last);
            let earlier = guess.checked_sub(distance).filter(|place| *place >= self.cursor && distance > 0);
            if later.is_none() && earlier.is_none() {
                break;
            }
            for place in [later, earlier].into_iter().flatten() {
                if self.matches(wanted, place)? {
                    return Ok(Some(place));
                }
            }
        }
        Ok(None)
    }

    fn matches(&mut self, wanted: &Wanted<'_>, place: usize) -> Result<bool, TooMuch> {
        self.steps += 1;
        for (offset, line) in wanted.lines.iter().enumerate() {
            let present = self.line(place + offset);
            self.steps += 1 + if present.len() == line.len() { line.len() as u64 / 16 } else { 0 };
            if self.steps > MAX_SEARCH_STEPS {
                return Err(TooMuch);
            }
            if present != *line {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn explain(&self, wanted: &Wanted<'_>, hunk: usize, path: &[u8]) -> ApplyError {
        let path = shown(path);
        let lines = self.count();
        if wanted.guess > lines {
            return ApplyError::OutOfRange { path, hunk, line: wanted.guess + 1, lines };
        }
        let start = if wanted.at_start { 0 } else { wanted.guess.max(self.cursor) };
        let present = |index: usize| (index < lines).then(|| self.line(index));
        let differing =
            wanted.lines.iter().enumerate().find(|(offset, line)| present(start + offset) != Some(**line));
        let (at, expected) = match differing {
            Some((offset, line)) => (start + offset, Some(*line)),
            None => (start + wanted.lines.len(), None),
        };
        let quoted = |line: Option<&[u8]>| line.map_or_else(|| "the end of the file".to_owned(), quote_line);
        ApplyError::Context {
            path,
            hunk,
            line: at + 1,
            expected: quoted(expected),
            found: quoted(present(at)),
        }
    }

    fn copy_until(&mut self, place: usize) {
        self.new.extend_from_slice(&self.old[self.starts[self.cursor] as usize..self.starts[place] as usize]);
    }

    fn finish(mut self) -> Vec<u8> {
        self.copy_until(self.count());
        self.new
    }
}

/// The search for a hunk's place costs more than it may.
struct TooMuch;

fn quote_line(line: &[u8]) -> String {
    const MOST: usize = 80;
    let (text, end) = match line.strip_suffix(b"\n") {
        Some(text) => (text, ""),
        None => (line, " without a newline"),
    };
    let cut = if text.len() > MOST { "..." } else { "" };
    format!("\"{}{cut}\"{end}", shown(&text[..text.len().min(MOST)]))
}

#[cfg(test)]
mod tests;
