use super::*;

fn text<T: std::fmt::Debug>(result: Result<T, NameError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_workspace_name_is_one_trimmed_line() {
    assert_eq!(workspace_name("  my repo ").unwrap(), "my repo");
    assert_eq!(workspace_name(&"é".repeat(120)).unwrap().chars().count(), 120);
    assert_eq!(text(workspace_name(" \t")), "name must not be empty");
    assert_eq!(text(workspace_name(&"x".repeat(121))), "name must be at most 120 characters, not 121");
    assert_eq!(
        text(workspace_name("a\u{1b}[2J")),
        "name must not contain newlines or other control characters"
    );
}

#[test]
fn a_label_follows_both_rules() {
    assert_eq!(label(" owner ", " a team ").unwrap(), ("owner".to_owned(), "a team".to_owned()));
    assert_eq!(text(label("", "x")), "label key must not be empty");
    assert_eq!(text(label("a b", "x")), "label key must match ^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$, not 'a b'");
    assert_eq!(text(label("k", "")), "label 'k' must not be empty");
    assert_eq!(text(label("k", &"x".repeat(200))), "label 'k' must be at most 120 characters, not 200");
    assert_eq!(text(label("k", "a\nb")), "label 'k' must not contain newlines or other control characters");
    let many = (0..=LABELS).map(|number| (format!("k{number}"), "v".to_owned())).collect();
    assert_eq!(text(labels(&many)), "a workspace can have at most 64 labels, not 65");
}

#[test]
fn a_snapshot_name_is_a_word_other_than_baseline() {
    assert_eq!(snapshot_name("pre-review_1.0").unwrap(), "pre-review_1.0");
    assert!(snapshot_name(&"x".repeat(64)).is_ok());
    assert!(snapshot_name(&"x".repeat(65)).is_err());
    assert_eq!(text(snapshot_name("")), "snapshot_name must not be empty");
    assert_eq!(text(snapshot_name("baseline")), "snapshot_name 'baseline' is reserved");
    assert!(text(snapshot_name("../x")).ends_with("not '../x'"));
    assert!(text(snapshot_name("a\u{1b}b")).ends_with("not 'a\\u{1b}b'"));
    assert_eq!(existing_snapshot_name("baseline").unwrap(), "baseline");
}

#[test]
fn secret_names_are_variables_and_unlike() {
    assert_eq!(secret_names(["API_TOKEN", "_x1"]).unwrap(), ["API_TOKEN", "_x1"]);
    assert_eq!(text(secret_names(["A", "B", "A"])), "duplicate secret name: A");
    assert_eq!(text(secret_name(" ")), "secret name must not be empty");
    assert_eq!(text(secret_name("1A")), "secret name must match ^[A-Za-z_][A-Za-z0-9_]{0,63}$, not '1A'");
    assert!(secret_name("A-B").is_err());
}
