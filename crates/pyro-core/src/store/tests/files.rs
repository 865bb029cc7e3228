use super::*;
use crate::problem::{Blame, Explain};

#[test]
fn only_the_user_can_read_what_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("deep/state");
    let path = state.join("state.db");
    let store = StateStore::open(&path).unwrap();
    store.begin_create(&new_workspace(1), 0).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    for entry in fs::read_dir(&state).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    StateStore::open(&path).unwrap();
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn what_was_written_is_there_after_opening_again() {
    let fixture = Fixture::new();
    let workspace = fixture.get(fixture.workspace(1, 5)).unwrap();
    let Fixture { directory, store } = fixture;
    drop(store);
    let store = StateStore::open(&directory.path().join("state.db")).unwrap();
    assert_eq!(store.get(workspace.id).unwrap(), workspace);
}

#[test]
fn a_database_of_a_newer_pyro_is_refused_and_left_alone() {
    let fixture = Fixture::new();
    fixture.workspace(1, 0);
    fixture.sql("PRAGMA user_version = 99");
    let error = StateStore::open(fixture.path()).unwrap_err();
    let path = fixture.path().display();
    let wanted = format!("the state database {path} has version 99, this pyro knows versions up to 2");
    assert_eq!(error.to_string(), wanted);
    let problem = error.explain();
    assert_eq!((problem.code.as_ref(), problem.blame), ("state_too_new", Blame::Host));
    assert!(problem.hint.is_some());
    fixture.sql("PRAGMA user_version = 2");
    assert_eq!(fixture.again().list().unwrap().len(), 1);
}

#[test]
fn another_programs_database_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let other = Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)").unwrap();
    assert!(matches!(StateStore::open(&path), Err(StoreError::Foreign { .. })));
    let mode: String = other.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
    assert_eq!(mode, "delete");
}

#[test]
fn a_file_that_is_no_database_is_told_as_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    fs::write(&path, "not a database, but long enough to be looked at as one".repeat(100)).unwrap();
    let problem = StateStore::open(&path).unwrap_err().explain();
    assert_eq!((problem.code.as_ref(), problem.blame), ("state_damaged", Blame::Host));
    assert!(problem.message.starts_with("the state database failed: "), "{}", problem.message);
}

#[test]
fn a_place_that_cannot_hold_it_is_the_hosts_fault() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), "").unwrap();
    let error = StateStore::open(&directory.path().join("file/state.db")).unwrap_err();
    assert_eq!(error.explain().code, "state_unavailable");
}

#[test]
fn commits_that_change_what_exists_wait_for_the_disk() {
    let fixture = Fixture::new();
    let id = fixture.workspace(1, 0);
    fixture.record_event(id, EventKind::Patch, &serde_json::json!({}), 0).unwrap();
    let level = |store: &StateStore| -> i64 {
        store.lock().pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap()
    };
    assert_eq!(level(&fixture), 1);
    fixture.seal_and_push(id, None, first_top(1), layer(99), 0).unwrap();
    assert_eq!(level(&fixture), 2);
}
