use super::*;
use crate::problem::Explain;

/// Two workspaces, the first of which is then damaged by `sql`.
fn damaged(sql: &str) -> Fixture {
    let fixture = Fixture::new();
    for number in [1, 2] {
        let labels = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
        let secrets = vec![SecretRecord { name: "S".to_owned(), source_kind: SecretSource::File }];
        create(&fixture, NewWorkspace { labels, secrets, ..new_workspace(number) }, 0);
    }
    fixture.sql(sql);
    fixture
}

#[test]
fn a_damaged_record_hurts_its_workspace_only() {
    for (field, sql) in [
        ("state", "UPDATE workspaces SET state = 'flying' WHERE id = '010101010101'"),
        ("network_policy", "UPDATE workspaces SET network_policy = '' WHERE id = '010101010101'"),
        ("image", "UPDATE workspaces SET image = '{' WHERE id = '010101010101'"),
        ("seed_mode", "UPDATE workspaces SET seed_mode = 'x' WHERE id = '010101010101'"),
        ("mem_mib", "UPDATE workspaces SET mem_mib = -1 WHERE id = '010101010101'"),
        ("name", "UPDATE workspaces SET name = CAST(x'ff' AS TEXT) WHERE id = '010101010101'"),
        ("top_layer", "UPDATE workspaces SET top_layer = '../x' WHERE id = '010101010101'"),
        ("source_kind", "UPDATE secrets SET source_kind = 'x' WHERE workspace = '010101010101'"),
        ("value", "UPDATE labels SET value = CAST(x'ff' AS TEXT) WHERE workspace = '010101010101'"),
    ] {
        let fixture = damaged(sql);
        let error = fixture.get(id(1)).unwrap_err();
        let StoreError::Damaged(damage) = &error else { panic!("{field}: {error}") };
        assert_eq!((damage.id.as_str(), damage.field), ("010101010101", field));
        assert_eq!(error.explain().code, "damaged_record");
        let mut list = fixture.list().unwrap();
        assert_eq!(list.len(), 2, "{field}");
        list.sort_by_key(Result::is_ok);
        assert_eq!(list[0], Err(damage.clone()));
        assert_eq!(list[1].as_ref().unwrap(), &fixture.get(id(2)).unwrap());
        assert!(fixture.rules().contains(&Finding::Record(damage.clone())), "{field}");
        fixture.begin_command(id(2), &command("true"), 1).unwrap();

        assert_eq!(fixture.resolve("0101").unwrap(), id(1));
        let deleting = WorkspaceState::Deleting;
        fixture.set_state(id(1), WorkspaceState::ALL, deleting, None, 1).unwrap();
        assert!(fixture.delete(id(1), Departure::Deleted, 2).unwrap(), "{field}");
        assert_eq!(fixture.rules(), [], "{field}");
    }
}

#[test]
fn an_id_that_is_none_is_shown_and_hides_nothing() {
    let fixture = damaged("UPDATE workspaces SET id = 'zz' WHERE id = '010101010101'");
    let list = fixture.list().unwrap();
    let damage = list.iter().find_map(|one| one.as_ref().err()).unwrap();
    assert_eq!((damage.id.as_str(), damage.field), ("zz", "id"));
    assert_eq!(list.len(), 2);
    assert!(matches!(fixture.resolve("zz"), Err(StoreError::Damaged(_))));
    assert_eq!(fixture.resolve("02").unwrap(), id(2));
    assert_eq!(fixture.expired(Millis::MAX).unwrap(), [id(2)]);
}

#[test]
fn nothing_is_garbage_while_a_damaged_record_hides_what_it_needs() {
    for sql in [
        "UPDATE workspaces SET top_layer = '00000000000000000000000000000000' WHERE id = '010101010101'",
        "UPDATE snapshots SET layer = 'x' WHERE workspace = '010101010101'",
        "UPDATE layers SET parent = 'x' WHERE id = (SELECT top_layer FROM workspaces WHERE id = '010101010101')",
    ] {
        let fixture = damaged(sql);
        assert_eq!(fixture.garbage_layers().unwrap(), [], "{sql}");
        assert!(fixture.rules().iter().any(|one| matches!(one, Finding::Rule(_))), "{sql}");
        fixture.delete(id(2), Departure::Deleted, 0).unwrap();
        assert_eq!(fixture.garbage_layers().unwrap(), [], "{sql}");
        assert!(fixture.forget_layer(layer(20)).is_err());
        fixture.delete(id(1), Departure::Deleted, 0).unwrap();
    }
}

