//! What the person who starts a server lets its model do to the host.
//!
//! The model is not trusted with the host's paths: what it names must lie below a root, and no symbolic link leads
//! out of one. A path is made canonical first and held against the roots then, so it is judged by where it is.

use crate::tool::refused;
use pyro_core::Problem;
use std::io;
use std::path::{Component, Path, PathBuf};

/// What a server may do beyond its guests.
#[derive(Clone, Debug, Default)]
pub struct Grants {
    roots: Vec<PathBuf>,
    /// Whether the roots that a client names count as well. A client on standard streams was started by the person,
    /// or started this server for them.
    pub client_roots: bool,
    /// Whether guests may be given a network, and environments be pulled that the catalog does not have.
    pub network: bool,
}

/// A root that is none.
#[derive(Debug, thiserror::Error)]
#[error("cannot allow the directory '{}'", .path.display())]
pub struct GrantError {
    path: PathBuf,
    source: io::Error,
}

impl pyro_core::Explain for GrantError {
    fn explain(&self) -> Problem {
        Problem::new("bad_root", pyro_core::Blame::Caller, self)
            .with_hint("--allow-path names directories that are there")
    }
}

impl Grants {
    /// No network, and the host's files below `roots`, which must be directories. The first is where relative paths
    /// begin.
    pub fn new(roots: &[PathBuf]) -> Result<Self, GrantError> {
        let canonical = |path: &PathBuf| {
            let found = path.canonicalize().and_then(|path| match path.is_dir() {
                true => Ok(path),
                false => Err(io::ErrorKind::NotADirectory.into()),
            });
            found.map_err(|source| GrantError { path: path.clone(), source })
        };
        let roots = roots.iter().map(canonical).collect::<Result<_, _>>()?;
        Ok(Self { roots, ..Self::default() })
    }

    /// The directories.
    pub fn roots(&self) -> &[PathBuf] {
        &self.roots
    }

    /// Something of the host that is to be read.
    pub(crate) fn source(&self, text: &str, client_roots: &[PathBuf]) -> Result<PathBuf, Problem> {
        let path = self.absolute(text, client_roots)?;
        let path = path.canonicalize().map_err(|error| unusable(text, &error))?;
        self.check(text, path, client_roots)
    }

    /// Something of the host that is to be written. Of its path only the end may be missing.
    pub(crate) fn output(&self, text: &str, client_roots: &[PathBuf]) -> Result<PathBuf, Problem> {
        let path = self.absolute(text, client_roots)?;
        let name = path.file_name().ok_or_else(|| refused("bad_path", format!("'{text}' names no file")))?;
        let (mut there, mut missing) = (path.parent().unwrap_or(Path::new("/")), vec![name]);
        let there = loop {
            match there.canonicalize() {
                Ok(found) => break found,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // A link that leads nowhere is not missing: what is made there would be elsewhere.
                    if there.symlink_metadata().is_ok() {
                        return Err(unusable(text, &error));
                    }
                    missing.push(there.file_name().ok_or_else(|| unusable(text, &error))?);
                    there = there.parent().unwrap_or(Path::new("/"));
                }
                Err(error) => return Err(unusable(text, &error)),
            }
        };
        if !there.is_dir() {
            return Err(unusable(text, &io::ErrorKind::NotADirectory.into()));
        }
        let there = self.check(text, there, client_roots)?;
        Ok(missing.into_iter().rev().fold(there, |path, name| path.join(name)))
    }

    fn absolute(&self, text: &str, client_roots: &[PathBuf]) -> Result<PathBuf, Problem> {
        if text.is_empty() || text.contains('\0') {
            return Err(refused("bad_path", "a host path must not be empty or have zero bytes"));
        }
        let path = Path::new(text);
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(refused("bad_path", format!("'{text}' must not go up by '..'")));
        }
        if path.is_absolute() {
            return Ok(path.to_owned());
        }
        match self.roots.first().or(client_roots.first()) {
            Some(root) => Ok(root.join(path)),
            None => Err(self.outside(text, client_roots)),
        }
    }

    fn check(&self, text: &str, path: PathBuf, client_roots: &[PathBuf]) -> Result<PathBuf, Problem> {
        match self.roots.iter().chain(client_roots).any(|root| path.starts_with(root)) {
            true => Ok(path),
            false => Err(self.outside(text, client_roots)),
        }
    }

    fn outside(&self, text: &str, client_roots: &[PathBuf]) -> Problem {
        let all: Vec<String> =
            self.roots.iter().chain(client_roots).map(|root| root.display().to_string()).collect();
        let allowed = if all.is_empty() { "no directory is".to_owned() } else { all.join(", ") };
        refused("path_not_allowed", format!("the host path '{text}' is not below an allowed directory"))
            .with_hint(format!("allowed: {allowed}; the person who starts the server adds --allow-path"))
    }
}

