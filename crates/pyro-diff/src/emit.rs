//! Changes as a patch that `git apply` takes.

use sha1::{Digest, Sha1};

use crate::binary::put_literal;
use crate::entry::{Side, SideKind};
use crate::limits::{MAX_BINARY_BYTES, MAX_TEXT_BYTES};
use crate::lines;
use crate::name::quote;

/// How much of a change is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmitLimits {
    /// Larger files are not compared by lines.
    pub text_bytes: usize,
    /// Larger contents are only told to differ.
    pub binary_bytes: usize,
}

impl Default for EmitLimits {
    fn default() -> Self {
        Self { text_bytes: MAX_TEXT_BYTES, binary_bytes: MAX_BINARY_BYTES }
    }
}

/// What a patch says about one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nothing: no patch can tell the difference, or there is none.
    Nothing,
    /// All of it, as text: lines, a new mode, an empty file.
    Text,
    /// All of it, as a binary patch.
    Binary,
    /// Only that contents differ; such a patch does not apply.
    Differs,
}

/// Appends the change of `path` from `old` to `new` to `out`.
///
/// A file that became a link, or the reverse, is deleted and added. Sides of [`SideKind::Other`] are taken
/// as absent. The patch applies exactly unless the answer is [`Told::Differs`].
pub fn emit(
    path: &[u8],
    old: Option<&Side>,
    new: Option<&Side>,
    limits: &EmitLimits,
    out: &mut Vec<u8>,
) -> Told {
    let old = old.filter(|side| side.kind != SideKind::Other);
    let new = new.filter(|side| side.kind != SideKind::Other);
    match (old, new) {
        (Some(before), Some(after)) if before.kind != after.kind => {
            let deleted = emit_one(path, old, None, limits, out);
            let added = emit_one(path, None, new, limits, out);
            worse(deleted, added)
        }
        _ => emit_one(path, old, new, limits, out),
    }
}

/// Appends that `path` differs without its content, which is too large or was not fetched. The arguments are the
/// modes of the sides that exist, type included (`0o100644`).
pub fn emit_omitted(path: &[u8], old_mode: Option<u32>, new_mode: Option<u32>, out: &mut Vec<u8>) -> Told {
    let (old, new) = (old_mode.map(file_mode), new_mode.map(file_mode));
    if old.is_none() && new.is_none() {
        return Told::Nothing;
    }
    put_header(path, old, new, out);
    put_differs(path, old.is_some(), new.is_some(), out);
    Told::Differs
}

fn worse(one: Told, other: Told) -> Told {
    let rank = |told| match told {
        Told::Nothing => 0,
        Told::Text => 1,
        Told::Binary => 2,
        Told::Differs => 3,
    };
    if rank(one) >= rank(other) { one } else { other }
}

fn emit_one(
    path: &[u8],
    old: Option<&Side>,
    new: Option<&Side>,
    limits: &EmitLimits,
    out: &mut Vec<u8>,
) -> Told {
    let (old_mode, new_mode) = (old.map(side_mode), new.map(side_mode));
    let before = old.map_or(&[][..], |side| &side.content);
    let after = new.map_or(&[][..], |side| &side.content);
    let same_content = old.is_some() == new.is_some() && before == after;
    if same_content && old_mode == new_mode {
        return Told::Nothing;
    }
    put_header(path, old_mode, new_mode, out);
    if same_content {
        return Told::Text;
    }
    let largest = before.len().max(after.len());
    if largest > limits.binary_bytes {
        put_differs(path, old.is_some(), new.is_some(), out);
        return Told::Differs;
    }
    let (old_id, new_id) = (old.map(|_| blob_id(before)), new.map(|_| blob_id(after)));
    let binary = largest > limits.text_bytes || before.contains(&0) || after.contains(&0);
    put_index(old_id, new_id, old_mode.filter(|mode| Some(*mode) == new_mode), binary, out);
    if binary {
        out.extend_from_slice(b"GIT binary patch\n");
        put_literal(after, out);
        put_literal(before, out);
        return Told::Binary;
    }
    if before != after {
        put_labels(path, old.is_some(), new.is_some(), out);
        lines::put_hunks(before, after, out);
    }
    Told::Text
}

fn side_mode(side: &Side) -> u32 {
    match side.kind {
        SideKind::Symlink => 0o120_000,
        SideKind::File | SideKind::Other => file_mode(0o100_000 | side.mode),
    }
}

/// The modes that git knows: of a link, of a program, of a file.
fn file_mode(mode: u32) -> u32 {
    match (mode & 0o170_000, mode & 0o100) {
        (0o120_000, _) => 0o120_000,
        (_, 0) => 0o100_644,
        _ => 0o100_755,
    }
}

fn put_header(path: &[u8], old: Option<u32>, new: Option<u32>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"diff --git ");
    out.extend_from_slice(&quote("a/", path));
    out.push(b' ');
    out.extend_from_slice(&quote("b/", path));
    out.push(b'\n');
    let modes = match (old, new) {
        (None, Some(mode)) => format!("new file mode {mode:06o}\n"),
        (Some(mode), None) => format!("deleted file mode {mode:06o}\n"),
        (Some(old), Some(new)) if old != new => format!("old mode {old:06o}\nnew mode {new:06o}\n"),
        _ => String::new(),
    };
    out.extend_from_slice(modes.as_bytes());
}

fn put_index(old: Option<[u8; 20]>, new: Option<[u8; 20]>, mode: Option<u32>, full: bool, out: &mut Vec<u8>) {
    let shown = |id: Option<[u8; 20]>| {
        let mut text: String = id.unwrap_or_default().iter().map(|byte| format!("{byte:02x}")).collect();
        text.truncate(if full { 40 } else { 7 });
        text
    };
    let mode = mode.map(|mode| format!(" {mode:06o}")).unwrap_or_default();
    out.extend_from_slice(format!("index {}..{}{mode}\n", shown(old), shown(new)).as_bytes());
}

fn put_labels(path: &[u8], old: bool, new: bool, out: &mut Vec<u8>) {
    for (mark, prefix, present) in [("--- ", "a/", old), ("+++ ", "b/", new)] {
        out.extend_from_slice(mark.as_bytes());
        if present {
            let name = quote(prefix, path);
            out.extend_from_slice(&name);
            // As git does: what follows a tab is no part of a name, so a name's own blanks end there.
            if !name.starts_with(b"\"") && name.contains(&b' ') {
                out.push(b'\t');
            }
        } else {
            out.extend_from_slice(b"/dev/null");
        }
        out.push(b'\n');
    }
}

fn put_differs(path: &[u8], old: bool, new: bool, out: &mut Vec<u8>) {
    let name = |prefix, present| {
        if present { quote(prefix, path).into_owned() } else { b"/dev/null".to_vec() }
    };
    out.extend_from_slice(b"Binary files ");
    out.extend_from_slice(&name("a/", old));
    out.extend_from_slice(b" and ");
    out.extend_from_slice(&name("b/", new));
    out.extend_from_slice(b" differ\n");
}

/// The name that git gives to these bytes, as text.
pub(crate) fn blob_name(content: &[u8]) -> String {
    blob_id(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name that git gives to these bytes; `git apply` checks it before and after a binary patch.
fn blob_id(content: &[u8]) -> [u8; 20] {
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", content.len()).as_bytes());
    hash.update(content);
    hash.finalize().into()
}

#[cfg(test)]
mod tests;
