use super::*;
use crate::parse::parse;

fn patch(body: &str) -> FilePatch {
    parse(format!("--- a/x\n+++ b/x\n{body}").as_bytes()).unwrap().files.remove(0)
}

const CHANGE: &str = "@@ -2,3 +2,3 @@\n a\n-b\n+B\n c\n";

#[test]
fn a_hunk_that_moved_is_found_at_the_nearest_place() {
    let file = patch(CHANGE);
    assert_eq!(apply(&file, Some(b"0\na\nb\nc\n")).unwrap(), b"0\na\nB\nc\n");
    assert_eq!(apply(&file, Some(b"0\n1\n2\na\nb\nc\n9\n")).unwrap(), b"0\n1\n2\na\nB\nc\n9\n");
    let twice = b"a\nb\nc\n.\na\nb\nc\n";
    assert_eq!(apply(&file, Some(twice)).unwrap(), b"a\nB\nc\n.\na\nb\nc\n");
}

#[test]
fn the_line_that_does_not_match_is_told() {
    let error = apply(&patch(CHANGE), Some(b"0\na\nX\nc\n")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "patch context does not match for x: hunk 1 expects \"b\" at line 3, found \"X\""
    );
    let error = apply(&patch("@@ -1 +1 @@\n-a\n+b\n"), Some(b"a")).unwrap_err();
    assert!(error.to_string().ends_with("expects \"a\" at line 1, found \"a\" without a newline"), "{error}");
    let error = apply(&patch("@@ -1 +1 @@\n-a\n+b\n"), Some(b"a\nmore\n")).unwrap_err();
    assert!(error.to_string().ends_with("expects the end of the file at line 2, found \"more\""), "{error}");
    let error = apply(&patch("@@ -90,3 +90,3 @@\n a\n-b\n+B\n c\n"), Some(b"x\n")).unwrap_err();
    assert_eq!(error.to_string(), "patch hunk is out of range for x: hunk 1 starts at line 90 of 1");
}

#[test]
fn hunks_without_context_go_only_where_they_say() {
    let insert = patch("@@ -1,0 +2 @@\n+new\n");
    assert_eq!(apply(&insert, Some(b"a\nb\n")).unwrap(), b"a\nnew\nb\n");
    let replace = patch("@@ -2 +2 @@\n-b\n+B\n");
    assert_eq!(apply(&replace, Some(b"a\nb\nc\n")).unwrap(), b"a\nB\nc\n");
    assert!(apply(&replace, Some(b"a\n.\nb\nc\n")).is_err());
}

#[test]
fn hunks_in_the_wrong_order_or_on_top_of_each_other_do_not_apply() {
    let body = "@@ -4,3 +4,3 @@\n d\n-e\n+E\n f\n@@ -2,3 +2,3 @@\n b\n-c\n+C\n d\n";
    assert!(apply(&patch(body), Some(b"a\nb\nc\nd\ne\nf\ng\n")).is_err());
}

#[test]
fn a_search_made_to_be_slow_is_given_up() {
    let alike = "a\n".repeat(100_000);
    let body = format!("@@ -5,50001 +5,50002 @@\n{}+new\n b\n", " a\n".repeat(50_000));
    let error = apply(&patch(&body), Some(alike.as_bytes())).unwrap_err();
    assert_eq!(error.to_string(), "patch hunk 1 for x cannot be placed: too many lines are alike");
}

#[test]
fn a_deletion_takes_everything_or_nothing() {
    let delete = parse(b"--- a/x\n+++ /dev/null\n@@ -2,2 +1,1 @@\n a\n-b\n").unwrap().files.remove(0);
    let error = apply(&delete, Some(b"0\na\nb\n")).unwrap_err();
    assert_eq!(error.to_string(), "delete patch did not remove all content for x");
}

#[test]
fn binary_patches_fit_only_the_content_they_name() {
    let (old, new) = (b"\0old".to_vec(), b"\0new".to_vec());
    let side =
        |content: &[u8]| crate::Side { kind: crate::SideKind::File, mode: 0o644, content: content.to_vec() };
    let mut text = Vec::new();
    crate::emit(b"x", Some(&side(&old)), Some(&side(&new)), &crate::EmitLimits::default(), &mut text);
    let file = parse(&text).unwrap().files.remove(0);
    assert_eq!(apply(&file, Some(&old)).unwrap(), new);
    assert_eq!(apply(&file, Some(b"\0other")).unwrap_err(), ApplyError::Binary { path: "x".into() });
}
