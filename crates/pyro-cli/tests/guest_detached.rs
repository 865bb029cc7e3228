//! Detached commands, and waiting for them and for workspaces, in real guests of `debian:12`.

#![allow(clippy::unwrap_used)]

mod support;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::ops::Deref;
use support::host::Host;
use support::{Ran, guest_available, wait_until};

/// A `pyro` with one workspace.
struct Lab {
    host: Host,
    id: String,
}

impl Deref for Lab {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

impl Lab {
    fn new() -> Self {
        let host = Host::new();
        let id = host.create(&[]);
        Self { host, id }
    }

    /// Starts a shell text in the guest and returns its number.
    fn detach(&self, text: &str) -> String {
        let started = self.done(&["exec", &self.id, "--detach", "--shell", text]);
        let (_, rest) = started.split_once(" sequence=").unwrap();
        let sequence = rest.split(' ').next().unwrap().to_owned();
        let line = format!(
            "[workspace-exec] workspace_id={} sequence={sequence} cwd=/workspace \
             execution_mode=guest_vsock state=running\n",
            self.id
        );
        assert_eq!(started, line);
        sequence
    }

    /// Lets a command go on that waits for the file `name` of /workspace.
    fn release(&self, name: &str) {
        self.done(&["exec", &self.id, "--", "touch", name]);
    }

    /// What the records say of a command.
    fn record(&self, sequence: &str) -> Value {
        let listed = self.json(&["exec", "list", &self.id]);
        let mut commands = listed["commands"].as_array().unwrap().iter();
        commands.find(|one| one["sequence"].as_u64() == sequence.parse().ok()).unwrap().clone()
    }

    fn state(&self, sequence: &str) -> String {
        self.record(sequence)["state"].as_str().unwrap().to_owned()
    }
}

/// A shell text that waits for the file `name`.
fn until(name: &str) -> String {
    format!("while [ ! -e {name} ]; do sleep 0.1; done")
}

#[test]
fn a_detached_command_is_watched_from_its_start_to_its_end() {
    if !guest_available() {
        return;
    }
    let host = Lab::new();
    let id = host.id.as_str();
    output_is_there_while_it_runs(&host);
    a_wait_lasts_until_the_end(&host);
    a_killed_command_leaves_no_process(&host);
    let ran = host.workspace(&["exec", id, "--detach", "--", "no-such-program"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("no-such-program"), "{ran:?}");
    let limited = ["exec", id, "--detach", "--timeout-seconds", "1", "--json", "--", "sleep", "1000"];
    let started: Value = serde_json::from_str(&host.done(&limited)).unwrap();
    assert_eq!((&started["state"], &started["cwd"]), (&"running".into(), &"/workspace".into()));
    let sequence = started["sequence"].to_string();
    let ran = host.workspace(&["exec", "wait", id, &sequence]);
    assert_eq!(ran.code, Some(124), "{ran:?}");
    assert!(ran.stdout.contains(" state=killed exit_code=124 "), "{ran:?}");
    assert!(ran.stdout.ends_with(" wait_timed_out=no\n"), "{ran:?}");
}

fn output_is_there_while_it_runs(host: &Lab) {
    let id = host.id.as_str();
    let sequence = host.detach(&format!("echo out; echo err >&2; {}; echo last; exit 42", until("go")));
    let mut follower = host.spawn(&["exec", "logs", id, &sequence, "--follow"]);
    let mut stdout = BufReader::new(follower.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "out\n");
    // The streams come apart, so the other one may be a moment later.
    wait_until("the output to be there", || {
        let ran = host.workspace(&["exec", "logs", id, &sequence]);
        (ran.stdout.as_str(), ran.stderr.as_str()) == ("out\n", "err\n")
    });
    wait_until("the output to be on record", || host.done(&["logs", id]).contains("\nout\n"));
    assert_eq!(host.state(&sequence), "running");
    let ran = host.workspace(&["exec", "wait", id, &sequence, "--timeout-seconds", "1"]);
    assert_eq!(ran.code, Some(124), "{ran:?}");
    assert!(ran.stdout.contains(" state=running ") && ran.stdout.ends_with(" wait_timed_out=yes\n"));

    host.release("go");
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), follower.wait().unwrap().code()), ("last\n", Some(0)));
    let ran = host.workspace(&["exec", "wait", id, &sequence]);
    assert_eq!(ran.code, Some(42), "{ran:?}");
    assert_eq!(host.done(&["exec", "logs", id, &sequence]), "out\nlast\n");
    let log = host.done(&["logs", id]);
    assert!(log.contains("exit_code=42"), "{log}");
}