#[test]
fn damaged_history_is_told_and_the_workspace_goes_on() {
    let fixture = damaged("");
    let key = fixture.begin_command(id(1), &command("x"), 0).unwrap();
    fixture.record_event(id(1), EventKind::Exec, &serde_json::json!({}), 0).unwrap();
    fixture.sql(
        "UPDATE commands SET state = '?'; UPDATE events SET kind = '?'; UPDATE snapshots SET kind = '?'",
    );
    let told = "the record of workspace '010101010101' is damaged: ";
    assert!(text(fixture.commands(id(1))).starts_with(&format!("{told}state: ")));
    assert!(text(fixture.output(key)).starts_with(told));
    assert!(text(fixture.events(id(1))).starts_with(&format!("{told}kind: ")));
    assert!(text(fixture.snapshots(id(1))).starts_with(&format!("{told}kind: ")));
    assert_eq!(fixture.begin_command(id(1), &command("y"), 0).unwrap().sequence, 2);
    assert_eq!(fixture.commands(id(2)).unwrap(), []);
}

#[test]
fn layers_in_a_ring_end_nobodys_loop() {
    let fixture = damaged("UPDATE layers SET parent = id, state = 'sealed' WHERE parent IS NULL");
    let top = fixture.get(id(1)).unwrap().top_layer;
    assert_eq!(text(fixture.chain(top)), format!("layer {} is its own ancestor", layer(10)));
    fixture.delete(id(1), Departure::Deleted, 0).unwrap();
    assert_eq!(fixture.garbage_layers().unwrap().len(), 2);
    assert!(fixture.chain(layer(99)).is_err());
}

#[test]
fn broken_rules_are_found() {
    for (sql, wanted) in [
        ("UPDATE layers SET parent = id WHERE parent IS NULL", "has no base below it"),
        ("UPDATE layers SET state = 'open'", "is not sealed"),
        ("UPDATE layers SET state = 'sealed'", "is sealed"),
        ("UPDATE layers SET base_key = 'x' WHERE parent IS NULL", "has another base image"),
        (
            "UPDATE workspaces SET top_layer = (SELECT min(top_layer) FROM workspaces)",
            "of several workspaces",
        ),
        ("DELETE FROM snapshots", "has no baseline snapshot"),
        (
            "UPDATE workspaces SET next_sequence = 9; \
          INSERT INTO commands (workspace, sequence, command, cwd, detached, state, started_at) \
          VALUES ('010101010101', 7, '', '', 0, 'exited', 0)",
            "have gaps",
        ),
        (
            "INSERT INTO commands (workspace, sequence, command, cwd, detached, state, started_at) \
          VALUES ('010101010101', 1, '', '', 0, 'running', 0); \
          UPDATE workspaces SET next_sequence = 2, state = 'stopped'",
            "is stopped and runs command #1",
        ),
        (
            "INSERT INTO events (workspace, at, kind, detail) VALUES ('x', 0, 'exec', '{}')",
            "belongs to nothing",
        ),
    ] {
        let findings = damaged(sql).rules();
        let told = |one: &Finding| matches!(one, Finding::Rule(text) if text.contains(wanted));
        assert!(findings.iter().any(told), "{wanted}: {findings:?}");
    }
}

#[test]
fn a_damaged_file_is_found() {
    let fixture = damaged("PRAGMA wal_checkpoint(TRUNCATE)");
    let Fixture { directory, store } = fixture;
    drop(store);
    let path = directory.path().join("state.db");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(8).rposition(|window| window == b"baseline").unwrap();
    let page = at - at % 4096;
    bytes[page..page + 4096].fill(0xa5);
    fs::write(&path, bytes).unwrap();
    let store = StateStore::open(&path).unwrap();
    match store.check() {
        Ok(findings) => assert!(findings.iter().any(|one| matches!(one, Finding::File(_))), "{findings:?}"),
        Err(error) => assert_eq!(error.explain().code, "state_damaged"),
    }
}
