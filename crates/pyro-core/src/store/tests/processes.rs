//! Many connections at once, in threads and in processes, some of which are killed.

use super::*;
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;

/// Says what a child of a test does, and to which database.
const ROLE: &str = "PYRO_TEST_STORE_CHILD";

/// A generator of its own for each process and thread, the same in each run but for process ids.
fn rng(process: u32, thread: u8) -> TestRng {
    let mut seed = [thread; 32];
    seed[..4].copy_from_slice(&process.to_le_bytes());
    TestRng::from_seed(RngAlgorithm::ChaCha, &seed)
}

fn below(rng: &mut TestRng, end: u32) -> u32 {
    rng.next_u32() % end
}

fn new_layer(rng: &mut TestRng) -> LayerId {
    let mut bytes = [0; LayerId::BYTES];
    rng.fill_bytes(&mut bytes);
    LayerId::from_bytes(bytes)
}

/// A number that each successful step adds to, compared with the database at the end.
#[derive(Default)]
struct Tally {
    events: u64,
    resets: u64,
}

/// One random operation on one of four workspaces. Only refusals may come of it.
fn step(store: &StateStore, rng: &mut TestRng, step: u32, tally: &mut Tally) {
    let id = id(1 + below(rng, 4) as u8);
    let now = Millis::from(step);
    let done = match below(rng, 10) {
        0 | 1 => store
            .record_event(id, EventKind::FileWrite, &serde_json::json!(step), now)
            .inspect(|()| tally.events += 1),
        2 | 3 => match store.begin_command(id, &command("true"), now) {
            Ok(key) => store.finish_command(key, CommandOutcome::Exited(0), 1, &printed(b"out"), now),
            Err(error) => Err(error),
        },
        4 => store.get(id).and_then(|one| {
            let new = snapshot(&new_layer(rng).to_string());
            store.seal_and_push(id, Some(&new), one.top_layer, new_layer(rng), now)
        }),
        5 => store.snapshots(id).and_then(|all| {
            let one = &all[below(rng, all.len() as u32) as usize];
            store.reset(one, new_layer(rng), now).map(|_| tally.resets += 1)
        }),
        6 => store.snapshots(id).and_then(|all| {
            store.delete_snapshot(id, &all[below(rng, all.len() as u32) as usize].name, now).map(drop)
        }),
        7 => store
            .garbage_layers()
            .and_then(|all| all.first().map_or(Ok(()), |one| store.forget_layer(*one).map(drop))),
        8 => {
            let labels = BTreeMap::from([("step".to_owned(), rng.next_u32().to_string())]);
            store.update(id, &WorkspaceUpdate { labels, ..WorkspaceUpdate::default() }, now).map(drop)
        }
        _ => store.list().map(|all| assert!(all.iter().all(Result::is_ok))),
    };
    match done {
        Ok(())
        | Err(
            StoreError::TopMoved { .. }
            | StoreError::NoSnapshot { .. }
            | StoreError::BaselineStays
            // Reset by another thread between its begin and its end.
            | StoreError::NoCommand { .. }
            | StoreError::Layer { fault: LayerFault::Used, .. },
        ) => {}
        Err(error) => panic!("step {step}: {error:?}"),
    }
}

