//! Contents that a caller hands over: a file of the host, or standard input.

use super::arguments::ArgumentError;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The most that one write or one patch holds in memory; larger things are copied with `sync push`.
const CONTENT_BYTES: u64 = 64 << 20;

/// The content of the file that `option` names.
pub(super) fn file(option: &'static str, path: &Path) -> Result<Vec<u8>, ArgumentError> {
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => ArgumentError::NoFile { option, path: path.to_owned() },
        _ => ArgumentError::Unreadable { option, source },
    };
    let file = File::open(path).map_err(unreadable)?;
    if file.metadata().map_err(unreadable)?.is_dir() {
        return Err(ArgumentError::NotAFile { option, path: path.to_owned() });
    }
    bounded(option, file, CONTENT_BYTES)
}

/// All of standard input.
pub(super) fn stdin() -> Result<Vec<u8>, ArgumentError> {
    bounded("--stdin", io::stdin().lock(), CONTENT_BYTES)
}

fn bounded(option: &'static str, from: impl Read, most: u64) -> Result<Vec<u8>, ArgumentError> {
    let mut content = Vec::new();
    from.take(most + 1)
        .read_to_end(&mut content)
        .map_err(|source| ArgumentError::Unreadable { option, source })?;
    if content.len() as u64 > most {
        return Err(ArgumentError::TooLarge { option, most });
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_taken_byte_for_byte() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, [0xff, 0, b'\n']).unwrap();
        assert_eq!(file("--text-file", &path).unwrap(), [0xff, 0, b'\n']);
    }

    #[test]
    fn what_is_no_file_is_told_by_its_option() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        let told = |path: &Path| file("--text-file", path).unwrap_err().to_string();
        assert_eq!(told(&missing), format!("--text-file file not found: {}", missing.display()));
        let text = format!("--text-file must point to a file, not a directory: {}", dir.path().display());
        assert_eq!(told(dir.path()), text);
    }

    #[test]
    fn content_beyond_the_bound_is_refused() {
        assert_eq!(bounded("--stdin", &b"1234"[..], 4).unwrap(), b"1234");
        let error = bounded("--stdin", &b"12345"[..], 4).unwrap_err();
        assert_eq!(error.to_string(), "--stdin must be at most 4 bytes");
    }
}
