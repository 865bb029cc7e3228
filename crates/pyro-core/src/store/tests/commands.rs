use super::*;
use serde_json::json;

#[test]
fn a_command_is_read_as_it_ran() {
    let fixture = Fixture::new();
    let id = fixture.workspace(1, 0);
    let key = fixture.begin_command(id, &command("make test"), 10).unwrap();
    assert_eq!(key.sequence, 1);
    let running = fixture.command(id, 1).unwrap();
    assert_eq!((running.state, running.exit_code), (CommandState::Running, None));
    assert_eq!(fixture.output(key).unwrap(), CommandOutput::default());
    fixture.save_output(key, &printed(b"so far")).unwrap();
    assert_eq!(fixture.output(key).unwrap(), printed(b"so far"));
    fixture.finish_command(key, CommandOutcome::Exited(2), 120, &printed(b"all\xff"), 130).unwrap();
    let ended =
        CommandRecord { state: CommandState::Exited, exit_code: Some(2), duration_ms: Some(120), ..running };
    assert_eq!(fixture.last_command(id).unwrap().as_ref(), Some(&ended));
    assert_eq!(fixture.commands(id).unwrap(), [ended]);
    assert_eq!(fixture.output(key).unwrap(), printed(b"all\xff"));
    assert_eq!(fixture.get(id).unwrap().command_count(), 1);
    let again = fixture.finish_command(key, CommandOutcome::Killed(None), 1, &printed(b""), 140);
    assert_eq!(text(again), "command #1 of workspace '010101010101' has already ended");
    assert_eq!(text(fixture.command(id, 2)), "command #2 does not exist in workspace '010101010101'");
}

#[test]
fn a_machine_that_stops_loses_its_commands_until_they_are_heard_of() {
    let fixture = Fixture::new();
    let id = fixture.workspace(1, 0);
    let keys = [1, 2].map(|now| fixture.begin_command(id, &command("x"), now).unwrap());
    fixture.set_state(id, &[WorkspaceState::Started], WorkspaceState::Stopped, None, 3).unwrap();
    assert!(fixture.commands(id).unwrap().iter().all(|one| one.state == CommandState::Lost));
    assert_eq!(fixture.mark_lost(id).unwrap(), 0);
    fixture.finish_command(keys[1], CommandOutcome::Killed(Some(137)), 9, &printed(b""), 4).unwrap();
    let states: Vec<_> = fixture.commands(id).unwrap().iter().map(|one| (one.state, one.exit_code)).collect();
    assert_eq!(states, [(CommandState::Lost, None), (CommandState::Killed, Some(137))]);
}

#[test]
fn a_command_of_before_a_reset_does_not_end_a_later_one_of_its_number() {
    let fixture = Fixture::new();
    let id = fixture.workspace(1, 0);
    let old = fixture.begin_command(id, &command("old"), 1).unwrap();
    let baseline = fixture.snapshot(id, "baseline").unwrap();
    fixture.reset(&baseline, layer(50), 2).unwrap();
    let new = fixture.begin_command(id, &command("new"), 3).unwrap();
    assert_eq!((old.sequence, new.sequence), (1, 1));
    let late = fixture.finish_command(old, CommandOutcome::Exited(0), 1, &printed(b"old"), 4);
    assert_eq!(text(late), "command #1 does not exist in workspace '010101010101'");
    assert_eq!(fixture.command(id, 1).unwrap().state, CommandState::Running);
}

#[test]
fn output_is_kept_within_its_bounds() {
    let fixture = Fixture::new();
    let id = fixture.workspace(1, 0);
    let flood = CommandOutput { stderr: vec![b'x'; OUTPUT_BYTES + 1], ..printed(&vec![b'y'; OUTPUT_BYTES]) };
    let commands = HISTORY_BYTES / (2 * OUTPUT_BYTES as u64) + 2;
    let keys: Vec<_> = (0..commands)
        .map(|_| {
            let key = fixture.begin_command(id, &command("yes"), 0).unwrap();
            fixture.finish_command(key, CommandOutcome::Exited(0), 1, &flood, 0).unwrap();
            key
        })
        .collect();
    let kept = fixture.output(keys[2]).unwrap();
    assert_eq!((kept.stdout.len(), kept.stderr.len()), (OUTPUT_BYTES, OUTPUT_BYTES));
    assert_eq!((kept.stdout_truncated, kept.stderr_truncated), (false, true));
    let dropped = fixture.output(keys[1]).unwrap();
    assert!(dropped.stdout.is_empty() && dropped.stdout_truncated && dropped.stderr_truncated);
    assert_eq!(fixture.commands(id).unwrap().len() as u64, commands);
}

#[test]
fn a_long_command_is_cut_at_a_character() {
    let fixture = Fixture::new();
    let id = fixture.workspace(1, 0);
    fixture.begin_command(id, &command(&format!("x{}", "é".repeat(COMMAND_BYTES))), 0).unwrap();
    assert_eq!(fixture.command(id, 1).unwrap().command.len(), COMMAND_BYTES - 1);
}

#[test]
fn the_oldest_commands_and_events_are_dropped() {
    let fixture = Fixture::new();
    let id = fixture.workspace(1, 0);
    fixture.sql(
        "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 10000) \
         INSERT INTO commands (workspace, sequence, command, cwd, detached, state, started_at) \
            SELECT '010101010101', x, 'c', '/', 0, 'exited', x FROM n; \
         INSERT INTO events (workspace, at, kind, detail) SELECT workspace, sequence, 'patch', '{}' FROM commands; \
         UPDATE workspaces SET next_sequence = 10001",
    );
    assert_eq!(fixture.begin_command(id, &command("c"), 0).unwrap().sequence, 10001);
    let commands = fixture.commands(id).unwrap();
    assert_eq!((commands.len() as u64, commands[0].key.sequence), (COMMANDS_KEPT, 2));
    fixture.record_event(id, EventKind::Patch, &json!({}), 0).unwrap();
    let events = fixture.events(id).unwrap();
    assert_eq!((events.len() as u64, events[0].at), (EVENTS_KEPT, 2));
    assert_eq!(fixture.rules(), []);
}

#[test]
fn events_are_read_in_order_and_bounded() {
    let fixture = Fixture::new();
    let id = fixture.workspace(1, 0);
    let detail = json!({ "path": "a", "count": 3 });
    fixture.record_event(id, EventKind::SyncPush, &detail, 10).unwrap();
    fixture.record_event(id, EventKind::Export, &json!("x".repeat(DETAIL_BYTES)), 20).unwrap();
    let events = fixture.events(id).unwrap();
    assert_eq!(events[0], Event { at: 10, kind: EventKind::SyncPush, detail });
    assert_eq!(events[1].detail, json!({ "omitted_bytes": DETAIL_BYTES + 2 }));
    assert_eq!(fixture.get(id).unwrap().last_activity_at, 10, "taking a copy is no activity");
}
