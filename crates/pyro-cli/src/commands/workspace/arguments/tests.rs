use super::*;

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

fn unset(_: &str) -> Option<OsString> {
    None
}

#[test]
fn labels_split_at_the_first_equals_sign() {
    assert_eq!(
        labels(&texts(&["a=b", "c=d=e", "f="])).unwrap(),
        pairs(&[("a", "b"), ("c", "d=e"), ("f", "")])
    );
    let error = labels(&texts(&["a=b", "novalue"])).unwrap_err();
    assert_eq!(error.to_string(), "workspace labels must use KEY=VALUE, not 'novalue'");
    assert_eq!(error.explain().blame, Blame::Caller);
}

#[test]
fn blank_label_keys_are_refused() {
    assert_eq!(label_keys(&texts(&["a", "b"])).unwrap(), ["a", "b"]);
    assert!(matches!(label_keys(&texts(&["a", " "])), Err(ArgumentError::ClearLabel)));
}

#[test]
fn secrets_come_from_values_variables_and_files_in_order() {
    let variable = |name: &str| (name == "FROM_ENV").then(|| OsString::from("v1"));
    let found = secrets(&texts(&["A=x=y", "FROM_ENV"]), &texts(&["F=./token=1"]), &variable).unwrap();
    let shown: Vec<_> = found.iter().map(|secret| (secret.name.as_str(), secret.value.clone())).collect();
    assert!(
        shown
            == [
                ("A", SecretValue::Literal("x=y".to_owned())),
                ("FROM_ENV", SecretValue::Literal("v1".to_owned())),
                ("F", SecretValue::File("./token=1".into())),
            ]
    );
}

#[test]
fn errors_of_secrets_never_tell_a_value() {
    for text in ["=hunter2", "hunter 2", "hunter2-and-more", "", "2hunter"] {
        let error = secrets(&texts(&[text]), &[], &unset).err().unwrap().explain();
        assert_eq!(error.message, "workspace secrets must use NAME=VALUE", "{text}");
        assert!(!error.hint.unwrap().contains("hunter"));
    }
    let error = secrets(&texts(&["API_TOKEN"]), &[], &unset).err().unwrap();
    assert_eq!(
        error.to_string(),
        "secret 'API_TOKEN' has no value: the environment variable API_TOKEN is not set"
    );
}

#[test]
fn a_variable_that_is_not_text_cannot_be_a_secret() {
    use std::os::unix::ffi::OsStringExt;
    let bytes = |_: &str| Some(OsString::from_vec(vec![0xff]));
    let error = secrets(&texts(&["A"]), &[], &bytes).err().unwrap();
    assert_eq!(error.to_string(), "secret 'A' must be valid UTF-8 text");
}

#[test]
fn secret_files_need_a_name_and_a_path() {
    for text in ["NAME", "=path", "NAME="] {
        let error = secrets(&[], &texts(&[text]), &unset).err().unwrap();
        assert_eq!(error.to_string(), format!("workspace secret files must use NAME=PATH, not '{text}'"));
    }
}

#[test]
fn secret_mappings_name_each_secret_once() {
    assert_eq!(secret_env(&texts(&["A", "B=C"])).unwrap(), pairs(&[("A", "A"), ("B", "C")]));
    for (list, text) in [
        (&["=X"][..], "workspace secret env mappings must name a secret, not '=X'"),
        (&["A="], "workspace secret env mappings must name an environment variable, not 'A='"),
        (&["A", "A=B"], "workspace secret env mapping references 'A' more than once"),
    ] {
        assert_eq!(secret_env(&texts(list)).unwrap_err().to_string(), text);
    }
}

#[test]
fn a_snapshots_address_is_split_at_the_last_colon() {
    let found = snapshot_address("a:b:c").unwrap();
    assert_eq!(found, ("a:b".to_owned(), "c".to_owned()));
    for text in ["fix", ":x", "fix:", ""] {
        let error = snapshot_address(text).unwrap_err();
        assert_eq!(error.to_string(), format!("--from-snapshot must use WORKSPACE:SNAPSHOT, not '{text}'"));
    }
}

#[test]
fn host_paths_start_at_the_root() {
    assert_eq!(host_path(Path::new("/a/./b")), Path::new("/a/b"));
    assert!(host_path(Path::new("x")).is_absolute());
    assert_eq!(host_path(Path::new("")), Path::new(""), "the emptiness is told by its user");
}
