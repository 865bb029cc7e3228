//! Workspaces in real guests of `debian:12`, with the built `pyro`.

#![allow(clippy::unwrap_used)]

mod support;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::host::Host;
use support::{Ran, assert_all_gone, descendants, guest_available, wait_until};

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => open.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    found
}

/// The lines of the first run are replayed from its document; this is what they do not show.
#[test]
fn seeds_secrets_and_snapshots_keep_what_they_were_given() {
    if !guest_available() {
        return;
    }
    let host = Host::new();
    host.write("repo/src/note.txt", "hello from the seed\n");
    host.write("repo/run.sh", "#!/bin/sh\necho ran\n");
    fs::set_permissions(host.path("repo/run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    host.write("changes/note.txt", "hello from synced workspace\n");
    host.write("token.txt", "from a file\n");
    let token = format!("PIP_TOKEN={}", host.path("token.txt"));
    let secrets = ["--secret", "API_TOKEN=expected", "--secret-file", &token];
    let id = host.create(&[&["--seed-path", &host.path("repo")][..], &secrets].concat());

    host.done(&["sync", "push", &id, &host.path("changes"), "--dest", "src"]);
    // The seed's modes are kept.
    assert_eq!(host.shell(&id, "./run.sh"), "ran\n");
    secrets_stay_secret(&host, &id);
    a_reset_brings_the_whole_disk_back(&host, &id);

    let output = host.path("out/note.txt");
    host.done(&["export", &id, "src/note.txt", "--output", &output]);
    assert_eq!(fs::read_to_string(&output).unwrap(), "hello from synced workspace\n");
    let pulled = host.path("pulled");
    host.done(&["sync", "pull", &id, "src", "--output", &pulled]);
    assert_eq!(fs::read_to_string(format!("{pulled}/note.txt")).unwrap(), "hello from synced workspace\n");
    let again = host.workspace(&["export", &id, "src/note.txt", "--output", &output]);
    assert_eq!(again.code, Some(1));
    assert!(again.stderr.contains(&format!("[error] output_path already exists: {output}")), "{again:?}");
}

fn secrets_stay_secret(host: &Host, id: &str) {
    // Without the mapping a command does not see it; its value never comes out as it is.
    let ran = host.workspace(&["exec", id, "--", "sh", "-lc", "test \"$API_TOKEN\" = expected"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let script = "cat /run/pyro-secrets/API_TOKEN; printf 'no end' >&2";
    let ran = host.workspace(&["exec", id, "--", "sh", "-lc", script]);
    assert_eq!(ran.stdout, "[REDACTED]", "{ran:?}");
    assert_eq!(ran.stderr.lines().next(), Some("no end"), "our line must not be glued to it");
    let logs = host.json(&["logs", id]);
    let entries = logs["entries"].as_array().unwrap();
    assert_eq!(entries.last().unwrap()["stdout"], "[REDACTED]", "{logs}");
    assert_eq!(host.shell(id, "cat /run/pyro-secrets/PIP_TOKEN"), "[REDACTED]");
}

fn a_reset_brings_the_whole_disk_back(host: &Host, id: &str) {
    assert_eq!(host.done(&["diff", id, "--name-only"]), "src/note.txt\n");
    host.done(&["snapshot", "create", id, "checkpoint"]);
    host.shell(id, "rm -r src; echo x > /etc/pyro-test");
    host.done(&["reset", id, "--snapshot", "checkpoint"]);
    assert_eq!(host.shell(id, "cat src/note.txt"), "hello from synced workspace\n");
    assert_eq!(host.workspace(&["exec", id, "--", "test", "-e", "/etc/pyro-test"]).code, Some(1));
    let listed = host.done(&["snapshot", "list", id]);
    let heads: Vec<_> = listed.lines().map(|line| line.split(" entry_count").next().unwrap()).collect();
    assert_eq!(heads, ["baseline [baseline]", "checkpoint [named]"]);
}

#[test]
fn commands_of_one_workspace_end_as_they_should() {
    if !guest_available() {
        return;
    }
    let host = Host::new();
    let id = host.create(&["--name", "shared one", "--label", "suite=guest"]);
    let name = "shared one";
    exit_codes_and_timeouts(&host, name);
    two_commands_meet(&host, &id);
    an_interrupted_command_is_gone(&host, &id);
    files_are_read_and_changed(&host, &id[..6]);
    let listed = host.done(&["list"]);
    let line =
        format!("[workspace] workspace_id={id} name='shared one' state=started environment=debian:12 ");
    assert!(listed.starts_with(&line) && listed.contains(" labels=suite=guest "), "{listed}");
}

fn exit_codes_and_timeouts(host: &Host, id: &str) {
    let ran = host.workspace(&["exec", id, "--shell", "echo out; echo err >&2; exit 42"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(42), "out\n"));
    assert!(ran.stderr.starts_with("err\n"), "{ran:?}");
    assert_eq!(host.workspace(&["exec", id, "--", "sh", "-c", "kill -9 $$"]).code, Some(137));
    let script = "echo before; (setsid sleep 1000 &) ; sleep 1000";
    let ran = host.workspace(&["exec", id, "--timeout-seconds", "1", "--", "sh", "-c", script]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(124), "before\n"), "{ran:?}");
    assert!(!sleeps(host, id), "a child survived its command");
    let ran = host.workspace(&["exec", id, "--", "no-such-program"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("[error] ") && ran.stderr.contains("no-such-program"), "{ran:?}");
    let commands = host.json(&["exec", "list", id]);
    let refused = commands["commands"].as_array().unwrap().last().unwrap();
    assert_eq!((&refused["state"], &refused["exit_code"]), (&"exited".into(), &127.into()), "{refused}");
    let ran = host.workspace(&["exec", id, "--secret-env", "MISSING", "--", "true"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("secret_env references unknown workspace secret"), "{ran:?}");

    let mut command = host.pyro.command(&[
        "workspace",
        "exec",
        id,
        "--json",
        "--stdin",
        "--env",
        "A=b c",
        "--cwd",
        "/usr",
        "--user",
        "nobody",
        "--shell",
        "cat; pwd; echo $A; id -un",
    ]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"from the host\n").unwrap();
    let ran = Ran::from(child.wait_with_output().unwrap());
    let value: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(value["stdout"], "from the host\n/usr\nb c\nnobody\n");
    assert_eq!((&value["cwd"], &value["exit_code"]), (&"/usr".into(), &0.into()));
}

/// Whether a `sleep` runs in the guest.
fn sleeps(host: &Host, id: &str) -> bool {
    let ran = host.workspace(&["exec", id, "--shell", "grep -qsx sleep /proc/[0-9]*/comm"]);
    assert!(matches!(ran.code, Some(0 | 1)), "{ran:?}");
    ran.code == Some(0)
}

/// Each waits for the other: they end only when they run at the same time.
fn two_commands_meet(host: &Host, id: &str) {
    let wait = |mine: &str, other: &str| {
        format!("touch /tmp/{mine}; while [ ! -e /tmp/{other} ]; do sleep 0.1; done; echo {mine}")
    };
    let children = [("a", "b"), ("b", "a")].map(|(m, o)| (m, host.spawn_shell(id, &wait(m, o))));
    let mut sequences = BTreeSet::new();
    for (mine, child) in children {
        let ran = Ran::from(child.wait_with_output().unwrap());
        assert_eq!((ran.code, ran.stdout), (Some(0), format!("{mine}\n")), "{}", ran.stderr);
        let word = ran.stderr.split_whitespace().find(|word| word.starts_with("sequence="));
        sequences.insert(word.unwrap().to_owned());
    }
    assert_eq!(sequences.len(), 2, "{sequences:?}");
}

fn an_interrupted_command_is_gone(host: &Host, id: &str) {
    let mut child = host.spawn_shell(id, "echo begun; exec sleep 1000");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "begun\n");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    // The guest's side of the kill has no event on this one.
    wait_until("the guest's command to end", || !sleeps(host, id));
}

fn files_are_read_and_changed(host: &Host, id: &str) {
    host.done(&["file", "write", id, "notes/a.txt", "--text", "first\nlast"]);
    let ran = host.workspace(&["file", "read", id, "notes/a.txt"]);
    assert_eq!(ran.stdout, "first\nlast\n");
    assert!(ran.stderr.starts_with("[workspace-file-read] workspace_id="), "{ran:?}");
    assert!(ran.stderr.ends_with(" path=/workspace/notes/a.txt size_bytes=10 truncated=no\n"), "{ran:?}");
    assert_eq!(host.done(&["file", "read", id, "notes/a.txt", "--content-only"]), "first\nlast");
    host.done(&["file", "move", id, "notes/a.txt", "notes/b.txt"]);
    host.done(&["file", "mkdir", id, "notes/c/d", "--parents"]);
    let listed = host.json(&["file", "list", id, "notes", "--recursive"]);
    let paths: Vec<_> = listed["entries"].as_array().unwrap().iter().map(|one| &one["path"]).collect();
    let below = |path: &str| Value::from(format!("/workspace/notes/{path}"));
    assert_eq!(paths, [&below("b.txt"), &below("c"), &below("c/d")]);
    assert_eq!(host.json(&["file", "stat", id, "notes/b.txt"])["size_bytes"], 10);
    let patch = "--- a/notes/b.txt\n+++ b/notes/b.txt\n@@ -1,2 +1,2 @@\n-first\n+second\n last\n\
                 \\ No newline at end of file\n";
    let applied = host.done(&["patch", "apply", id, "--patch", patch]);
    assert!(applied.contains(" total=1 added=0 modified=1 deleted=0 "), "{applied}");
    assert_eq!(host.done(&["file", "read", id, "notes/b.txt", "--content-only"]), "second\nlast");
    host.done(&["file", "remove", id, "notes", "--recursive"]);
    assert_eq!(host.done(&["diff", id]), "No workspace changes.\n");
    let ran = host.workspace(&["file", "read", id, "/etc/passwd"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("[error] workspace path must stay inside /workspace"), "{ran:?}");
}

#[test]
fn a_workspace_outlives_its_machine() {
    if !guest_available() {
        return;
    }
    let host = Host::new();
    let id = host.create(&["--secret", "TOKEN=value"]);
    host.shell(&id, "echo kept > /workspace/kept; echo kept > /root/kept");

    let stopped = host.done(&["stop", &id]);
    assert!(stopped.starts_with(&format!("Stopped workspace ID: {id}\n")), "{stopped}");
    assert!(stopped.contains("\nState: stopped\n"), "{stopped}");
    assert_eq!(host.done(&["stop", &id]), stopped, "stopping again changes nothing");
    wait_until("the machine's processes to end", || host.holders().is_empty());
    let ran = host.workspace(&["exec", &id, "--", "true"]);
    assert_eq!(ran.code, Some(1));
    let text = "must be in 'started' state before workspace_exec";
    assert!(ran.stderr.contains(text), "{ran:?}");
    assert_eq!(host.done(&["disk", "read", &id, "/root/kept", "--content-only"]), "kept\n");
    let listed = host.json(&["disk", "list", &id]);
    assert_eq!(listed["entries"][0]["path"], "/workspace/kept");
    an_exported_disk_is_sound(&host, &id);

    let started = host.done(&["start", &id]);
    assert!(started.starts_with(&format!("Started workspace ID: {id}\n")), "{started}");
    let text = "cat /workspace/kept /root/kept; test -s /run/pyro-secrets/TOKEN";
    assert_eq!(host.shell(&id, text), "kept\nkept\n");
    host.shell(&id, "sync");

    // Sudden death of the supervisor takes the machine with it, and the next look tells.
    let supervisor = host.supervisor();
    let below = descendants(supervisor);
    kill_process(Pid::from_raw(supervisor.try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
    wait_until("the death to be seen", || host.json(&["status", &id])["state"] == "stopped");
    let status = host.json(&["status", &id]);
    assert!(status["stop_reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{status}");
    assert_all_gone(&below);
    host.done(&["start", &id]);
    assert_eq!(host.shell(&id, "cat /workspace/kept"), "kept\n");
    let status = host.json(&["status", &id]);
    assert_eq!((&status["state"], &status["stop_reason"]), (&"started".into(), &Value::Null));
}

/// The exported image is a file system that the tools of its kind find nothing wrong with.
fn an_exported_disk_is_sound(host: &Host, id: &str) {
    let image = host.path("disk.ext4");
    let exported = host.json(&["disk", "export", id, "--output", &image]);
    assert_eq!(exported["disk_format"], "ext4");
    // Where an ordinary user's PATH does not lead.
    let checked = Command::new("/sbin/e2fsck").args(["-f", "-n", &image]).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    let again = host.workspace(&["disk", "export", id, "--output", &image]);
    assert_eq!(again.code, Some(1), "{again:?}");
    fs::remove_file(image).unwrap();

    let made = host.path("made");
    let image = format!("{made}/on the way/disk.ext4");
    let export = host.spawn(&["disk", "export", id, "--output", &image]);
    wait_until("the export to be under way", || Path::new(&made).exists());
    kill_process(Pid::from_child(&export), Signal::INT).unwrap();
    let ran = Ran::from(export.wait_with_output().unwrap());
    match ran.code {
        Some(130) => assert!(!Path::new(&made).exists(), "an interrupted export left something"),
        // It was faster.
        code => assert!(code == Some(0) && Path::new(&image).exists(), "{ran:?}"),
    }
}

#[test]
fn a_fork_goes_its_own_way_and_deleting_leaves_nothing() {
    if !guest_available() {
        return;
    }
    let host = Host::new();
    let origin = host.create(&["--name", "origin"]);
    host.shell(&origin, "echo shared > /workspace/shared");
    let ran = host.workspace(&["create", "--from-snapshot", "origin:baseline", "debian:12-base"]);
    let told = "from_snapshot is of environment 'debian:12', not 'debian:12-base'";
    assert!(ran.code == Some(1) && ran.stderr.contains(told), "{ran:?}");
    let fork = host.done(&["fork", "origin", "--name", "branch", "--id-only"]).trim_end().to_owned();
    assert_ne!(fork, origin);
    assert_eq!(host.json(&["status", "branch"])["workspace_id"], Value::from(fork.clone()));
    if host.json(&["status", "branch"])["state"] != "started" {
        host.done(&["start", "branch"]);
    }
    assert_eq!(host.shell("branch", "cat shared; echo mine > own"), "shared\n");
    assert_eq!(host.workspace(&["exec", "origin", "--", "test", "-e", "own"]).code, Some(1));

    // The fork stands by itself when its origin is gone.
    assert_eq!(host.done(&["delete", "origin"]), format!("Deleted workspace: {origin}\n"));
    assert_eq!(host.shell("branch", "cat shared own"), "shared\nmine\n");
    let ran = host.workspace(&["delete", "origin", "branch"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(ran.stdout, format!("Deleted workspace: {fork}\n"));
    assert!(ran.stderr.contains("[error] workspace 'origin' does not exist"), "{ran:?}");

    assert_eq!(host.done(&["list"]), "No workspaces.\n");
    wait_until("the machines' processes to end", || host.holders().is_empty());
    let left = files_below(host.pyro.state.path());
    // The records, the lock that goes with them, and what a trial of the host's KVM told.
    let is_kept = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("state.db") || ["layers.lock", "kvm.json"].contains(&name))
    };
    assert!(left.iter().all(is_kept), "left behind: {left:?}");
    let checked = host.pyro.run(&["fsck"]);
    assert_eq!((checked.code, checked.stdout.as_str()), (Some(0), "State: clean\n"), "{checked:?}");
}

#[test]
fn a_create_that_fails_leaves_nothing() {
    if !guest_available() {
        return;
    }
    let host = Host::new();
    let missing = host.path("missing");
    for (arguments, text) in [
        (&["--seed-path", missing.as_str()][..], "seed_path"),
        (&["--secret", "1BAD=x"], "secret name must match"),
        (&["--name", " "], "name must not be empty"),
        (&["--vcpu-count", "33"], "vcpu_count must be between 1 and 32"),
        (&["--mem-mib", "1048576"], "mem_mib 1048576 is more than this host has"),
    ] {
        let ran = host.workspace(&[&["create", "debian:12"], arguments].concat());
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.stderr.contains(text), "{ran:?}");
    }
    assert_eq!(host.done(&["list"]), "No workspaces.\n");
    assert!(host.holders().is_empty());
}
