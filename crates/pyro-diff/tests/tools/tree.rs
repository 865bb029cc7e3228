//! Random trees, in memory and in directories.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use proptest::prelude::*;
use pyro_diff::{Change, EmitLimits, Side, SideKind, Told, emit};

pub(crate) type Tree = BTreeMap<Vec<u8>, Side>;

const NAMES: &[&[u8]] = &[
    b"a",
    b"b",
    b"dir",
    b"two words",
    b" lead",
    b"trail ",
    b"quo\"te",
    b"tab\there",
    b"new\nline",
    b"back\\slash",
    b"\xff\xfe",
    "h\u{e9}".as_bytes(),
    b"-dash",
    b"a.orig",
    b"dev",
    b"null",
];

const LINES: &[&[u8]] = &[
    b"",
    b"x",
    b"y",
    b"-- ",
    b"--- a",
    b"+++ b",
    b"@@ -1 +1 @@",
    b"\\ No",
    b"}",
    b"cr\r",
    b"\xc3\x28",
    b"diff --git a/a b/a",
];

const TARGETS: &[&[u8]] = &[b"a", b"../x", b"/etc/passwd", b"no such\nthing", b"dir/b"];

pub(crate) fn file(content: &[u8]) -> Side {
    Side { kind: SideKind::File, mode: 0o644, content: content.to_vec() }
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(NAMES), 1..4).prop_map(|parts| parts.join(&b'/'))
}

/// Lines of few kinds, so that places are ambiguous; the last may have no end.
pub(crate) fn text() -> impl Strategy<Value = Vec<u8>> {
    let line = prop::sample::select(LINES);
    (prop::collection::vec(line, 0..30), any::<bool>()).prop_map(|(lines, ended)| {
        let mut text = lines.join(&b'\n');
        if ended && !text.is_empty() {
            text.push(b'\n');
        }
        text
    })
}

fn side() -> impl Strategy<Value = Side> {
    let executable = prop::sample::select(&[0o644, 0o755][..]);
    let content = prop_oneof![6 => text(), 1 => prop::collection::vec(any::<u8>(), 0..300)];
    let target = prop::sample::select(TARGETS);
    prop_oneof![
        6 => (content, executable).prop_map(|(content, mode)| Side { kind: SideKind::File, mode, content }),
        1 => target.prop_map(|target| Side { kind: SideKind::Symlink, mode: 0o777, content: target.to_vec() }),
    ]
}

/// Adds `path` unless something in the tree is above or below it.
fn insert(tree: &mut Tree, path: Vec<u8>, side: Side) {
    let related = |one: &[u8], other: &[u8]| one.starts_with(other) && one.get(other.len()) == Some(&b'/');
    if !tree.keys().any(|known| related(known, &path) || related(&path, known)) {
        tree.insert(path, side);
    }
}

pub(crate) fn tree() -> impl Strategy<Value = Tree> {
    prop::collection::vec((path(), side()), 0..8).prop_map(|entries| {
        let mut tree = Tree::new();
        for (path, side) in entries {
            insert(&mut tree, path, side);
        }
        tree
    })
}

/// A tree, and what random changes made of it.
pub(crate) fn two_trees() -> impl Strategy<Value = (Tree, Tree)> {
    let edit = (any::<prop::sample::Index>(), 0..6_u8, path(), side(), any::<prop::sample::Index>());
    (tree(), prop::collection::vec(edit, 0..6)).prop_map(|(old, edits)| {
        let mut new = old.clone();
        for (which, action, path, side, place) in edits {
            let present: Vec<Vec<u8>> = new.keys().cloned().collect();
            if present.is_empty() || action == 0 {
                insert(&mut new, path, side);
                continue;
            }
            let key = which.get(&present).clone();
            let entry = new.get_mut(&key).unwrap();
            match action {
                1 => drop(new.remove(&key)),
                2 => *entry = side,
                3 if entry.kind == SideKind::File => entry.mode ^= 0o111,
                4 if entry.kind == SideKind::File => {
                    let at = place.index(entry.content.len() + 1);
                    entry.content.splice(at..at, *b"changed\n");
                }
                _ => {
                    let side = new.remove(&key).unwrap();
                    insert(&mut new, path, side);
                }
            }
        }
        (old, new)
    })
}

pub(crate) fn emit_all(old: &Tree, new: &Tree) -> Vec<u8> {
    let mut out = Vec::new();
    let mut paths: Vec<_> = old.keys().chain(new.keys()).collect();
    paths.sort();
    paths.dedup();
    for path in paths {
        let told = emit(path, old.get(path), new.get(path), &EmitLimits::default(), &mut out);
        assert_ne!(told, Told::Differs);
    }
    out
}

pub(crate) fn carry_out(tree: &mut Tree, changes: Vec<Change>) {
    for change in changes {
        match change {
            Change::Remove { path } => drop(tree.remove(&path).unwrap()),
            Change::Write { path, mode, content } => {
                drop(tree.insert(path, Side { kind: SideKind::File, mode, content }));
            }
            Change::Chmod { path, mode } => tree.get_mut(&path).unwrap().mode = mode,
            Change::Symlink { path, target } => {
                drop(tree.insert(path, Side { kind: SideKind::Symlink, mode: 0o777, content: target }));
            }
        }
    }
}

pub(crate) fn write(tree: &Tree, top: &Path) {
    for (path, side) in tree {
        let place = top.join(OsStr::from_bytes(path));
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        match side.kind {
            SideKind::Symlink => symlink(OsStr::from_bytes(&side.content), &place).unwrap(),
            SideKind::File | SideKind::Other => {
                fs::write(&place, &side.content).unwrap();
                fs::set_permissions(&place, fs::Permissions::from_mode(side.mode)).unwrap();
            }
        }
    }
}

pub(crate) fn read(top: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut open = vec![top.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let (place, kind) = (entry.path(), entry.file_type().unwrap());
            let path = place.strip_prefix(top).unwrap().as_os_str().as_bytes().to_vec();
            if kind.is_dir() {
                if path != b".git" {
                    open.push(place);
                }
            } else if kind.is_symlink() {
                let target = fs::read_link(&place).unwrap().as_os_str().as_bytes().to_vec();
                tree.insert(path, Side { kind: SideKind::Symlink, mode: 0o777, content: target });
            } else {
                let mode =
                    if entry.metadata().unwrap().permissions().mode() & 0o100 != 0 { 0o755 } else { 0o644 };
                tree.insert(path, Side { kind: SideKind::File, mode, content: fs::read(&place).unwrap() });
            }
        }
    }
    tree
}
