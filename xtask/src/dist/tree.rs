//! What an installation consists of, below its prefix: the same files in every form of distribution.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};

/// Files by their path below the prefix, such as `bin/pyro`.
#[derive(Debug, Default)]
pub(super) struct Tree(BTreeMap<String, File>);

/// One file. Nothing else of it is kept: no owner, no time.
#[derive(Debug)]
pub(super) struct File {
    pub(super) mode: u32,
    pub(super) contents: Vec<u8>,
}

impl Tree {
    /// A file that is read.
    pub(super) fn add(&mut self, path: impl Into<String>, contents: impl Into<Vec<u8>>) {
        self.0.insert(path.into(), File { mode: 0o644, contents: contents.into() });
    }

    /// A file that is run.
    pub(super) fn add_program(&mut self, path: impl Into<String>, contents: impl Into<Vec<u8>>) {
        self.0.insert(path.into(), File { mode: 0o755, contents: contents.into() });
    }

    /// The contents of a file of this machine, to be read.
    pub(super) fn add_copy(&mut self, path: impl Into<String>, from: &Path) -> Result<()> {
        self.add(path, std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?);
        Ok(())
    }

    /// Every file, sorted by path.
    pub(super) fn files(&self) -> impl Iterator<Item = (&str, &File)> {
        self.0.iter().map(|(path, file)| (path.as_str(), file))
    }

    /// Every directory that a file needs, each after the one it is in.
    pub(super) fn directories(&self) -> BTreeSet<&str> {
        let above = |path| std::iter::successors(parent(path), |directory| parent(directory));
        self.0.keys().flat_map(|path| above(path.as_str())).collect()
    }

    /// Bytes of all files.
    pub(super) fn len_bytes(&self) -> u64 {
        self.0.values().map(|file| file.contents.len() as u64).sum()
    }
}

fn parent(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(directory, _)| directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_directory_comes_once_and_after_its_parent() {
        let mut tree = Tree::default();
        tree.add("share/pyro/guest/vmlinux", "kernel");
        tree.add_program("bin/pyro", "x");
        tree.add("share/pyro/guest/manifest.json", "{}");
        let directories: Vec<&str> = tree.directories().into_iter().collect();
        assert_eq!(directories, ["bin", "share", "share/pyro", "share/pyro/guest"]);
        assert_eq!(tree.len_bytes(), 9);
    }
}
