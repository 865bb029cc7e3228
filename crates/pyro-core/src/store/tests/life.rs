use super::*;
use WorkspaceState::{Creating, Deleting, Started, Stopped};

#[test]
fn a_state_changes_only_from_where_it_is_expected() {
    let fixture = Fixture::new();
    let id = fixture.workspace(1, 0);
    fixture.set_state(id, &[Started], Stopped, Some("machine died"), 10).unwrap();
    let workspace = fixture.get(id).unwrap();
    assert_eq!((workspace.state, workspace.stop_reason.as_deref()), (Stopped, Some("machine died")));
    assert_eq!(workspace.last_activity_at, 0, "a death is no activity");
    let error = fixture.set_state(id, &[Started], Stopped, None, 20).unwrap_err();
    assert!(matches!(error, StoreError::Conflict { found: Stopped, .. }));
    assert_eq!(error.to_string(), "workspace 010101010101 must be in 'started' state, not 'stopped'");
    fixture.set_state(id, &[Stopped], Started, None, 30).unwrap();
    let workspace = fixture.get(id).unwrap();
    assert_eq!((workspace.stop_reason, workspace.last_activity_at), (None, 30));
}

#[test]
fn nothing_leaves_deleting() {
    let fixture = Fixture::new();
    let id = fixture.workspace(1, 0);
    fixture.set_state(id, &[Started], Deleting, None, 0).unwrap();
    assert!(fixture.set_state(id, &[Deleting, Started], Started, None, 0).is_err());
    fixture.set_state(id, WorkspaceState::ALL, Deleting, None, 0).unwrap();
    assert!(fixture.touch(id, 0).is_err());
    assert!(fixture.begin_command(id, &command("true"), 0).is_err());
    assert!(fixture.update(id, &WorkspaceUpdate::default(), 0).is_err());
    assert!(fixture.seal_and_push(id, None, first_top(1), layer(99), 0).is_err());
}

#[test]
fn a_workspace_that_is_being_created_is_not_used() {
    let fixture = Fixture::new();
    fixture.begin_create(&new_workspace(1), 0).unwrap();
    assert!(matches!(fixture.touch(id(1), 0), Err(StoreError::Conflict { found: Creating, .. })));
    assert!(fixture.begin_command(id(1), &command("true"), 0).is_err());
    assert_eq!(fixture.expired(Millis::MAX).unwrap(), []);
}

#[test]
fn time_is_over_only_without_activity() {
    let fixture = Fixture::new();
    let id = fixture.workspace(1, 0);
    assert_eq!(fixture.expired(TTL - 1).unwrap(), []);
    assert_eq!(fixture.expired(TTL).unwrap(), [id]);
    fixture.touch(id, 1000).unwrap();
    assert_eq!(fixture.expired(TTL).unwrap(), []);
    assert!(!fixture.begin_expiry(id, TTL).unwrap());
    fixture.touch(id, 500).unwrap();
    assert_eq!(fixture.get(id).unwrap().expires_at, Some(1000 + TTL), "a clock that went back takes nothing");
    assert!(fixture.begin_expiry(id, 1000 + TTL).unwrap());
    let workspace = fixture.get(id).unwrap();
    assert_eq!((workspace.state, workspace.stop_reason.as_deref()), (Deleting, Some("expired")));
    assert!(!fixture.begin_expiry(id, 1000 + TTL).unwrap());
}

#[test]
fn a_running_command_keeps_its_workspace() {
    let fixture = Fixture::new();
    let id = fixture.workspace(1, 0);
    let key = fixture.begin_command(id, &command("sleep"), 0).unwrap();
    assert_eq!(fixture.expired(10 * TTL).unwrap(), []);
    assert!(!fixture.begin_expiry(id, 10 * TTL).unwrap());
    let end = CommandOutcome::Exited(0);
    fixture.finish_command(key, end, 1, &CommandOutput::default(), 10 * TTL).unwrap();
    assert_eq!(fixture.expired(11 * TTL - 1).unwrap(), []);
    assert_eq!(fixture.expired(11 * TTL).unwrap(), [id]);
}

#[test]
fn no_time_is_for_ever() {
    let fixture = Fixture::new();
    let workspace = create(&fixture, NewWorkspace { ttl_seconds: 0, ..new_workspace(1) }, 0);
    assert_eq!(workspace.expires_at, None);
    fixture.touch(workspace.id, 5).unwrap();
    assert_eq!(fixture.get(workspace.id).unwrap().expires_at, None);
    assert_eq!(fixture.expired(Millis::MAX).unwrap(), []);
}

#[test]
fn what_expired_is_told_so_by_any_of_its_names() {
    let fixture = Fixture::new();
    create(&fixture, NewWorkspace { name: Some("repo".to_owned()), ..new_workspace(1) }, 0);
    assert!(fixture.delete(id(1), Departure::Expired, 7).unwrap());
    assert!(!fixture.delete(id(1), Departure::Expired, 7).unwrap());
    for address in ["010101010101", "0101", "repo"] {
        let wanted = format!("workspace '{address}' expired and was automatically deleted");
        assert_eq!(text(fixture.resolve(address)), wanted);
    }
    assert_eq!(text(fixture.get(id(1))), "workspace '010101010101' expired and was automatically deleted");
    assert_eq!(text(fixture.resolve("01")), "workspace '01' does not exist");
    create(&fixture, NewWorkspace { name: Some("repo".to_owned()), ..new_workspace(2) }, 0);
    assert_eq!(fixture.resolve("repo").unwrap(), id(2));
    fixture.delete(id(2), Departure::Deleted, 8).unwrap();
    assert_eq!(text(fixture.resolve("repo")), "workspace 'repo' does not exist");
    let tombstones = fixture.tombstones().unwrap();
    assert_eq!(tombstones.len(), 2);
    assert_eq!((tombstones[0].reason, tombstones[0].at), (Departure::Deleted, 8));
}

#[test]
fn the_oldest_tombstones_are_dropped() {
    let fixture = Fixture::new();
    let id = fixture.workspace(1, 0);
    fixture.sql(
        "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 1500) \
         INSERT INTO tombstones (id, at, reason) SELECT x, x, 'deleted' FROM n",
    );
    fixture.delete(id, Departure::Deleted, 0).unwrap();
    let tombstones = fixture.tombstones().unwrap();
    assert_eq!(tombstones.len() as u64, TOMBSTONES);
    assert_eq!((tombstones[0].id.as_str(), tombstones[999].id.as_str()), ("010101010101", "502"));
}
