use super::*;

fn file(mode: u32, content: &[u8]) -> Side {
    Side { kind: SideKind::File, mode, content: content.to_vec() }
}

fn told(old: Option<&Side>, new: Option<&Side>) -> (Told, String) {
    let mut out = Vec::new();
    let told = emit(b"dir/x y", old, new, &EmitLimits::default(), &mut out);
    (told, String::from_utf8(out).unwrap())
}

#[test]
fn a_new_file_is_told_as_git_does() {
    let (told, text) = told(None, Some(&file(0o755, b"hi\n")));
    assert_eq!(told, Told::Text);
    assert_eq!(
        text,
        "diff --git a/dir/x y b/dir/x y\nnew file mode 100755\nindex 0000000..45b983b\n--- /dev/null\n+++ b/dir/x y\t\n@@ -0,0 +1 @@\n+hi\n"
    );
}

#[test]
fn modes_and_empty_files_need_no_hunks() {
    let (told_mode, text) = told(Some(&file(0o644, b"a")), Some(&file(0o755, b"a")));
    assert_eq!(told_mode, Told::Text);
    assert_eq!(text, "diff --git a/dir/x y b/dir/x y\nold mode 100644\nnew mode 100755\n");
    let (told_empty, text) = told(None, Some(&file(0o644, b"")));
    assert_eq!(told_empty, Told::Text);
    assert!(text.ends_with("new file mode 100644\nindex 0000000..e69de29\n"), "{text}");
}

#[test]
fn what_git_cannot_tell_gives_nothing() {
    assert_eq!(told(Some(&file(0o644, b"a")), Some(&file(0o600, b"a"))), (Told::Nothing, String::new()));
    let directory = Side { kind: SideKind::Other, mode: 0o755, content: Vec::new() };
    assert_eq!(told(None, Some(&directory)), (Told::Nothing, String::new()));
}

#[test]
fn a_file_that_became_a_link_is_deleted_and_added() {
    let link = Side { kind: SideKind::Symlink, mode: 0o777, content: b"there".to_vec() };
    let (_, text) = told(Some(&file(0o644, b"a\n")), Some(&link));
    assert!(text.contains("deleted file mode 100644") && text.contains("new file mode 120000"), "{text}");
    assert!(text.ends_with("+there\n\\ No newline at end of file\n"), "{text}");
}

#[test]
fn contents_beyond_the_limits_are_binary_and_then_only_told_to_differ() {
    let limits = EmitLimits { text_bytes: 4, binary_bytes: 8 };
    let emitted = |content: &[u8]| {
        let mut out = Vec::new();
        let told = emit(b"x", None, Some(&file(0o644, content)), &limits, &mut out);
        (told, String::from_utf8(out).unwrap())
    };
    assert_eq!(emitted(b"1234").0, Told::Text);
    assert_eq!(emitted(b"12345").0, Told::Binary);
    let (told, text) = emitted(b"123456789");
    assert_eq!(told, Told::Differs);
    assert!(text.ends_with("Binary files /dev/null and b/x differ\n"), "{text}");
    let mut out = Vec::new();
    assert_eq!(emit_omitted(b"x", Some(0o100_644), Some(0o100_755), &mut out), Told::Differs);
    assert!(out.ends_with(b"old mode 100644\nnew mode 100755\nBinary files a/x and b/x differ\n"));
}
