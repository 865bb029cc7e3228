//! Claimed paths to paths within the tree.

use super::FlattenError;
use crate::limits::{NAME_BYTES, PATH_BYTES};
use crate::tarball::shown;

/// A path below the root: components without `.`, `..`, or empty ones. No components is the root.
pub(super) fn parse(claimed: &[u8]) -> Result<String, FlattenError> {
    let unsafe_path = |why| FlattenError::Path { path: shown(claimed), why };
    if claimed.is_empty() {
        return Err(unsafe_path("it is empty"));
    }
    if claimed.len() > PATH_BYTES {
        return Err(unsafe_path("it is longer than 4095 bytes"));
    }
    if claimed[0] == b'/' {
        return Err(unsafe_path("it is absolute"));
    }
    if claimed.contains(&0) {
        return Err(unsafe_path("it contains a NUL byte"));
    }
    let text = std::str::from_utf8(claimed).map_err(|_| FlattenError::NotUtf8 { path: shown(claimed) })?;
    let mut path = String::with_capacity(text.len());
    for component in text.split('/') {
        match component {
            "" | "." => continue,
            ".." => return Err(unsafe_path("it contains `..`")),
            name if name.len() > NAME_BYTES => return Err(unsafe_path("a name is longer than 255 bytes")),
            name => {
                if !path.is_empty() {
                    path.push('/');
                }
                path.push_str(name);
            }
        }
    }
    Ok(path)
}
