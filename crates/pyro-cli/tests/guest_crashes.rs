//! What sudden deaths leave of workspaces in real guests: at every point where pyro can be told to die, and
//! of a machine's processes while its guest writes.

#![allow(clippy::unwrap_used)]

mod support;

use pyro_core::faults::FaultPoint;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use support::host::Host;
use support::network::{Server, client};
use support::published::{assert_free, publish};
use support::{Ran, descendants, guest_available, wait_until};

/// Which test dies there. Without a wildcard, so that no point can be forgotten.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    Making,
    Running,
    AtRest,
    Reset,
    Removal,
    /// A shell is opened or closed.
    Shells,
    Services,
    /// What the guest may reach is changed.
    Network,
}

fn group(point: FaultPoint) -> Group {
    use FaultPoint as P;
    match point {
        P::CreateDirectory
        | P::CreateLayer
        | P::CreateRecorded
        | P::CreateSecrets
        | P::CreateBooted
        | P::CreateSeeded
        | P::CreateFinished
        | P::ForkSealed
        | P::ForkMade => Group::Making,
        P::BootLocked
        | P::BootReady
        | P::BootRecorded
        | P::StartBooted
        | P::StopFlushed
        | P::StopEnded
        | P::StopAnswered
        | P::SealFrozen
        | P::SealReplaced
        | P::SealRecorded
        | P::SealThawed
        | P::SyncConnected
        | P::SyncSending
        | P::SyncMerged => Group::Running,
        P::LayerAnnounced
        | P::LayerMade
        | P::RestSealed
        | P::RestLayer
        | P::RestRecorded
        | P::SnapshotForgotten
        | P::MergeWritten
        | P::MergeRecorded
        | P::CollectRemoved
        | P::CollectForgotten => Group::AtRest,
        P::ResetStopped | P::ResetLayer | P::ResetRecorded | P::ResetCollected | P::ResetBooted => {
            Group::Reset
        }
        P::ShellExecuted | P::ShellRecorded | P::ShellEnded | P::ShellForgotten => Group::Shells,
        P::DeleteStopped
        | P::DeleteMarked
        | P::RemoveSecrets
        | P::RemoveAside
        | P::RemoveDirectory
        | P::RemoveForgotten
        | P::ExpiryMarked => Group::Removal,
        P::ServiceExecuted | P::ServiceRecorded | P::ServiceReady | P::ServiceEnded | P::ServicesStopped => {
            Group::Services
        }
        P::UpdateRecorded | P::UpdateEnforced | P::UpdateWithdrawn | P::UpdateAnswered => Group::Network,
    }
}

fn points(wanted: Group) -> impl Iterator<Item = FaultPoint> {
    FaultPoint::ALL.iter().copied().filter(move |point| group(*point) == wanted)
}

/// Runs a command that dies at `point`, or whose supervisor does at once or later.
fn doomed(host: &Host, point: FaultPoint, arguments: &[&str]) -> Ran {
    let fault = format!("{}={}", point.name(), mark(host, point));
    let mut command = host.pyro.command(&[&["workspace"], arguments].concat());
    Ran::from(command.env("PYRO_TEST_FAULT", fault).output().unwrap())
}

fn mark(host: &Host, point: FaultPoint) -> String {
    host.path(point.name())
}

/// Fails unless a process has died at `point`.
fn assert_died(host: &Host, point: FaultPoint) {
    let mark = mark(host, point);
    assert!(Path::new(&mark).exists(), "nothing died at {}", point.name());
    fs::remove_file(mark).unwrap();
}

/// Runs a command that dies at `point` itself.
fn crash(host: &Host, point: FaultPoint, arguments: &[&str]) {
    let ran = doomed(host, point, arguments);
    assert_died(host, point);
    assert_eq!(ran.code, None, "{}: {ran:?}", point.name());
}

fn assert_clean(host: &Host, when: &str) {
    host.done(&["list"]);
    let checked = host.pyro.run(&["fsck"]);
    assert_eq!((checked.code, checked.stdout.as_str()), (Some(0), "State: clean\n"), "{when}: {checked:?}");
}

