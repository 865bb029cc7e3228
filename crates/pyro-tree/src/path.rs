//! Member paths, judged.

use crate::TreeError;
use crate::error::refused;

/// The components joined by single slashes, without `.`; refuses what could lead out.
pub(crate) fn clean(path: &[u8], max_depth: usize) -> Result<Vec<u8>, TreeError> {
    if path.starts_with(b"/") {
        return Err(refused(path, "absolute paths are not accepted"));
    }
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err(refused(path, "paths with `..` are not accepted")),
            name => names.push(name),
        }
    }
    if names.len() > max_depth {
        return Err(refused(path, "directories are nested too deep"));
    }
    Ok(names.join(&b'/'))
}

/// The parent, empty for the root, and the last name.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// Whether a symbolic link at the cleaned `path` cannot lead out of the tree.
///
/// Its own directory is a real one, so leading `..` go to real parents; every later name leads down, or is
/// a link of which the same holds. A `..` after a name could follow such a link and then leave.
pub(crate) fn stays_inside(path: &[u8], target: &[u8]) -> bool {
    if target.is_empty() || target.starts_with(b"/") {
        return false;
    }
    let depth = path.iter().filter(|byte| **byte == b'/').count();
    let mut ups = 0;
    let mut named = false;
    for name in target.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." if named => return false,
            b".." => ups += 1,
            _ => named = true,
        }
    }
    ups <= depth
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_could_lead_out_are_told_from_those_that_cannot() {
        for (path, target, inside) in [
            ("l", "a", true),
            ("l", ".", true),
            ("l", "./a//b/", true),
            ("l", "..", false),
            ("d/l", "..", true),
            ("d/l", "../.", true),
            ("d/l", "../../x", false),
            ("d/e/l", "../../x/y", true),
            ("d/l", "up/../x", false),
            ("d/l", "/etc", false),
            ("d/l", "", false),
        ] {
            assert_eq!(stays_inside(path.as_bytes(), target.as_bytes()), inside, "{path} -> {target}");
        }
    }
}
