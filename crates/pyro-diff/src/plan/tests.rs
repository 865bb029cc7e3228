use super::*;
use crate::parse::parse;

fn file(mode: u32, content: &[u8]) -> Side {
    Side { kind: SideKind::File, mode, content: content.to_vec() }
}

fn planned(text: &str, tree: &[(&str, Side)]) -> Result<Vec<Change>, String> {
    let patch = parse(text.as_bytes()).unwrap();
    let look =
        |path: &[u8]| tree.iter().find(|(name, _)| name.as_bytes() == path).map(|(_, side)| side.clone());
    plan(&patch, look).map_err(|error| error.to_string())
}

const ADD: &str = "--- /dev/null\n+++ b/d/x\n@@ -0,0 +1 @@\n+a\n";
const MODIFY: &str = "--- a/d/x\n+++ b/d/x\n@@ -1 +1 @@\n-a\n+b\n";

#[test]
fn what_is_there_must_be_what_the_patch_expects() {
    let link = Side { kind: SideKind::Symlink, mode: 0o777, content: b"a".to_vec() };
    let directory = Side { kind: SideKind::Other, mode: 0o755, content: Vec::new() };
    let cases = [
        (ADD, vec![("d/x", file(0o644, b""))], "workspace patch cannot add an existing path: d/x"),
        (MODIFY, vec![], "workspace patch cannot modify a missing path: d/x"),
        (
            MODIFY,
            vec![("d/x", directory)],
            "workspace patch only supports regular files and symbolic links: d/x",
        ),
        (
            MODIFY,
            vec![("d/x", link)],
            "workspace patch expects a regular file at d/x, but there is a symbolic link",
        ),
    ];
    for (text, tree, expected) in cases {
        assert_eq!(planned(text, &tree).unwrap_err(), expected);
    }
}

#[test]
fn permissions_stay_unless_the_patch_changes_them() {
    let written = |text: &str, mode| match planned(text, &[("d/x", file(mode, b"a\n"))]).unwrap().remove(0) {
        Change::Write { mode, .. } | Change::Chmod { mode, .. } => mode,
        other => panic!("{other:?}"),
    };
    assert_eq!(written(MODIFY, 0o640), 0o640);
    let chmod = |old, new| format!("diff --git a/d/x b/d/x\nold mode {old}\nnew mode {new}\n");
    assert_eq!(written(&chmod(100_644, 100_755), 0o640), 0o750);
    assert_eq!(written(&chmod(100_755, 100_644), 0o4755), 0o4644);
    let changes = planned(&chmod(100_644, 100_755), &[("d/x", file(0o644, b"a\n"))]).unwrap();
    assert_eq!(changes, [Change::Chmod { path: b"d/x".to_vec(), mode: 0o755 }]);
}

#[test]
fn two_files_may_trade_places() {
    let text = "diff --git a/p b/q\nsimilarity index 100%\nrename from p\nrename to q\ndiff --git a/q b/p\nsimilarity index 100%\nrename from q\nrename to p\n";
    let changes = planned(text, &[("p", file(0o644, b"1")), ("q", file(0o755, b"2"))]).unwrap();
    let write = |path: &[u8], mode, content: &[u8]| Change::Write {
        path: path.to_vec(),
        mode,
        content: content.to_vec(),
    };
    // Each is replaced, so neither is ever missing.
    assert_eq!(changes, [write(b"p", 0o755, b"2"), write(b"q", 0o644, b"1")]);
}

#[test]
fn a_copy_is_taken_from_what_was_there_before() {
    let text = format!("{MODIFY}diff --git a/d/x b/y\nsimilarity index 100%\ncopy from d/x\ncopy to y\n");
    let changes = planned(&text, &[("d/x", file(0o644, b"a\n"))]).unwrap();
    assert!(matches!(&changes[1], Change::Write { content, .. } if content == b"a\n"), "{changes:?}");
}

#[test]
fn a_path_cannot_be_a_file_and_a_directory() {
    let text = format!("{ADD}--- /dev/null\n+++ b/d\n@@ -0,0 +1 @@\n+a\n");
    assert_eq!(planned(&text, &[]).unwrap_err(), "workspace patch needs d as a file and as a directory");
}

#[test]
fn links_get_possible_targets_only() {
    let text = "diff --git a/l b/l\nnew file mode 120000\nindex 0000000..e69de29\n";
    assert_eq!(planned(text, &[]).unwrap_err(), "workspace patch gives l an impossible link target");
}

#[test]
fn what_is_replaced_by_something_else_is_changed_once() {
    let text = "diff --git a/d/x b/d/x\ndeleted file mode 100644\n--- a/d/x\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n\
                diff --git a/d/x b/d/x\nnew file mode 120000\n--- /dev/null\n+++ b/d/x\n@@ -0,0 +1 @@\n+a\n\
                \\ No newline at end of file\n";
    let link = Change::Symlink { path: b"d/x".to_vec(), target: b"a".to_vec() };
    assert_eq!(planned(text, &[("d/x", file(0o644, b"a\n"))]).unwrap(), [link]);

    let text = "diff --git a/x b/y\nsimilarity index 100%\nrename from x\nrename to y\n\
                diff --git a/y b/x\nsimilarity index 100%\nrename from y\nrename to x\n";
    let tree = [("x", file(0o644, b"was x")), ("y", file(0o755, b"was y"))];
    let write = |path: &[u8], mode, content: &[u8]| Change::Write {
        path: path.to_vec(),
        mode,
        content: content.to_vec(),
    };
    let swapped = [write(b"x", 0o755, b"was y"), write(b"y", 0o644, b"was x")];
    assert_eq!(planned(text, &tree).unwrap(), swapped);
}