fn unusable(text: &str, error: &io::Error) -> Problem {
    refused("bad_path", format!("cannot use the host path '{text}': {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    struct Tree {
        dir: tempfile::TempDir,
        grants: Grants,
    }

    /// `root` is allowed; `outside` is beside it.
    fn tree() -> Tree {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("root/sub")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/secret"), "s").unwrap();
        fs::write(dir.path().join("root/file"), "f").unwrap();
        symlink("../outside", dir.path().join("root/out")).unwrap();
        symlink("nowhere", dir.path().join("root/dangling")).unwrap();
        symlink("sub", dir.path().join("root/in")).unwrap();
        let grants = Grants::new(&[dir.path().join("root")]).unwrap();
        Tree { dir, grants }
    }

    fn code<T: std::fmt::Debug>(result: Result<T, Problem>) -> String {
        result.unwrap_err().code.into_owned()
    }

    #[test]
    fn sources_are_below_a_root_by_where_they_really_are() {
        let Tree { dir, grants } = tree();
        let root = dir.path().canonicalize().unwrap().join("root");
        assert_eq!(grants.source("file", &[]).unwrap(), root.join("file"));
        assert_eq!(grants.source("in", &[]).unwrap(), root.join("sub"));
        assert_eq!(grants.source(root.to_str().unwrap(), &[]).unwrap(), root);
        for path in ["out/secret", "out", "/etc/passwd", "/"] {
            assert_eq!(code(grants.source(path, &[])), "path_not_allowed", "{path}");
        }
        for path in ["missing", "dangling", "", "../outside/secret", "sub/../../outside/secret", "a\0b"] {
            assert_eq!(code(grants.source(path, &[])), "bad_path", "{path}");
        }
    }

    #[test]
    fn outputs_are_made_below_a_root_only() {
        let Tree { dir, grants } = tree();
        let root = dir.path().canonicalize().unwrap().join("root");
        assert_eq!(grants.output("new/deep/file", &[]).unwrap(), root.join("new/deep/file"));
        assert_eq!(grants.output("in/file", &[]).unwrap(), root.join("sub/file"));
        // What is at the end is not followed: it is in the way, or replaced as a link.
        assert_eq!(grants.output("out", &[]).unwrap(), root.join("out"));
        for path in ["out/file", "out/new/file", "/tmp/elsewhere"] {
            assert_eq!(code(grants.output(path, &[])), "path_not_allowed", "{path}");
        }
        for path in ["dangling/file", "file/below", "../x", "/", ""] {
            assert_eq!(code(grants.output(path, &[])), "bad_path", "{path}");
        }
    }

    #[test]
    fn a_client_adds_roots_of_its_own_and_a_name_that_begins_alike_is_no_root() {
        let Tree { dir, grants } = tree();
        let outside = dir.path().canonicalize().unwrap().join("outside");
        let secret = outside.join("secret");
        assert_eq!(grants.source(secret.to_str().unwrap(), std::slice::from_ref(&outside)).unwrap(), secret);
        fs::create_dir(dir.path().join("root-too")).unwrap();
        let alike = dir.path().join("root-too");
        assert_eq!(code(grants.source(alike.to_str().unwrap(), &[])), "path_not_allowed");
        assert_eq!(code(Grants::default().source("file", &[])), "path_not_allowed");
        assert!(Grants::new(&[dir.path().join("root/file")]).is_err());
    }
}
