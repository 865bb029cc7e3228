use super::*;

fn basis() -> Basis {
    Basis {
        environment: "debian:12".to_owned(),
        environment_version: "1.0.0".to_owned(),
        source_digest: None,
        bundle_version: "7".to_owned(),
        bundle_sha256: BTreeMap::from([("vmlinux".to_owned(), "aa".to_owned())]),
        pyro_version: "1".to_owned(),
    }
}

#[test]
fn a_proof_is_read_as_it_was_written_and_damage_proves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let proof = Proof::new(basis(), Network::Egress, Timings { create_ms: 5, ..Timings::default() }, 9);
    let path = manifest_path(dir.path(), "debian:12");
    assert_eq!(path, dir.path().join("prepared/debian_3a12.json"));
    let text = serde_json::to_string(&proof).unwrap();
    write(&path, &text).unwrap();
    assert_eq!(read(&path), Some(proof));
    write(&path, &text.replace("\"format\":1", "\"format\":2")).unwrap();
    assert_eq!(read(&path), None);
    write(&path, &text[..text.len() / 2]).unwrap();
    assert_eq!(read(&path), None);
}

#[test]
fn each_part_of_the_basis_makes_a_proof_stale() {
    assert_eq!(basis().changes_since(&basis()), Vec::<String>::new());
    let others = [
        Basis { environment_version: "2".to_owned(), ..basis() },
        Basis { source_digest: Some("sha256:00".to_owned()), ..basis() },
        Basis { bundle_version: "8".to_owned(), ..basis() },
        Basis { bundle_sha256: BTreeMap::new(), ..basis() },
        Basis { pyro_version: "2".to_owned(), ..basis() },
    ];
    for other in others {
        assert_eq!(basis().changes_since(&other).len(), 1, "{other:?}");
    }
}

#[test]
fn names_of_environments_become_names_of_files() {
    let name = |text: &str| {
        let path = manifest_path(Path::new("/c"), text);
        path.strip_prefix("/c/prepared").unwrap().to_str().unwrap().to_owned()
    };
    assert_eq!(name("oci:../x"), "oci_3a.._2fx.json");
    assert_eq!(name("a_b"), "a_5fb.json");
    assert!(name(&"/".repeat(400)).len() <= 255);
}
