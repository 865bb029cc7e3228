use super::*;

fn shell(number: u8) -> ShellId {
    ShellId::from_bytes([number; 6])
}

fn new_shell(number: u8) -> NewShell {
    NewShell { shell: shell(number), cwd: "/workspace".to_owned(), cols: 120, rows: 30 }
}

#[test]
fn a_shell_is_on_record_from_its_opening_to_its_close() {
    let fixture = Fixture::new();
    let id = fixture.workspace(1, 0);
    let opened = fixture.open_shell(id, &new_shell(1), 1000).unwrap();
    fixture.open_shell(id, &new_shell(2), 900).unwrap();
    let order: Vec<ShellId> = fixture.shells(id).unwrap().iter().map(|record| record.shell).collect();
    assert_eq!(order, [shell(2), shell(1)], "the oldest first");
    assert_eq!(text(fixture.open_shell(id, &new_shell(1), 0)), "shell '010101010101' already exists");

    let resized = fixture.resize_shell(id, shell(1), 80, 24).unwrap();
    assert_eq!(resized, ShellRecord { cols: 80, rows: 24, ..opened });
    let ended = fixture.end_shell(id, shell(1), Some(7), 2000).unwrap();
    let wanted = ShellRecord { is_running: false, ended_at: Some(2000), exit_code: Some(7), ..resized };
    assert_eq!((&ended, fixture.shell(id, shell(1)).unwrap()), (&wanted, wanted.clone()));
    // How it ended is told once.
    assert_eq!(fixture.end_shell(id, shell(1), Some(8), 3000).unwrap(), wanted);

    fixture.close_shell(id, shell(1), 3000).unwrap();
    fixture.close_shell(id, shell(1), 3000).unwrap();
    let gone = "shell '010101010101' does not exist in workspace '010101010101'";
    assert_eq!(text(fixture.shell(id, shell(1))), gone);
    assert_eq!(text(fixture.end_shell(id, shell(1), None, 0)), gone);
    assert_eq!(fixture.shells(id).unwrap().len(), 1);
}

#[test]
fn shells_go_with_their_machine_and_with_their_workspace() {
    let fixture = Fixture::new();
    let (id, other) = (fixture.workspace(1, 0), fixture.workspace(2, 0));
    for (workspace, number) in [(id, 1), (other, 2)] {
        fixture.open_shell(workspace, &new_shell(number), 0).unwrap();
    }
    let started = [WorkspaceState::Started];
    fixture.set_state(id, &started, WorkspaceState::Stopped, None, 1).unwrap();
    assert_eq!((fixture.shells(id).unwrap().len(), fixture.shells(other).unwrap().len()), (0, 1));
    assert!(text(fixture.open_shell(id, &new_shell(3), 2)).contains("must be in 'started' state"));
    fixture.set_state(other, &started, WorkspaceState::Deleting, None, 1).unwrap();
    fixture.delete(other, Departure::Deleted, 2).unwrap();
    assert_eq!(text(fixture.shells(other)), "workspace '020202020202' does not exist");
    assert_eq!(fixture.rules(), []);
}

#[test]
fn a_damaged_shell_is_told_and_goes_with_its_workspace() {
    let fixture = Fixture::new();
    let id = fixture.workspace(1, 0);
    fixture.open_shell(id, &new_shell(1), 0).unwrap();
    fixture.sql("UPDATE shells SET cols = 70000");
    assert!(text(fixture.shells(id)).contains("is damaged: cols:"));
    fixture.set_state(id, &[WorkspaceState::Started], WorkspaceState::Deleting, None, 1).unwrap();
    assert!(fixture.delete(id, Departure::Deleted, 2).unwrap());
}
