//! Many `pyro` processes at work in the same workspaces at the same time, in real guests.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use support::host::Host;
use support::{Ran, guest_available, wait_until};

const WORKERS: u64 = 8;
const OPERATIONS: u64 = 60;
const SHARED: [&str; 2] = ["left", "right"];

/// What one worker has done, as it must be found at the end.
#[derive(Default)]
struct Done {
    /// By workspace, the numbers that its commands were given.
    sequences: BTreeMap<&'static str, Vec<u64>>,
    /// By workspace, its label's last value.
    labels: BTreeMap<&'static str, String>,
    /// By workspace and path, what it wrote.
    files: BTreeMap<(&'static str, String), String>,
    snapshots: BTreeSet<(&'static str, String)>,
}

/// Small and repeatable: the order in which the workers meet is chance enough.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn work(host: &Host, worker: u64) -> Done {
    let mut random = Random(worker);
    let mut done = Done::default();
    for step in 0..OPERATIONS {
        let workspace = SHARED[random.below(2) as usize];
        let name = format!("w{worker}-{step}");
        match random.below(20) {
            0..=5 => exec(host, workspace, &mut done),
            6..=8 => {
                let path = format!("dir-{}/{name}", random.below(3));
                host.done(&["file", "write", workspace, &path, "--text", &name]);
                done.files.insert((workspace, path), name);
            }
            9 | 10 => {
                let mut mine = done.files.iter().filter(|((there, _), _)| *there == workspace);
                if let Some(((_, path), text)) = mine.next_back() {
                    let read = host.done(&["file", "read", workspace, path, "--content-only"]);
                    assert_eq!(read, *text, "{path}");
                }
            }
            11..=13 => {
                host.done(&["update", workspace, "--label", &format!("w{worker}={name}")]);
                done.labels.insert(workspace, name);
            }
            14 => drop(host.done(&["status", workspace])),
            15 => drop(host.done(&["list"])),
            16 => drop(host.done(&["logs", workspace])),
            17 => drop(host.done(&["diff", workspace, "--name-only"])),
            18 => {
                host.done(&["snapshot", "create", workspace, &name]);
                done.snapshots.insert((workspace, name));
            }
            _ => match done.snapshots.pop_first() {
                Some((workspace, name)) => drop(host.done(&["snapshot", "delete", workspace, &name])),
                None => drop(host.done(&["summary", workspace])),
            },
        }
    }
    done
}

fn exec(host: &Host, workspace: &'static str, done: &mut Done) {
    let ran = host.workspace(&["exec", workspace, "--", "true"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let number = ran.stderr.split_whitespace().find_map(|word| word.strip_prefix("sequence="));
    done.sequences.entry(workspace).or_default().push(number.unwrap().parse().unwrap());
}

/// Stops, starts and resets a workspace again and again.
fn unsettle(host: &Host) {
    for _ in 0..2 {
        host.done(&["stop", "third"]);
        host.done(&["start", "third"]);
        host.done(&["reset", "third"]);
    }
}

/// Uses a workspace that others stop and reset under it: refusals are fine, anything else is not.
fn use_unsettled(host: &Host, is_over: &AtomicBool) -> u64 {
    let mut done = 0;
    for number in 0u64.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let ran = match number % 4 {
            0 => host.workspace(&["exec", "third", "--", "true"]),
            1 => host.workspace(&["status", "third"]),
            2 => host.workspace(&["diff", "third", "--name-only"]),
            _ => host.workspace(&["file", "write", "third", "note", "--text", "x"]),
        };
        assert!(ran.code == Some(0) || is_refusal(&ran), "{number}: {ran:?}");
        done += u64::from(ran.code == Some(0));
    }
    done
}

fn is_refusal(ran: &Ran) -> bool {
    let texts = [
        "must be in 'started' state",
        "the machine ended",
        "supervisor ended unexpectedly",
        "was stopped meanwhile",
    ];
    ran.stderr.contains("[error] ") && texts.iter().any(|text| ran.stderr.contains(text))
}

#[test]
fn eight_processes_at_once_lose_nothing_of_each_other() {
    if !guest_available() {
        return;
    }
    let host = Host::new();
    for name in SHARED {
        host.create(&["--name", name]);
    }
    let all: Vec<Done> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                scope.spawn({
                    let host = &host;
                    move || work(host, worker)
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    for workspace in SHARED {
        let of = |numbers: &BTreeMap<&str, Vec<u64>>| numbers.get(workspace).cloned().unwrap_or_default();
        let mut given: Vec<u64> = all.iter().flat_map(|done| of(&done.sequences)).collect();
        given.sort_unstable();
        assert!(given.iter().copied().eq(1..=given.len() as u64), "{workspace}: {given:?}");
        let status = host.json(&["status", workspace]);
        assert_eq!(status["command_count"], given.len());
        let logged = host.json(&["logs", workspace]);
        let entries = logged["entries"].as_array().unwrap();
        assert!(entries.iter().map(|entry| entry["sequence"].as_u64().unwrap()).eq(given));
        assert!(entries.iter().all(|entry| entry["exit_code"] == 0), "{logged}");

        let labels = (0u64..)
            .zip(&all)
            .filter_map(|(worker, done)| Some((format!("w{worker}"), done.labels.get(workspace)?)));
        let labels: serde_json::Value =
            labels.map(|(key, value)| (key, value.clone().into())).collect::<serde_json::Map<_, _>>().into();
        assert_eq!(status["labels"], labels);

        let kept = all.iter().flat_map(|done| &done.snapshots).filter(|(there, _)| *there == workspace);
        let mut kept: Vec<String> =
            kept.map(|(_, name)| name.clone()).chain(["baseline".to_owned()]).collect();
        kept.sort();
        let listed = host.done(&["snapshot", "list", workspace]);
        let mut found: Vec<&str> = listed.lines().filter_map(|line| line.split(' ').next()).collect();
        found.sort_unstable();
        assert_eq!(found, kept);

        let files = all.iter().flat_map(|done| &done.files).filter(|((there, _), _)| *there == workspace);
        let mut wanted: Vec<String> = files.map(|((_, path), text)| format!("{path}:{text}")).collect();
        wanted.sort();
        let found = host.shell(workspace, "grep -r '' dir-* | LC_ALL=C sort");
        assert_eq!(found.lines().collect::<Vec<_>>(), wanted);
    }
    let checked = host.pyro.run(&["fsck"]);
    assert_eq!((checked.code, checked.stdout.as_str()), (Some(0), "State: clean\n"), "{checked:?}");
}

#[test]
fn whoever_uses_a_workspace_that_is_restarted_is_refused_or_served() {
    if !guest_available() {
        return;
    }
    let host = Host::new();
    host.create(&["--name", "third"]);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let users: Vec<_> = (0..2).map(|_| scope.spawn(|| use_unsettled(&host, &is_over))).collect();
        let unsettled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| unsettle(&host)));
        is_over.store(true, Ordering::Relaxed);
        for user in users {
            assert!(user.join().unwrap() > 0, "nothing was ever done");
        }
        unsettled.unwrap();
    });
    let checked = host.pyro.run(&["fsck"]);
    assert_eq!((checked.code, checked.stdout.as_str()), (Some(0), "State: clean\n"), "{checked:?}");
    delete_while_others_look(&host);
}

/// A deletion is not disturbed by others who look, nor they by it.
fn delete_while_others_look(host: &Host) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let look = || {
            while !is_over.load(Ordering::Relaxed) {
                host.done(&["list"]);
                let ran = host.workspace(&["stop", "third"]);
                let is_gone =
                    ran.stderr.contains("[error] workspace '") && ran.stderr.contains("does not exist");
                assert!(ran.code == Some(0) || is_gone, "{ran:?}");
            }
        };
        let lookers = [scope.spawn(look), scope.spawn(look)];
        let deleted = host.workspace(&["delete", "third"]);
        is_over.store(true, Ordering::Relaxed);
        for looker in lookers {
            looker.join().unwrap();
        }
        assert_eq!(deleted.code, Some(0), "{deleted:?}");
    });
    wait_until("the machine's processes to end", || host.holders().is_empty());
    let left: Vec<_> = host.pyro.state.path().join("workspaces").read_dir().unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}
