//! Everything that a directory tree holds, read without the code under test, to compare it bit for bit.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs::{self, File, Metadata};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

/// A tree by its paths, each relative to the root; the root's own is empty.
pub(crate) type Tree = BTreeMap<Vec<u8>, Node>;

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) content: Content,
    pub(crate) mode: u32,
    /// Seconds and nanoseconds.
    pub(crate) mtime: (i64, i64),
    /// The first path of the same inode, where it has several names in this tree.
    pub(crate) same_as: Option<Vec<u8>>,
    pub(crate) attributes: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Content {
    Directory,
    /// All bytes, and where there are holes between them.
    File {
        bytes: Vec<u8>,
        data: Vec<(u64, u64)>,
    },
    Symlink(Vec<u8>),
    Other,
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory => f.write_str("directory"),
            Self::File { bytes, data } => {
                let start = &bytes[..bytes.len().min(40)];
                write!(f, "file of {} bytes, data {data:?}, \"{}\"", bytes.len(), start.escape_ascii())
            }
            Self::Symlink(target) => write!(f, "link to \"{}\"", target.escape_ascii()),
            Self::Other => f.write_str("something else"),
        }
    }
}

/// Reads all of `root`. Directories that forbid their owner to look in are looked into by root alone.
pub(crate) fn read(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut first_names = BTreeMap::new();
    add(root, Vec::new(), &mut tree, &mut first_names);
    tree
}

fn add(path: &Path, name: Vec<u8>, tree: &mut Tree, first_names: &mut BTreeMap<(u64, u64), Vec<u8>>) {
    let metadata = path.symlink_metadata().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let kind = metadata.file_type();
    let content = if kind.is_dir() {
        Content::Directory
    } else if kind.is_symlink() {
        Content::Symlink(fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec())
    } else if kind.is_file() {
        file(path, &metadata)
    } else {
        assert!(kind.is_fifo() || kind.is_socket(), "{}", path.display());
        Content::Other
    };
    let mut same_as = None;
    if !kind.is_dir() && metadata.nlink() > 1 {
        let first = first_names.entry((metadata.dev(), metadata.ino())).or_insert_with(|| name.clone());
        same_as = Some(first.clone());
    }
    let node = Node {
        content,
        mode: metadata.permissions().mode() & 0o7777,
        mtime: (metadata.mtime(), metadata.mtime_nsec()),
        same_as,
        attributes: attributes(path),
    };
    tree.insert(name.clone(), node);
    if kind.is_dir() {
        let mut below: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        below.sort();
        for entry in below {
            let separator: &[u8] = if name.is_empty() { b"" } else { b"/" };
            let name = [&name, separator, entry.as_bytes()].concat();
            add(&path.join(&entry), name, tree, first_names);
        }
    }
}

fn file(path: &Path, metadata: &Metadata) -> Content {
    use rustix::fs::SeekFrom;
    // Its owner may be forbidden to read it; then only that can be compared.
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => format!("unreadable: {error}").into_bytes(),
    };
    let mut data = Vec::new();
    if let Ok(open) = File::open(path) {
        let mut at = 0;
        while let Ok(start) = rustix::fs::seek(&open, SeekFrom::Data(at)) {
            let end = rustix::fs::seek(&open, SeekFrom::Hole(start)).unwrap();
            data.push((start, end));
            at = end;
        }
        assert_eq!(bytes.len() as u64, metadata.len());
    }
    Content::File { bytes, data }
}

/// The attributes that mean the same everywhere.
fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut names = vec![0; 64 << 10];
    let len = rustix::fs::llistxattr(&path, &mut names[..]).unwrap_or(0);
    let names = names[..len].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user."));
    let value = |name: &[u8]| {
        let mut value = vec![0; 64 << 10];
        let len = rustix::fs::lgetxattr(&path, name, &mut value[..]).unwrap();
        (name.to_vec(), value[..len].to_vec())
    };
    names.map(value).collect()
}

/// Fails with the first differences unless both are the same.
pub(crate) fn assert_same(what: &str, wanted: &Tree, got: &Tree) {
    let paths: std::collections::BTreeSet<_> = wanted.keys().chain(got.keys()).collect();
    let different = |path: &&&Vec<u8>| wanted.get(**path) != got.get(**path);
    let lines: Vec<String> = paths
        .iter()
        .filter(different)
        .take(8)
        .map(|path| {
            let (wanted, got) = (wanted.get(*path), got.get(*path));
            format!("\"{}\"\n   wanted {wanted:?}\n      got {got:?}", path.escape_ascii())
        })
        .collect();
    assert!(lines.is_empty(), "{what}: trees differ:\n{}", lines.join("\n"));
}

/// What is at and below `path`, as a tree of its own.
pub(crate) fn below(tree: &Tree, path: &str) -> Tree {
    let strip = |full: &Vec<u8>| {
        let rest = full.strip_prefix(path.as_bytes())?;
        (rest.is_empty() || rest[0] == b'/').then(|| rest.strip_prefix(b"/").unwrap_or(rest).to_vec())
    };
    let node = |node: &Node| Node { same_as: node.same_as.as_ref().and_then(strip), ..node.clone() };
    tree.iter().filter_map(|(path, found)| Some((strip(path)?, node(found)))).collect()
}

/// A tree as git sees it: no directories, of modes only whether files are executable. What and its content or
/// target, by path.
pub(crate) type GitTree = BTreeMap<Vec<u8>, (char, Vec<u8>)>;

/// What git sees of a tree.
pub(crate) fn as_git_sees(tree: &Tree) -> GitTree {
    let seen = |(path, node): (&Vec<u8>, &Node)| match &node.content {
        Content::File { bytes, .. } => {
            let kind = if node.mode & 0o100 == 0 { 'f' } else { 'x' };
            Some((path.clone(), (kind, bytes.clone())))
        }
        Content::Symlink(target) => Some((path.clone(), ('l', target.clone()))),
        Content::Directory | Content::Other => None,
    };
    tree.iter().filter_map(seen).collect()
}

/// A path of the tree below `root`.
pub(crate) fn at(root: &Path, path: &[u8]) -> std::path::PathBuf {
    root.join(OsStr::from_bytes(path))
}
