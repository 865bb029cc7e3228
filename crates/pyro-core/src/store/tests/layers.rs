use super::*;
use proptest::prelude::*;

fn chain(store: &StateStore, top: LayerId) -> Vec<LayerId> {
    store.chain(top).unwrap().into_iter().map(|one| one.id).collect()
}

/// Forgets all garbage in the order in which it is told.
fn sweep(store: &StateStore) -> Vec<LayerId> {
    let garbage = store.garbage_layers().unwrap();
    for layer in &garbage {
        assert!(store.forget_layer(*layer).unwrap());
    }
    assert_eq!(store.garbage_layers().unwrap(), []);
    garbage
}

#[test]
fn a_snapshot_is_a_sealed_layer_under_a_new_top() {
    let fixture = Fixture::new();
    let id = fixture.workspace(1, 0);
    fixture.check_new_snapshot(id, "checkpoint").unwrap();
    fixture.seal_and_push(id, Some(&snapshot("checkpoint")), first_top(1), layer(50), 10).unwrap();
    assert_eq!(chain(&fixture, layer(50)), [layer(10), first_top(1), layer(50)]);
    assert_eq!(fixture.get(id).unwrap().top_layer, layer(50));
    let taken = "snapshot 'checkpoint' already exists in workspace '010101010101'";
    assert_eq!(text(fixture.check_new_snapshot(id, "checkpoint")), taken);
    assert_eq!(
        text(fixture.seal_and_push(id, Some(&snapshot("checkpoint")), layer(50), layer(51), 20)),
        taken
    );
    assert_eq!(fixture.get(id).unwrap().top_layer, layer(50), "a refusal changes nothing");
    let moved = fixture.seal_and_push(id, Some(&snapshot("b")), first_top(1), layer(51), 20);
    assert!(matches!(moved, Err(StoreError::TopMoved { .. })));
    let reserved = fixture.seal_and_push(id, Some(&snapshot("baseline")), layer(50), layer(51), 20);
    assert_eq!(text(reserved), "snapshot_name 'baseline' is reserved");
    assert_eq!(fixture.rules(), []);
}

#[test]
fn an_announced_layer_is_garbage_until_something_needs_it() {
    let fixture = Fixture::new();
    let id = fixture.workspace(1, 0);
    fixture.announce_layer(layer(50), 5).unwrap();
    fixture.announce_layer(layer(51), 5).unwrap();
    fixture.seal_and_push(id, None, first_top(1), layer(50), 10).unwrap();
    assert_eq!(chain(&fixture, layer(50)), [layer(10), first_top(1), layer(50)]);
    assert_eq!(sweep(&fixture), [layer(51)]);
    let exists = |result| matches!(result, Err(StoreError::Layer { fault: LayerFault::Exists, .. }));
    assert!(exists(fixture.announce_layer(layer(50), 20)), "one that is needed cannot be announced");
    fixture.announce_layer(layer(52), 20).unwrap();
    assert!(exists(fixture.announce_layer(layer(52), 20)), "nor one that is");
    assert_eq!(fixture.rules(), []);
}

#[test]
fn snapshots_are_listed_with_the_baseline_first_and_then_the_newest() {
    let fixture = Fixture::new();
    let id = fixture.workspace(1, 0);
    let mut top = first_top(1);
    for (number, name, now) in [(50, "b", 10), (51, "c", 20), (52, "a", 10)] {
        fixture.seal_and_push(id, Some(&snapshot(name)), top, layer(number), now).unwrap();
        top = layer(number);
    }
    let names: Vec<_> = fixture.snapshots(id).unwrap().into_iter().map(|one| one.name).collect();
    assert_eq!(names, ["baseline", "c", "a", "b"]);
}

#[test]
fn a_deleted_snapshot_frees_its_layer_where_nothing_stands_on_it() {
    let fixture = Fixture::new();
    let id = fixture.workspace(1, 0);
    fixture.seal_and_push(id, Some(&snapshot("a")), first_top(1), layer(50), 10).unwrap();
    let baseline = fixture.snapshot(id, "baseline").unwrap();
    fixture.reset(&baseline, layer(51), 20).unwrap();
    assert_eq!(sweep(&fixture), [layer(50)], "the snapshot still needs what is below");
    fixture.delete_snapshot(id, "a", 30).unwrap();
    assert_eq!(sweep(&fixture), [first_top(1)]);
    assert_eq!(
        text(fixture.delete_snapshot(id, "a", 30)),
        "snapshot 'a' does not exist in workspace '010101010101'"
    );
    assert_eq!(text(fixture.delete_snapshot(id, "baseline", 30)), "cannot delete the baseline snapshot");
    assert_eq!(chain(&fixture, layer(51)), [layer(10), layer(51)]);
}

