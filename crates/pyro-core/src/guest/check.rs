//! What is demanded of paths that a guest tells.

use super::lie;
use crate::exec::AgentError;
use std::cmp::Ordering;

/// Names on one path, as deep as the agent goes.
const MAX_DEPTH: usize = 512;
/// The longest name of any Linux file system.
const MAX_NAME_BYTES: usize = 255;

/// Whether this is a relative path of plain names, which can be joined to a directory without leaving it.
pub(super) fn relative_path(path: &[u8]) -> Result<(), AgentError> {
    let mut depth = 0;
    for name in path.split(|byte| *byte == b'/') {
        depth += 1;
        if matches!(name, b"" | b"." | b"..") || name.len() > MAX_NAME_BYTES || name.contains(&0) {
            return Err(bad_path(path));
        }
    }
    if depth > MAX_DEPTH { Err(bad_path(path)) } else { Ok(()) }
}

fn bad_path(path: &[u8]) -> AgentError {
    let shown = &path[..path.len().min(200)];
    lie(format!("\"{}\" is no path below a directory", shown.escape_ascii()))
}

/// The order of a walk: siblings by their bytes, a directory before what is in it.
pub(super) fn walk_order(a: &[u8], b: &[u8]) -> Ordering {
    let names = |path| <[u8]>::split(path, |byte: &u8| *byte == b'/');
    names(a).cmp(names(b))
}
