//! Trees of the host that workspaces begin with or take.

use std::path::Path;

use anyhow::{Context, Result};

/// Files in one directory.
const DIRECTORY_FILES: usize = 100;

/// Writes `count` files of `file_bytes` each, no two with the same content.
pub(super) fn write(root: &Path, count: usize, file_bytes: usize) -> Result<()> {
    let mut content = Content::default();
    for number in 0..count {
        let directory = root.join(format!("d{}", number / DIRECTORY_FILES));
        if number % DIRECTORY_FILES == 0 {
            std::fs::create_dir_all(&directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
        }
        let path = directory.join(format!("f{number}"));
        std::fs::write(&path, content.next(file_bytes))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Bytes that do not compress, the same in every run: a xorshift generator.
struct Content(u64);

impl Default for Content {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Content {
    fn next(&mut self, len_bytes: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len_bytes + size_of::<u64>());
        while bytes.len() < len_bytes {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            bytes.extend(self.0.to_le_bytes());
        }
        bytes.truncate(len_bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_tree_has_as_many_different_files_as_asked_for() {
        let top = tempfile::tempdir().unwrap();
        write(top.path(), 101, 20).unwrap();
        let mut contents = BTreeSet::new();
        let mut files = [0, 0];
        for (at, directory) in ["d0", "d1"].into_iter().enumerate() {
            for file in std::fs::read_dir(top.path().join(directory)).unwrap() {
                let content = std::fs::read(file.unwrap().path()).unwrap();
                assert_eq!(content.len(), 20);
                contents.insert(content);
                files[at] += 1;
            }
        }
        assert_eq!((files, contents.len()), ([100, 1], 101));
    }
}