#[test]
fn eight_connections_of_mixed_operations_lose_nothing_and_fail_nowhere() {
    let fixture = Fixture::new();
    for number in 1..=4 {
        fixture.workspace(number, 0);
    }
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                let fixture = &fixture;
                scope.spawn(move || {
                    let (store, mut rng, mut tally) = (fixture.again(), rng(0, thread), Tally::default());
                    for number in 0..500 {
                        step(&store, &mut rng, number, &mut tally);
                    }
                    tally
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(fixture.rules(), []);
    let resets: u64 = fixture.list().unwrap().into_iter().map(|one| one.unwrap().reset_count).sum();
    assert_eq!(resets, tallies.iter().map(|one| one.resets).sum::<u64>());
    assert!(resets > 0 && tallies.iter().all(|one| one.events > 0));
}

#[test]
fn no_event_and_no_label_of_eight_connections_is_lost() {
    let fixture = Fixture::new();
    let id = fixture.workspace(1, 0);
    let (threads, steps) = (8, 50);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let store = fixture.again();
            scope.spawn(move || {
                for step in 0..steps {
                    let labels = BTreeMap::from([(format!("t{thread}"), step.to_string())]);
                    let update = WorkspaceUpdate { labels, ..WorkspaceUpdate::default() };
                    store.update(id, &update, step).unwrap();
                    store
                        .record_event(id, EventKind::Update, &serde_json::json!([thread, step]), step)
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(fixture.events(id).unwrap().len() as Millis, threads * steps);
    let labels = fixture.get(id).unwrap().labels;
    assert_eq!(labels.len() as Millis, threads);
    assert!(labels.values().all(|value| *value == (steps - 1).to_string()));
}

#[test]
fn opening_a_new_database_at_once_makes_one() {
    for _ in 0..20 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/state.db");
        let together = Barrier::new(8);
        std::thread::scope(|scope| {
            for number in 1..=8 {
                let (path, together) = (&path, &together);
                scope.spawn(move || {
                    together.wait();
                    let store = StateStore::open(path).unwrap();
                    store.begin_create(&new_workspace(number), 0).unwrap();
                });
            }
        });
        let store = StateStore::open(&path).unwrap();
        assert_eq!(store.list().unwrap().len(), 8);
        let files = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(files, 3, "the database, its log and the log's index");
    }
}

/// Starts this test binary again as a child with a role.
fn child(role: &str, store: &StateStore) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "store::tests::processes::a_child_plays_its_role",
            "--include-ignored",
            "--nocapture",
        ])
        .env(ROLE, format!("{role}:{}", store.path().display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "started by another test"]
fn a_child_plays_its_role() {
    let role = std::env::var(ROLE).unwrap_or_default();
    let Some((role, path)) = role.split_once(':') else {
        println!("skipped (it is started by another test)");
        return;
    };
    let store = StateStore::open(Path::new(path)).unwrap();
    println!("ready");
    std::io::stdout().flush().unwrap();
    match role {
        "commands" => {
            for _ in 0..5 {
                let key = store.begin_command(id(1), &command("true"), 0).unwrap();
                println!("sequence {}", key.sequence);
                store.finish_command(key, CommandOutcome::Exited(0), 1, &printed(b"x"), 0).unwrap();
            }
        }
        "mixed" => {
            let (mut rng, mut tally) = (rng(std::process::id(), 0), Tally::default());
            for number in 0..100 {
                step(&store, &mut rng, number, &mut tally);
            }
            println!("resets {}", tally.resets);
        }
        // Until it is killed.
        _ => {
            let mut rng = rng(std::process::id(), 0);
            for number in 0.. {
                step(&store, &mut rng, number, &mut Tally::default());
            }
        }
    }
}

/// The numbers that children print after `word`, once all have ended well.
fn told(children: Vec<Child>, word: &str) -> Vec<u64> {
    let mut numbers = Vec::new();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        numbers.extend(text.lines().filter_map(|line| line.strip_prefix(word)?.trim().parse::<u64>().ok()));
    }
    numbers
}

#[test]
fn eight_processes_of_mixed_operations_lose_nothing_and_fail_nowhere() {
    let fixture = Fixture::new();
    for number in 1..=4 {
        fixture.workspace(number, 0);
    }
    let resets = told((0..8).map(|_| child("mixed", &fixture)).collect(), "resets");
    assert_eq!(resets.len(), 8);
    let recorded: u64 = fixture.list().unwrap().into_iter().map(|one| one.unwrap().reset_count).sum();
    assert_eq!(recorded, resets.iter().sum::<u64>());
    assert_eq!(fixture.rules(), []);
}

#[test]
fn twenty_processes_number_their_commands_without_gap_or_repeat() {
    let fixture = Fixture::new();
    let id = fixture.workspace(1, 0);
    let children: Vec<Child> = (0..20).map(|_| child("commands", &fixture)).collect();
    let mut sequences = told(children, "sequence");
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=100).collect::<Vec<u64>>());
    let recorded: Vec<_> = fixture.commands(id).unwrap().iter().map(|one| one.key.sequence).collect();
    assert_eq!(recorded, sequences);
    assert_eq!(fixture.rules(), []);
}

#[test]
fn processes_killed_anywhere_leave_a_whole_database() {
    let fixture = Fixture::new();
    for number in 1..=4 {
        fixture.workspace(number, 0);
    }
    for round in 0..12u32 {
        let mut children = [child("steps", &fixture), child("steps", &fixture)];
        for one in &mut children {
            let mut output = BufReader::new(one.stdout.take().unwrap());
            let mut line = String::new();
            while !line.contains("ready") {
                line.clear();
                assert_ne!(output.read_line(&mut line).unwrap(), 0);
            }
        }
        // While this test works on it too; the number of steps decides when the others die.
        let (mut rng, mut tally) = (rng(0, round as u8), Tally::default());
        for number in 0..1 + round * 3 {
            step(&fixture, &mut rng, number, &mut tally);
        }
        for one in &mut children {
            one.kill().unwrap();
            let status = one.wait().unwrap();
            assert!(!status.success() && status.code().is_none(), "it ended by itself: {status}");
        }
        for number in 1..=4 {
            fixture.mark_lost(id(number)).unwrap();
        }
        assert_eq!(fixture.again().check().unwrap(), []);
    }
}