#[test]
fn a_reset_clears_the_history_and_keeps_the_rest() {
    let fixture = Fixture::new();
    let id = fixture.workspace(1, 0);
    fixture.seal_and_push(id, Some(&snapshot("a")), first_top(1), layer(50), 10).unwrap();
    fixture.begin_command(id, &command("x"), 11).unwrap();
    fixture.record_event(id, EventKind::Exec, &serde_json::json!({}), 12).unwrap();
    let a = fixture.snapshot(id, "a").unwrap();
    let before = fixture.get(id).unwrap();
    let after = fixture.reset(&a, layer(51), 20).unwrap();
    let expected = Workspace {
        top_layer: layer(51),
        reset_count: 1,
        last_reset_at: Some(20),
        next_sequence: 1,
        last_activity_at: 20,
        expires_at: Some(20 + TTL),
        ..before
    };
    assert_eq!(after, expected);
    assert_eq!((fixture.commands(id).unwrap(), fixture.events(id).unwrap()), (vec![], vec![]));
    assert_eq!(fixture.snapshots(id).unwrap().len(), 2);
    fixture.delete_snapshot(id, "a", 30).unwrap();
    assert!(matches!(fixture.reset(&a, layer(52), 40), Err(StoreError::NoSnapshot { .. })));
    fixture.seal_and_push(id, Some(&snapshot("a")), layer(51), layer(53), 50).unwrap();
    assert!(matches!(fixture.reset(&a, layer(52), 60), Err(StoreError::NoSnapshot { .. })), "it is another");
}

#[test]
fn a_fork_keeps_the_layers_that_it_stands_on() {
    let fixture = Fixture::new();
    let original = fixture.workspace(1, 0);
    fixture.seal_and_push(original, None, first_top(1), layer(50), 10).unwrap();
    let new = NewWorkspace { parent: Some(first_top(1)), ..new_workspace(2) };
    fixture.begin_create(&new, 20).unwrap();
    let baseline = |layer| Created {
        entry_count: 0,
        bytes_written: 0,
        baseline: NewBaseline::Existing(layer),
        state: WorkspaceState::Stopped,
    };
    for unfit in [layer(20), layer(50), layer(99)] {
        assert!(fixture.finish_create(id(2), &baseline(unfit), 30).is_err(), "{unfit}");
    }
    fixture.finish_create(id(2), &baseline(layer(10)), 30).unwrap();
    fixture.delete(original, Departure::Deleted, 40).unwrap();
    assert_eq!(sweep(&fixture), [layer(50)]);
    assert_eq!(chain(&fixture, layer(20)), [layer(10), first_top(1), layer(20)]);
    assert_eq!(fixture.rules(), []);
    fixture.delete(id(2), Departure::Deleted, 50).unwrap();
    assert_eq!(sweep(&fixture), [layer(20), first_top(1), layer(10)], "the highest first");
}

#[test]
fn nothing_new_stands_on_open_dead_or_foreign_layers() {
    let fixture = Fixture::new();
    let id = fixture.workspace(1, 0);
    let on = |parent, base_key: &str| {
        let new = NewWorkspace { parent: Some(parent), base_key: base_key.to_owned(), ..new_workspace(2) };
        text(fixture.begin_create(&new, 0))
    };
    let base_key = new_workspace(1).base_key;
    assert_eq!(on(first_top(1), &base_key), format!("layer {} is open", first_top(1)));
    assert_eq!(on(layer(10), "other.ext4"), format!("layer {} has another base image", layer(10)));
    fixture.delete(id, Departure::Deleted, 0).unwrap();
    assert_eq!(on(layer(10), &base_key), format!("layer {} is no longer in use", layer(10)));
}

#[test]
fn a_layer_in_use_is_not_forgotten() {
    let fixture = Fixture::new();
    let id = fixture.workspace(1, 0);
    for layer in [layer(10), first_top(1)] {
        assert_eq!(text(fixture.forget_layer(layer)), format!("layer {layer} is still in use"));
    }
    fixture.delete(id, Departure::Deleted, 0).unwrap();
    assert!(fixture.forget_layer(layer(10)).is_err(), "garbage still stands on it");
    assert!(!fixture.forget_layer(layer(99)).unwrap());
}