/// Fails unless nothing is left of any workspace.
fn assert_nothing_left(host: &Host) {
    host.workspace(&["delete", "--all"]);
    wait_until("the machines' processes to end", || host.holders().is_empty());
    assert_clean(host, "at the end");
    for place in ["layers", "bases", "secrets", "workspaces"] {
        assert_eq!(names_in(host, place), [""; 0], "left in {place}");
    }
}

fn names_in(host: &Host, place: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(host.pyro.state.path().join(place)) else { return Vec::new() };
    entries.flatten().map(|entry| entry.file_name().into_string().unwrap()).collect()
}

/// What of a stopped workspace can be half.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    snapshots: Vec<String>,
    entries: Vec<String>,
    content: String,
    commands: u64,
}

/// Of a workspace that is stopped, or about to be seen so.
fn state(host: &Host, workspace: &str) -> State {
    wait_until("the machine to be gone", || host.json(&["status", workspace])["state"] == "stopped");
    wait_until("its processes to end", || host.holders().is_empty());
    let listed = host.json(&["disk", "list", workspace]);
    let entries = listed["entries"].as_array().unwrap();
    State {
        snapshots: snapshots(host, workspace),
        entries: entries.iter().map(|entry| entry["path"].as_str().unwrap().to_owned()).collect(),
        content: host.done(&["disk", "read", workspace, "state", "--content-only"]),
        commands: host.json(&["status", workspace])["command_count"].as_u64().unwrap(),
    }
}