fn a_wait_lasts_until_the_end(host: &Lab) {
    let id = host.id.as_str();
    let sequence = host.detach(&format!("{}; exit 7", until("go2")));
    let command = host.spawn(&["exec", id, "--shell", &until("go2")]);
    let attached = (sequence.parse::<u64>().unwrap() + 1).to_string();
    wait_until("the other command to begin", || {
        host.done(&["exec", "list", id]).contains(&format!(" sequence={attached} "))
    });
    let ran = host.workspace(&["exec", "kill", id, &attached]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains(&format!("command #{attached} is not detached")), "{ran:?}");
    let waiting = [&sequence, &attached].map(|one| host.spawn(&["exec", "wait", id, one]));
    let idle = host.spawn(&["wait", id, "--state", "idle"]);
    host.release("go2");
    let codes = waiting.map(|child| Ran::from(child.wait_with_output().unwrap()).code);
    assert_eq!(codes, [Some(7), Some(0)]);
    assert_eq!(Ran::from(command.wait_with_output().unwrap()).code, Some(0));
    let idle = Ran::from(idle.wait_with_output().unwrap());
    assert_eq!(idle.stdout, format!("[workspace-wait] workspace_id={id} state=started wait_timed_out=no\n"));
}

fn a_killed_command_leaves_no_process(host: &Lab) {
    let id = host.id.as_str();
    let sequence = host.detach("(setsid sleep 1000 &); exec sleep 1000");
    let line = host.done(&["exec", "kill", id, &sequence]);
    let head =
        format!("[workspace-exec-kill] workspace_id={id} sequence={sequence} state=killed exit_code=143 ");
    assert!(line.starts_with(&head), "{line}");
    let ran = host.workspace(&["exec", id, "--shell", "cat /proc/[0-9]*/comm 2>/dev/null | grep -qx sleep"]);
    assert_eq!(ran.code, Some(1), "a child survived its command: {ran:?}");
    let ran = host.workspace(&["exec", "kill", id, &sequence]);
    assert!(ran.code == Some(1) && ran.stderr.contains("has already ended"), "{ran:?}");

    // One that does not listen is killed after the grace.
    let sequence = host.detach("trap '' TERM; echo deaf; while :; do sleep 0.1; done");
    wait_until("it to be deaf", || host.done(&["exec", "logs", id, &sequence]) == "deaf\n");
    let line = host.done(&["exec", "kill", id, &sequence]);
    assert!(line.contains(" state=killed exit_code=137 "), "{line}");
}

#[test]
fn a_detached_command_outlives_its_pyro_and_ends_with_its_machine() {
    if !guest_available() {
        return;
    }
    let host = Lab::new();
    let id = host.id.as_str();
    // Killed as soon as the guest has begun it, before pyro itself could say so.
    let text = "touch begun; exec sleep 1000";
    let mut starter = host.spawn(&["exec", id, "--detach", "--shell", text]);
    wait_until("the command to be on record", || host.done(&["exec", "list", id]).contains("sequence=1 "));
    kill_process(Pid::from_child(&starter), Signal::KILL).unwrap();
    starter.wait().unwrap();
    let wait = host.done(&["exec", id, "--shell", &format!("{}; echo ok", until("begun"))]);
    assert_eq!((wait.as_str(), host.state("1").as_str()), ("ok\n", "running"));

    let stopped = host.spawn(&["wait", id]);
    let printed = host.detach("echo printed; exec sleep 1000");
    wait_until("the output", || host.done(&["exec", "logs", id, &printed]) == "printed\n");
    host.done(&["stop", id]);
    let ran = Ran::from(stopped.wait_with_output().unwrap());
    assert_eq!(ran.stdout, format!("[workspace-wait] workspace_id={id} state=stopped wait_timed_out=no\n"));
    assert_eq!((host.state("1").as_str(), host.state(&printed).as_str()), ("killed", "killed"));
    assert_eq!(host.done(&["exec", "logs", id, &printed]), "printed\n");

    let started = host.spawn(&["wait", id, "--state", "started"]);
    host.done(&["start", id]);
    assert_eq!(Ran::from(started.wait_with_output().unwrap()).code, Some(0));
    // A death that nobody could record is seen by who waits.
    let orphan = host.detach("exec sleep 1000");
    let waiting = host.spawn(&["exec", "wait", id, &orphan]);
    kill_process(Pid::from_raw(host.supervisor().try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
    let ran = Ran::from(waiting.wait_with_output().unwrap());
    assert!(ran.code == Some(125) && ran.stdout.contains(" state=lost exit_code=unknown "), "{ran:?}");

    host.done(&["start", id]);
    host.detach("exec sleep 1000");
    host.done(&["reset", id]);
    assert_eq!(host.done(&["exec", "list", id]), "No workspace commands found.\n");
    let waiting = host.spawn(&["wait", id]);
    host.done(&["delete", id]);
    let ran = Ran::from(waiting.wait_with_output().unwrap());
    assert!(ran.code == Some(1) && ran.stderr.contains("does not exist"), "{ran:?}");
}