#[test]
fn a_stack_has_an_end() {
    let fixture = Fixture::new();
    let id = fixture.workspace(1, 0);
    let number = |n: u64| LayerId::from_bytes((1_000_000 + u128::from(n)).to_be_bytes());
    let mut sql = String::new();
    for n in 0..CHAIN_LAYERS as u64 - 2 {
        let parent = if n == 0 { layer(10) } else { number(n - 1) };
        sql += &format!(
            "INSERT INTO layers VALUES ('{}', '{parent}', 'debian_12-1.0.0.ext4', 'sealed', 0);",
            number(n)
        );
    }
    let top = number(CHAIN_LAYERS as u64 - 3);
    sql += &format!(
        "UPDATE layers SET state = 'open' WHERE id = '{top}'; UPDATE workspaces SET top_layer = '{top}';"
    );
    fixture.sql(&format!("BEGIN; {sql} COMMIT;"));
    fixture.seal_and_push(id, None, top, layer(98), 0).unwrap();
    assert_eq!(fixture.chain(layer(98)).unwrap().len(), CHAIN_LAYERS);
    let error = text(fixture.seal_and_push(id, None, layer(98), layer(99), 0));
    assert_eq!(error, format!("layer {} has too many layers below it", layer(98)));
}

#[test]
fn layers_that_serve_one_purpose_become_one() {
    let fixture = Fixture::new();
    let id = fixture.workspace(1, 0);
    fixture.seal_and_push(id, Some(&snapshot("a")), first_top(1), layer(50), 10).unwrap();
    fixture.seal_and_push(id, Some(&snapshot("b")), layer(50), layer(51), 20).unwrap();
    assert_eq!(fixture.mergeable_layers().unwrap(), []);
    let early = fixture.replace_layers(first_top(1), layer(50), layer(60), 30);
    assert_eq!(text(early), format!("layer {} is still in use", first_top(1)));
    fixture.delete_snapshot(id, "a", 30).unwrap();
    assert_eq!(fixture.mergeable_layers().unwrap(), [(first_top(1), layer(50))]);
    fixture.replace_layers(first_top(1), layer(50), layer(60), 40).unwrap();
    assert_eq!(chain(&fixture, layer(51)), [layer(10), layer(60), layer(51)]);
    assert_eq!(fixture.snapshot(id, "b").unwrap().layer, layer(60));
    assert_eq!(sweep(&fixture), [layer(50), first_top(1)]);
    assert_eq!(fixture.rules(), []);
    let apart = fixture.replace_layers(layer(10), layer(51), layer(61), 50);
    assert_eq!(text(apart), format!("layer {} is not right below the other", layer(10)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Random snapshots, resets, forks, deletions and merges: what a workspace or snapshot needs is never
    /// garbage, and when all are gone all layers are.
    #[test]
    fn layers_live_exactly_as_long_as_they_are_needed(steps in prop::collection::vec((0..6u8, 0..4u8, 0..4u8), 1..40)) {
        let fixture = Fixture::new();
        let mut next = 1000u128;
        let mut fresh = move || { next += 1; LayerId::from_bytes(next.to_be_bytes()) };
        create(&fixture, NewWorkspace { top_layer: fresh(), ..new_workspace(1) }, 0);
        for (now, (action, number, name)) in (1..).zip(steps) {
            let id = id(number + 1);
            let Ok(workspace) = fixture.get(id) else {
                let all: Vec<_> = fixture.list().unwrap().into_iter().map(Result::unwrap).collect();
                let parent = all.first().map(|one| fixture.snapshot(one.id, "baseline").unwrap().layer);
                create(&fixture, NewWorkspace { parent, top_layer: fresh(), ..new_workspace(number + 1) }, now);
                continue;
            };
            let name = format!("s{name}");
            let made = match action {
                0 | 1 => fixture.seal_and_push(id, Some(&snapshot(&name)), workspace.top_layer, fresh(), now),
                2 => fixture.seal_and_push(id, None, workspace.top_layer, fresh(), now),
                3 => fixture.snapshot(id, &name).and_then(|at| fixture.reset(&at, fresh(), now)).map(drop),
                4 => fixture.delete_snapshot(id, &name, now).map(drop),
                _ => fixture.delete(id, Departure::Deleted, now).map(drop),
            };
            prop_assert!(
                matches!(made, Ok(()) | Err(StoreError::NoSnapshot { .. } | StoreError::SnapshotExists { .. })),
                "{made:?}"
            );
            if let Some((lower, upper)) = fixture.mergeable_layers().unwrap().first() {
                fixture.replace_layers(*lower, *upper, fresh(), now).unwrap();
            }
            sweep(&fixture);
            for one in fixture.list().unwrap() {
                let one = one.unwrap();
                fixture.chain(one.top_layer).unwrap();
                for snapshot in fixture.snapshots(one.id).unwrap() {
                    fixture.chain(snapshot.layer).unwrap();
                }
            }
            prop_assert_eq!(fixture.rules(), []);
        }
        for one in fixture.list().unwrap() {
            fixture.delete(one.unwrap().id, Departure::Deleted, 0).unwrap();
        }
        sweep(&fixture);
        prop_assert_eq!(fixture.layers().unwrap(), []);
    }
}