fn snapshots(host: &Host, workspace: &str) -> Vec<String> {
    let listed = host.done(&["snapshot", "list", workspace]);
    listed.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

fn workspaces(host: &Host) -> Vec<(String, String)> {
    let listed = host.json(&["list"]);
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let mut found: Vec<_> = listed["workspaces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (text(&one["name"]), text(&one["state"])))
        .collect();
    found.sort();
    found
}

#[test]
fn a_supervisor_that_dies_over_a_shell_leaves_none() {
    if !guest_available() {
        return;
    }
    let host = Host::new();
    host.create(&["--name", "w"]);
    for point in points(Group::Shells) {
        host.done(&["stop", "w"]);
        assert_eq!(doomed(&host, point, &["start", "w"]).code, Some(0), "{}", point.name());
        let opened = host.workspace(&["shell", "open", "w", "--id-only"]);
        if opened.code == Some(0) {
            let closed = host.workspace(&["shell", "close", "w", opened.stdout.trim_end()]);
            assert_ne!(closed.code, Some(0), "{}: {closed:?}", point.name());
        }
        assert_died(&host, point);
        wait_until("the machine to be gone", || host.json(&["status", "w"])["state"] == "stopped");
        assert_eq!(host.json(&["status", "w"])["shell_count"], 0, "{}", point.name());
        assert_clean(&host, point.name());
        host.done(&["start", "w"]);
        let shell = host.done(&["shell", "open", "w", "--id-only"]);
        host.done(&["shell", "close", "w", shell.trim_end()]);
    }
    assert_nothing_left(&host);
}

#[test]
fn what_dies_while_it_is_made_is_made_whole_or_gone() {
    if !guest_available() {
        return;
    }
    let host = Host::new();
    host.write("seed/state", "seeded\n");
    let seed = host.path("seed");
    host.create(&["--name", "source", "--secret", "TOKEN=value"]);
    host.shell("source", "echo forked > state");
    let source = ("source".to_owned(), "started".to_owned());
    let machine = host.holders().len();
    let create = ["create", "debian:12", "--mem-mib", "256", "--name", "new", "--secret", "TOKEN=value"];
    let create = [&create[..], &["--seed-path", &seed]].concat();
    let fork = vec!["fork", "source", "--name", "new"];
    // The supervisor's own deaths are seen in full elsewhere.
    let its_own = [FaultPoint::BootReady, FaultPoint::SealReplaced, FaultPoint::SealRecorded];
    for point in points(Group::Making).chain(its_own) {
        let is_fork = matches!(point, FaultPoint::ForkSealed | FaultPoint::ForkMade);
        let ran = doomed(&host, point, if is_fork { &fork } else { &create });
        assert_died(&host, point);
        assert_eq!(ran.code.is_none(), !its_own.contains(&point), "{}: {ran:?}", point.name());
        assert_ne!(ran.code, Some(0), "{}: {ran:?}", point.name());
        let is_made = matches!(point, FaultPoint::CreateFinished | FaultPoint::ForkMade);
        if is_made {
            assert_eq!(workspaces(&host), [("new".to_owned(), "started".to_owned()), source.clone()]);
            let text = if is_fork { "forked\n" } else { "seeded\n" };
            assert_eq!(host.shell("new", "cat state; test -s /run/pyro-secrets/TOKEN"), text);
            assert_clean(&host, point.name());
            host.done(&["delete", "new"]);
        }
        wait_until(point.name(), || workspaces(&host) == [source.clone()] && host.holders().len() == machine);
        assert_clean(&host, point.name());
        assert_eq!(names_in(&host, "secrets").len(), 1, "{}", point.name());
        assert_eq!(names_in(&host, "workspaces").len(), 1, "{}", point.name());
    }
    assert_eq!(host.shell("source", "cat state"), "forked\n");
    assert_nothing_left(&host);
}

#[test]
fn a_machine_that_dies_leaves_its_disk_before_or_after() {
    if !guest_available() {
        return;
    }
    let host = Host::new();
    let big = "x".repeat(8 << 20);
    host.write("tree/in/big", &big);
    host.write("tree/in/last", "last\n");
    host.create(&["--name", "w"]);
    host.shell("w", "echo 0 > state; sync");
    sync_crashes(&host, &host.path("tree"));
    host.done(&["stop", "w"]);
    let mut wanted = state(&host, "w");
    for (number, point) in points(Group::Running).enumerate() {
        let name = format!("s{number}");
        match point {
            FaultPoint::SyncConnected | FaultPoint::SyncSending | FaultPoint::SyncMerged => continue,
            FaultPoint::StartBooted => {
                crash(&host, point, &["start", "w"]);
                assert_eq!(host.json(&["status", "w"])["state"], "started");
                assert_eq!(host.shell("w", "cat state"), wanted.content);
                wanted.commands += 1;
                host.done(&["stop", "w"]);
            }
            FaultPoint::BootLocked | FaultPoint::BootReady | FaultPoint::BootRecorded => {
                let ran = doomed(&host, point, &["start", "w"]);
                assert!(ran.code.is_some_and(|code| code != 0), "{ran:?}");
            }
            FaultPoint::StopAnswered => {
                host.done(&["start", "w"]);
                crash(&host, point, &["stop", "w"]);
            }
            FaultPoint::StopFlushed | FaultPoint::StopEnded => {
                assert_eq!(doomed(&host, point, &["start", "w"]).code, Some(0));
                wanted.content = format!("{number}\n");
                wanted.commands += 1;
                host.shell("w", &format!("echo {number} > state"));
                let stopped = host.done(&["stop", "w"]);
                assert!(stopped.contains("\nState: stopped\n"), "{stopped}");
            }
            _ => {
                assert_eq!(doomed(&host, point, &["start", "w"]).code, Some(0));
                wanted.content = format!("{number}\n");
                wanted.commands += 1;
                host.shell("w", &format!("echo {number} > state; sync"));
                let ran = host.workspace(&["snapshot", "create", "w", &name]);
                assert!(ran.code.is_some_and(|code| code != 0), "{ran:?}");
                if matches!(point, FaultPoint::SealRecorded | FaultPoint::SealThawed) {
                    wanted.snapshots.insert(1, name);
                }
            }
        }
        if !matches!(point, FaultPoint::StartBooted | FaultPoint::StopAnswered) {
            assert_died(&host, point);
        }
        assert_eq!(state(&host, "w"), wanted, "{}", point.name());
        assert_clean(&host, point.name());
    }
    host.done(&["start", "w"]);
    assert_eq!(host.shell("w", "cat state"), wanted.content);
    assert_nothing_left(&host);
}

/// A push whose pyro dies is there as a whole or not at all.
fn sync_crashes(host: &Host, tree: &str) {
    for point in points(Group::Running) {
        let is_merged = match point {
            FaultPoint::SyncConnected | FaultPoint::SyncSending => false,
            FaultPoint::SyncMerged => true,
            _ => continue,
        };
        crash(host, point, &["sync", "push", "w", tree]);
        let found = host.shell("w", "find . -mindepth 1 | sort | xargs; cat in/last 2>/dev/null; exit 0");
        let wanted = if is_merged { "./in ./in/big ./in/last ./state\nlast\n" } else { "./state\n" };
        assert_eq!(found, wanted, "{}", point.name());
        assert_clean(host, point.name());
    }
}

#[test]
fn what_dies_over_a_disk_at_rest_leaves_it_before_or_after() {
    if !guest_available() {
        return;
    }
    let host = Host::new();
    host.create(&["--name", "w"]);
    host.shell("w", "echo one > state");
    host.done(&["snapshot", "create", "w", "low"]);
    host.shell("w", "echo two > state");
    host.done(&["stop", "w"]);
    let wanted = state(&host, "w");
    assert_eq!(
        (wanted.content.as_str(), &wanted.snapshots[..]),
        ("two\n", &["baseline", "low"].map(String::from)[..])
    );
    for point in points(Group::AtRest) {
        let is_creation = matches!(
            point,
            FaultPoint::LayerAnnounced
                | FaultPoint::LayerMade
                | FaultPoint::RestSealed
                | FaultPoint::RestLayer
                | FaultPoint::RestRecorded
        );
        let mut with_next = wanted.clone();
        with_next.snapshots.insert(1, "next".to_owned());
        if is_creation {
            crash(&host, point, &["snapshot", "create", "w", "next"]);
            let is_made = point == FaultPoint::RestRecorded;
            assert_eq!(state(&host, "w"), *(if is_made { &with_next } else { &wanted }), "{}", point.name());
            assert_clean(&host, point.name());
            if !is_made {
                host.done(&["snapshot", "create", "w", "next"]);
            }
        } else {
            host.done(&["snapshot", "create", "w", "gone"]);
            host.done(&["snapshot", "create", "w", "next"]);
            crash(&host, point, &["snapshot", "delete", "w", "gone"]);
        }
        assert_eq!(state(&host, "w"), with_next, "{}", point.name());
        assert_clean(&host, point.name());
        assert_eq!(
            host.done(&["diff", "w", "--against", "low", "--name-only"]),
            "state\n",
            "{}",
            point.name()
        );
        assert_eq!(
            host.done(&["diff", "w", "--against", "next"]),
            "No workspace changes.\n",
            "{}",
            point.name()
        );
        host.done(&["snapshot", "delete", "w", "next"]);
    }
    assert_eq!(state(&host, "w"), wanted);
    host.done(&["start", "w"]);
    assert_eq!(host.shell("w", "cat state"), "two\n");
    host.done(&["reset", "w", "--snapshot", "low"]);
    assert_eq!(host.shell("w", "cat state"), "one\n");
    assert_nothing_left(&host);
}

#[test]
fn a_reset_that_dies_has_happened_or_not() {
    if !guest_available() {
        return;
    }
    let host = Host::new();
    host.create(&["--name", "w"]);
    for name in ["one", "two"] {
        host.shell("w", &format!("echo {name} > state"));
        host.done(&["snapshot", "create", "w", name]);
    }
    host.shell("w", "echo now > state; sync");
    let mut wanted = ("now", 3);
    for (number, point) in points(Group::Reset).enumerate() {
        let target = ["one", "two"][number % 2];
        crash(&host, point, &["reset", "w", "--snapshot", target]);
        if !matches!(point, FaultPoint::ResetStopped | FaultPoint::ResetLayer) {
            wanted = (target, 0);
        }
        if point == FaultPoint::ResetBooted {
            assert_eq!(host.shell("w", "cat state"), format!("{target}\n"));
            assert_eq!(host.json(&["logs", "w"])["entries"][0]["sequence"], 1);
            wanted.1 += 1;
            host.done(&["stop", "w"]);
        }
        let found = state(&host, "w");
        assert_eq!((found.content.trim_end(), found.commands), wanted, "{}", point.name());
        assert_eq!(found.snapshots, ["baseline", "two", "one"], "{}", point.name());
        assert_clean(&host, point.name());
    }
    assert_nothing_left(&host);
}

#[test]
fn a_removal_that_dies_is_gone_on_with() {
    if !guest_available() {
        return;
    }
    let host = Host::new();
    let id = host.create(&["--name", "w", "--secret", "TOKEN=value"]);
    for point in points(Group::Removal) {
        match point {
            FaultPoint::DeleteStopped => {
                crash(&host, point, &["delete", "w"]);
                assert_eq!(host.json(&["status", "w"])["state"], "stopped");
                assert_clean(&host, point.name());
                continue;
            }
            FaultPoint::DeleteMarked => crash(&host, point, &["delete", "w"]),
            FaultPoint::ExpiryMarked => {
                let id = host.create(&["--name", "short"]);
                host.done(&["stop", "short"]);
                host.expire(&id);
                crash(&host, point, &["list"]);
            }
            _ => {
                // One that is half made is removed by whoever comes next.
                let create = ["create", "debian:12", "--secret", "TOKEN=value"];
                crash(&host, FaultPoint::CreateSecrets, &create);
                assert_eq!(names_in(&host, "secrets").len(), 1);
                crash(&host, point, &["list"]);
            }
        }
        assert_eq!(host.done(&["list"]), "No workspaces.\n", "{}", point.name());
        assert_clean(&host, point.name());
        for place in ["layers", "secrets", "workspaces"] {
            assert_eq!(names_in(&host, place), [""; 0], "left in {place} at {}", point.name());
        }
    }
    let ran = host.workspace(&["status", &id]);
    assert!(ran.stderr.contains(&format!("[error] workspace '{id}' does not exist")), "{ran:?}");
    let ran = host.workspace(&["status", "short"]);
    let text = "[error] workspace 'short' expired and was automatically deleted";
    assert!(ran.code == Some(1) && ran.stderr.contains(text), "{ran:?}");
    assert_nothing_left(&host);
}

#[test]
fn a_started_workspace_whose_time_is_over_ends_by_itself() {
    if !guest_available() {
        return;
    }
    let host = Host::new();
    let id = host.create(&["--name", "brief", "--secret", "TOKEN=value", "--ttl-seconds", "60"]);
    // While a command runs its time is not over, however long that takes.
    let command = host.spawn_shell("brief", "echo begun; sleep 3; echo done");
    wait_until("the command to begin", || host.json(&["status", "brief"])["command_count"] == 1);
    host.expire(&id);
    let ran = Ran::from(command.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "begun\ndone\n"), "{}", ran.stderr);
    assert!(host.done(&["list"]).contains(" state=started "));
    // Its machine ends without anybody's help: nobody but the supervisor removes one that is started.
    wait_until("the machine to end", || host.holders().is_empty());
    assert!(host.pyro.state.path().join("workspaces").read_dir().unwrap().next().is_none());
    for address in ["brief", &id] {
        let ran = host.workspace(&["exec", address, "--", "true"]);
        let text = format!("[error] workspace '{address}' expired and was automatically deleted");
        assert!(ran.code == Some(1) && ran.stderr.contains(&text), "{ran:?}");
    }
    assert_nothing_left(&host);
}

/// Writes numbers and tells each one once the disk has it.
const WRITER: &str = r#"mkdir -p "$0" && cd "$0" && exec perl -e '
use IO::Handle; STDOUT->autoflush(1);
sub put { my ($how, $name, $n) = @_; open(my $f, $how, $name) or die; print $f "$n\n"; $f->flush; $f->sync or die }
for (my $n = 1; ; $n++) { put(">", "file-$n", $n) if $n % 5 == 0; put(">>", "log", $n); print "$n\n" }'"#;

#[test]
fn acknowledged_writes_survive_any_kill() {
    if !guest_available() {
        return;
    }
    let host = Host::new();
    host.create(&["--name", "w"]);
    let mut acknowledged: Vec<(String, u64)> = Vec::new();
    let engines = support::engine_programs().iter().map(|program| (*program, 23));
    let rounds = [("supervise-machine", 40), ("pyro-vmm", 75), ("supervise-machine", 110)];
    for (round, (victim, count)) in rounds.into_iter().chain(engines).enumerate() {
        let directory = format!("round-{round}");
        let told = write_until_killed(&host, &directory, victim, count);
        assert!(told >= count, "{victim}: {told}");
        acknowledged.push((directory, told));
        // At once: the machine's last processes may still be there.
        let started = host.done(&["start", "w"]);
        assert!(started.contains("\nState: started\n"), "{started}");
        for (directory, told) in &acknowledged {
            let log = host.shell("w", &format!("cat {directory}/log"));
            let numbers: Vec<u64> = log.lines().map(|line| line.parse().unwrap()).collect();
            let last = numbers.len() as u64;
            assert!(last >= *told, "{directory}: {told} were told, {last} are there");
            assert!(numbers.iter().copied().eq(1..=last), "{directory}: {numbers:?}");
            let files =
                host.shell("w", &format!("cd {directory}; for n in $(seq 5 5 {told}); do cat file-$n; done"));
            let wanted: String = (5..=*told).step_by(5).map(|n| format!("{n}\n")).collect();
            assert_eq!(files, wanted, "{directory}");
        }
        assert_clean(&host, victim);
    }
    let states: BTreeSet<String> = host.json(&["logs", "w"])["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["state"].to_string())
        .collect();
    assert!(!states.iter().any(|state| state.contains("running")), "{states:?}");
    assert_nothing_left(&host);
}

/// Runs the writer, kills `victim` once `count` numbers were told, and returns the last number told.
fn write_until_killed(host: &Host, directory: &str, victim: &str, count: u64) -> u64 {
    let arguments =
        ["workspace", "exec", "w", "--timeout-seconds", "120", "--", "sh", "-c", WRITER, directory];
    let mut child =
        host.pyro.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut last = 0;
    for line in lines.map_while(Result::ok) {
        last = line.parse().unwrap();
        if last == count / 2 && victim == "pyro-vmm" {
            host.done(&["snapshot", "create", "w", directory]);
        }
        if last == count {
            let supervisor = host.supervisor();
            let pid = std::iter::once(supervisor)
                .chain(descendants(supervisor).into_iter().map(|(pid, _)| pid))
                .find(|pid| {
                    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                    String::from_utf8_lossy(&command).split('\0').take(2).any(|word| word.contains(victim))
                });
            kill_process(Pid::from_raw(pid.unwrap().try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
        }
    }
    assert_eq!(child.wait().unwrap().code(), Some(125), "the command's end is unknown");
    last
}

#[test]
fn a_supervisor_that_dies_ends_its_services_and_its_records_say_so() {
    if !guest_available() {
        return;
    }
    let host = Host::new();
    host.create(&["--name", "w"]);
    host.done(&["service", "start", "w", "old", "--shell", "echo kept"]);
    host.done(&["service", "wait", "w", "old", "--until", "ended"]);
    host.done(&["stop", "w"]);
    for point in points(Group::Services) {
        assert_eq!(doomed(&host, point, &["start", "w"]).code, Some(0));
        let started = host.workspace(&[
            "service",
            "start",
            "w",
            point.name().split(':').next_back().unwrap(),
            "--shell",
            "echo up; exec sleep 1000",
        ]);
        let wanted = match point {
            FaultPoint::ServiceEnded => {
                assert_eq!(started.code, Some(0), "{started:?}");
                // The death of its supervisor is the end of the service that was asked for.
                assert_eq!(host.workspace(&["service", "stop", "w", "ended"]).code, Some(0));
                Some("machine_ended")
            }
            FaultPoint::ServicesStopped => {
                assert_eq!(started.code, Some(0), "{started:?}");
                host.workspace(&["stop", "w"]);
                Some("workspace_stopped")
            }
            _ => {
                assert!(started.code.is_some_and(|code| code != 0), "{started:?}");
                (point != FaultPoint::ServiceExecuted).then_some("machine_ended")
            }
        };
        assert_died(&host, point);
        wait_until("the machine to be gone", || host.json(&["status", "w"])["state"] == "stopped");
        wait_until("its processes to end", || host.holders().is_empty());
        let listed = host.json(&["service", "list", "w"]);
        let name = point.name().split(':').next_back().unwrap();
        let found = listed["services"].as_array().unwrap().iter().find(|one| one["service_name"] == name);
        let reason = found.map(|one| (one["state"].as_str().unwrap(), one["stop_reason"].as_str().unwrap()));
        assert_eq!(reason, wanted.map(|wanted| ("stopped", wanted)), "{}", point.name());
        assert_eq!(listed["running_count"], 0);
        assert!(host.done(&["service", "logs", "w", "old"]).ends_with("\nkept\n"));
        assert_clean(&host, point.name());
    }
    host.done(&["start", "w"]);
    host.done(&["service", "start", "w", "recorded", "--shell", "exec sleep 1000"]);
    host.done(&["reset", "w"]);
    assert_eq!(host.json(&["service", "list", "w"])["count"], 0);
    let logs = host.pyro.state.path().join("workspaces");
    let logs = fs::read_dir(logs).unwrap().flatten().next().unwrap().path().join("services");
    assert_eq!(fs::read_dir(logs).unwrap().count(), 0, "logs of services that a reset has cleared");
    assert_nothing_left(&host);
}

/// The address of a server under a policy that closes it.
fn assert_denied(host: &Host, server: &Server, when: &str) {
    let ran = host.workspace(&["exec", "w", "--shell", &client(server.port, "")]);
    assert!(ran.stderr.contains("Connection refused"), "{when}: {ran:?}");
    assert!(server.is_alone(), "{when}: a denied connection was made");
}

#[test]
fn a_policy_that_is_narrowed_is_in_force_as_soon_as_it_is_on_record_whoever_dies() {
    if !guest_available() {
        return;
    }
    let (host, server) = (Host::new(), Server::start());
    let rule = server.rule();
    host.create(&["--name", "w"]);
    host.done(&["stop", "w"]);
    let wider =
        ["update", "w", "--network-policy", "egress+published-ports", "--clear-rules", "--allow", &rule];
    let narrower = ["update", "w", "--network-policy", "egress", "--deny", &rule];
    for point in points(Group::Network) {
        host.done(&wider);
        assert_eq!(doomed(&host, point, &["start", "w"]).code, Some(0));
        let port = publish(&host, "web", &[]);
        assert_eq!(host.shell("w", &client(server.port, "")), "hello\n");
        server.connections.recv().unwrap();
        if point == FaultPoint::UpdateAnswered {
            // Its client alone dies; everything else goes on, and obeys.
            crash(&host, point, &narrower);
            assert_free(port);
            assert_denied(&host, &server, point.name());
            host.done(&["stop", "w"]);
        } else {
            let ran = host.workspace(&narrower);
            assert!(ran.code.is_some_and(|code| code != 0), "{ran:?}");
            assert_died(&host, point);
            wait_until("the machine to be gone", || host.json(&["status", "w"])["state"] == "stopped");
            wait_until("its processes to end", || host.holders().is_empty());
            assert_free(port);
        }
        let status = host.json(&["status", "w"]);
        assert_eq!(status["network_policy"], "egress", "{}", point.name());
        assert_eq!(status["network_rules"]["deny"], serde_json::json!([rule]), "{}", point.name());
        host.done(&["start", "w"]);
        assert_denied(&host, &server, point.name());
        let ran = host.workspace(&["service", "start", "w", "web", "--publish", "8080", "--", "true"]);
        assert!(ran.stderr.contains("'egress+published-ports', not 'egress'"), "{ran:?}");
        host.done(&["stop", "w"]);
        assert_clean(&host, point.name());
    }
    assert_nothing_left(&host);
}
