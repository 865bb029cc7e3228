use proptest::prelude::*;

use super::*;

fn error(text: &str) -> String {
    parse(text.as_bytes()).unwrap_err().to_string()
}

fn change(body: &str) -> String {
    format!("--- a/x\n+++ b/x\n{body}")
}

#[test]
fn each_fault_is_told_with_its_line_and_value() {
    let cases = [
        ("  \n\n", "patch must not be empty"),
        ("just words\n", "patch must contain at least one file change"),
        ("--- a/x\n@@ -1 +1 @@\n", "patch is missing '+++' header after line 1: --- a/x"),
        ("@@ -1 +1 @@\n-a\n+b\n", "invalid patch header: @@ -1 +1 @@ (line 1)"),
        ("--- a/x\n+++ b/y\n@@ -1 +1 @@\n-a\n+b\n", "invalid patch header: +++ b/y (line 1)"),
        (
            "--- a/../x\n+++ b/../x\n@@ -1 +1 @@\n-a\n+b\n",
            "patch must target a workspace path: ../x: it has a part that is not a name (line 1)",
        ),
        (
            "--- /etc/passwd\n+++ /etc/passwd\n@@ -1 +1 @@\n-a\n+b\n",
            "patch must target a workspace path: /etc/passwd: it is absolute (line 1)",
        ),
        ("diff --git a/x b/x\nindex 1..2 100644\n", "patch for x has no hunks (line 1)"),
        (
            "diff --git a/x b/x\nindex 1..2\nBinary files a/x and b/x differ\n",
            "unsupported patch feature: Binary files a/x and b/x differ (line 3)",
        ),
        (
            "diff --git a/x b/x\nnew file mode 160000\n",
            "unsupported patch feature: new file mode 160000 (line 2)",
        ),
        ("diff --git a/x b/x\nold mode 999\n", "invalid patch header: old mode 999 (line 2)"),
        ("diff --cc x\nindex 1,2..3\n", "unsupported patch feature: diff --cc x (line 1)"),
        ("diff --git a/x b/x\nGIT binary patch\nliteral 3\nzzz\n\n", "invalid binary patch: zzz (line 4)"),
        (
            "diff --git a/x b/x\nGIT binary patch\nliteral 99999999999\n",
            "invalid binary patch: more than 67108864 bytes of content (line 3)",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(error(text), expected, "{text}");
    }
}

#[test]
fn hunks_that_do_not_fit_their_headers_are_refused() {
    let cases = [
        ("@@ nothing @@\n", "patch for x has no hunks (line 1)"),
        ("@@ -1 @@\n", "invalid patch hunk header: @@ -1 @@ (line 3)"),
        ("@@ -0 +1 @@\n", "invalid patch hunk header: @@ -0 +1 @@ (line 3)"),
        ("@@ -1,9999999999 +1 @@\n", "invalid patch hunk header: @@ -1,9999999999 +1 @@ (line 3)"),
        ("@@ -1,2 +1 @@\n-a\n", "patch hunk line counts do not match the header:  (line 5)"),
        ("@@ -1 +1 @@\n-a\n-b\n", "patch hunk line counts do not match the header: -b (line 5)"),
        ("@@ -1 +1 @@\n-a\n+b\n+c\n", "patch hunk line counts do not match the header: +c (line 6)"),
        ("@@ -1,2 +1 @@\n-a\n\\ No newline at end of file\n-b\n+c\n", "invalid patch hunk line: -b (line 6)"),
    ];
    for (body, expected) in cases {
        assert_eq!(error(&change(body)), expected, "{body}");
    }
}

#[test]
fn one_path_is_changed_once() {
    let twice = change("@@ -1 +1 @@\n-a\n+b\n").repeat(2);
    assert_eq!(error(&twice), "patch contains duplicate file entries for x");
    let delete = "diff --git a/x b/x\ndeleted file mode 100644\n";
    let add = "diff --git a/x b/x\nnew file mode 120000\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+t\n\\ No newline at end of file\n";
    assert_eq!(parse(format!("{delete}{add}").as_bytes()).unwrap().files.len(), 2);
    assert_eq!(error(&format!("{add}{delete}")), "patch contains duplicate file entries for x");
    assert_eq!(error(&delete.repeat(2)), "patch contains duplicate file entries for x");
}

#[test]
fn labels_of_many_tools_name_the_same_file() {
    for (old, new) in [
        ("x/y", "x/y"),
        ("a/x/y", "b/x/y"),
        (
            "old-1.0/x/y\t2024-01-01 00:00:00.000000000 +0000",
            "new-1.1/x/y\t2024-01-02 00:00:00.000000000 +0000",
        ),
        ("x/y.orig", "x/y"),
        ("x/y", "x/y.new"),
        ("\"a/x/y\"", "b/x/y"),
        ("a/x/y\r", "b/x/y\r"),
    ] {
        let text = format!("--- {old}\n+++ {new}\n@@ -1 +1 @@\n-a\n+b\n");
        let patch = parse(text.as_bytes()).unwrap();
        assert_eq!(patch.files[0].path, b"x/y", "{old} {new}");
        assert_eq!(patch.files[0].operation, Operation::Modify);
    }
}

#[test]
fn absent_sides_are_null_or_as_old_as_can_be() {
    let add = "--- a/x\t1970-01-01 00:00:00.000000000 +0000\n+++ b/x\t2024-01-01 00:00:00 +0000\n@@ -0,0 +1 @@\n+a\n";
    assert_eq!(parse(add.as_bytes()).unwrap().files[0].operation, Operation::Add);
    let delete = "--- a/x\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n";
    assert_eq!(parse(delete.as_bytes()).unwrap().files[0].operation, Operation::Delete);
    assert!(parse(b"--- /dev/null\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n").is_err());
}

#[test]
fn mails_around_a_patch_and_blanks_lost_on_the_way_are_passed_over() {
    let text = "From 123\nSubject: [PATCH] x\n\n--- nothing\n---\n x | 2 +-\n\ndiff --git a/x b/x\nindex 1..2 100644\n--- a/x\n+++ b/x\n@@ -1,3 +1,3 @@ fn main()\n a\n\n-b\n+c\n-- \n2.43.0\n";
    let patch = parse(text.as_bytes()).unwrap();
    assert_eq!(patch.files.len(), 1);
    assert_eq!(crate::apply(&patch.files[0], Some(b"a\n\nb\n")).unwrap(), b"a\n\nc\n");
}

#[test]
fn renames_and_copies_name_both_ends() {
    let text = "diff --git a/old b/\"n\nsimilarity index 100%\nrename from old\nrename to \"n\\tw\"\n";
    let file = &parse(text.as_bytes()).unwrap().files[0];
    assert_eq!(
        (file.path.as_slice(), &file.operation),
        (&b"n\tw"[..], &Operation::Rename { from: b"old".to_vec() })
    );
    assert!(parse(b"diff --git a/x b/y\nrename from ../x\nrename to y\n").is_err());
    assert!(parse(b"diff --git a/x b/y\nrename from x\n").is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        fuzz_patch(&bytes);
    }

    #[test]
    fn pieces_of_patches_in_any_order_are_read_without_a_panic(
        pieces in prop::collection::vec(prop::sample::select(PIECES), 0..25)
    ) {
        fuzz_patch(&pieces.concat());
    }
}

const PIECES: &[&[u8]] = &[
    b"diff --git a/x b/x\n",
    b"diff --git \"a/x\\",
    b"new file mode 100644\n",
    b"deleted file mode 100644\n",
    b"old mode 100644\n",
    b"new mode 100755\n",
    b"rename from x\n",
    b"rename to y\n",
    b"copy from x\n",
    b"copy to z\n",
    b"index 0000000..e69de29 100644\n",
    b"--- a/x\n",
    b"+++ b/x\n",
    b"--- /dev/null\n",
    b"+++ /dev/null\n",
    b"@@ -1 +1 @@\n",
    b"@@ -0,0 +1 @@\n",
    b"@@ -1,3 +1,3 @@\n",
    b" a\n",
    b"-a\n",
    b"+b\n",
    b"\\ No newline at end of file\n",
    b"\n",
    b"GIT binary patch\n",
    b"literal 0\n",
    b"HcmV?d00001\n",
    b"delta 5\n",
    b"\0",
    b"a",
];
