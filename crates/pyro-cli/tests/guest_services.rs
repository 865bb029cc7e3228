//! Services in real guests of `debian:12`, which has perl and no Python: the servers here are perl's.

#![allow(clippy::unwrap_used)]

mod support;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use support::host::Host;
use support::{Ran, guest_available, wait_until};

/// Listens on the guest's loopback and answers every request with this status.
fn server(port: u16, status: &str) -> String {
    format!(
        "exec perl -MIO::Socket::INET -e '$| = 1; my $s = IO::Socket::INET->new(LocalAddr => \"127.0.0.1\", \
         LocalPort => {port}, Listen => 5, ReuseAddr => 1) or die \"cannot listen: $!\"; print \"listening\\n\"; \
         while (my $c = $s->accept) {{ my $line = <$c>; print $line; \
         print $c \"HTTP/1.0 {status} x\\r\\n\\r\\nhello\\n\"; close $c }}'"
    )
}

fn service(host: &Host, arguments: &[&str]) -> Ran {
    host.workspace(&[&["service"], arguments].concat())
}

/// Starts a service that must become ready, and gives what was said.
fn start(host: &Host, name: &str, options: &[&str], text: &str) -> String {
    let ran = service(host, &[&["start", "w", name], options, &["--shell", text]].concat());
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""), "{ran:?}");
    ran.stderr
}

fn status(host: &Host, name: &str) -> Value {
    host.json(&["service", "status", "w", name])
}

/// State and reason.
fn told(host: &Host, name: &str) -> (String, Option<String>) {
    let status = status(host, name);
    let text = |field: &str| status[field].as_str().map(str::to_owned);
    (text("state").unwrap(), text("stop_reason"))
}

fn is(state: &str, reason: Option<&str>) -> (String, Option<String>) {
    (state.to_owned(), reason.map(str::to_owned))
}

fn logs(host: &Host, name: &str) -> Value {
    host.json(&["service", "logs", "w", name, "--all"])
}

fn spawn(host: &Host, arguments: &[&str]) -> Child {
    let mut command = host.pyro.command(&[&["workspace", "service"], arguments].concat());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// A workspace `w` of its own.
fn host() -> (Host, String) {
    let host = Host::new();
    let id = host.create(&["--name", "w", "--secret", "TOKEN=s3cret-value"]);
    (host, id)
}

#[test]
fn a_service_is_ready_when_what_it_is_known_by_is_there() {
    if !guest_available() {
        return;
    }
    let (host, id) = host();
    let line = |name: &str, kind: &str| {
        format!(
            "[workspace-service-start] workspace_id={id} service={name} state=running cwd=/workspace \
             ready_type={kind} execution_mode=guest_vsock\n"
        )
    };
    let idle = "exec sleep 1000";
    let text = format!("sleep 0.2; touch .ready; {idle}");
    assert_eq!(start(&host, "file", &["--ready-file", ".ready"], &text), line("file", "file"));
    let tcp = ["--ready-tcp", "localhost:8080"];
    assert_eq!(start(&host, "tcp", &tcp, &server(8080, "500")), line("tcp", "tcp"));
    let http = ["--ready-http", "http://127.0.0.1:8081/health?x=1", "--ready-interval-ms", "50"];
    assert_eq!(start(&host, "http", &http, &server(8081, "302")), line("http", "http"));
    assert_eq!(logs(&host, "http")["stdout"], "listening\nGET /health?x=1 HTTP/1.1\r\n");
    let command =
        ["--ready-command", "test -e .ready2 && test \"$TOKEN\" = s3cret-value", "--secret-env", "TOKEN"];
    let text = format!("sleep 0.2; touch .ready2; echo \"it is $TOKEN\"; {idle}");
    assert_eq!(start(&host, "command", &command, &text), line("command", "command"));
    assert_eq!(logs(&host, "command")["stdout"], "it is [REDACTED]\n");
    assert_eq!(
        status(&host, "command")["readiness"]["command"],
        "test -e .ready2 && test \"$TOKEN\" = [REDACTED]"
    );
    assert_eq!(start(&host, "plain", &[], idle), line("plain", "none"));

    // Not in time: it is ended, and its last problem told.
    let late = ["--ready-http", "http://127.0.0.1:8080/", "--ready-timeout-seconds", "2"];
    let ran = service(&host, &[&["start", "w", "late"][..], &late, &["--shell", idle]].concat());
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.stderr.contains("failed: it was not ready in time ("), "{ran:?}");
    assert_eq!(told(&host, "late"), is("failed", Some("readiness_timeout")));

    let listed = host.done(&["service", "list", "w"]);
    let wanted = format!(
        "Workspace: {id}\nServices: 6 total, 5 running\n\
         - command [running] cwd=/workspace readiness=command\n\
         - file [running] cwd=/workspace readiness=file\n\
         - http [running] cwd=/workspace readiness=http\n\
         - late [failed] cwd=/workspace readiness=http\n\
         - plain [running] cwd=/workspace readiness=none\n\
         - tcp [running] cwd=/workspace readiness=tcp\n"
    );
    assert_eq!(listed, wanted);
    assert!(host.done(&["status", "w"]).contains("\nServices: 5/6 running\n"));
    assert!(host.done(&["list"]).contains(" services=5/6 "));
    assert!(host.done(&["summary", "w"]).contains("\nServices: 5/6 running\n"));
    let usage = status(&host, "tcp");
    assert!(
        usage["memory_bytes"].as_u64().unwrap() > 100_000 && usage["cpu_seconds"].as_f64().unwrap() > 0.0
    );
    assert_eq!(usage["task_count"], 1);
    assert_eq!(host.done(&["diff", "w", "--name-only"]), ".ready\n.ready2\n");
}

#[test]
fn a_service_that_dies_early_is_told_at_once_with_its_last_words() {
    if !guest_available() {
        return;
    }
    let (host, id) = host();
    let text = "for n in $(seq 20); do echo line $n; done; printf 'oh\\033no\\n' >&2; exit 7";
    let early = ["start", "w", "web", "--ready-tcp", "127.0.0.1:8080", "--restart", "on-failure"];
    let early = [&early[..], &["--ready-timeout-seconds", "86400", "--shell", text]].concat();
    let ran = service(&host, &early);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(3), ""), "{ran:?}");
    let lines: Vec<String> = (11..=20).map(|n| format!("\n  line {n}")).collect();
    let wanted = format!(
        "[error] service 'web' of workspace '{id}' failed: it ended before it was ready, with exit status 7{}\n  \
         oh\\u{{1b}}no\nhint: pyro workspace service logs {id} web\n",
        lines.concat()
    );
    assert_eq!(ran.stderr, wanted);
    let status = status(&host, "web");
    assert_eq!((&status["state"], &status["exit_code"]), (&"failed".into(), &7.into()));
    assert_eq!(status["stop_reason"], "process_exited_before_ready");
    // With --json the same, as one object; and the name is free.
    let ran = service(&host, &[&early[..], &["--json"]].concat());
    // What stands after `--shell TEXT` is an option still.
    let told: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((ran.code, &told["error"]["code"]), (Some(3), &"service_failed".into()), "{ran:?}");
    assert_eq!(told["error"]["blame"], "guest");
    start(&host, "web", &[], "echo new; exec sleep 1000");
    wait_until("its first words", || logs(&host, "web")["stdout"] == "new\n");

    // One that has ended by itself has not failed, whatever its exit code; that is told.
    start(&host, "job", &[], "exit 4");
    let ran = service(&host, &["wait", "w", "job", "--until", "ended"]);
    let line = format!(
        "[workspace-service-wait] workspace_id={id} service=job state=exited exit_code=4 wait_timed_out=no\n"
    );
    assert_eq!((ran.code, ran.stdout), (Some(0), line));
    assert_eq!(service(&host, &["wait", "w", "job"]).code, Some(3), "it will not be ready any more");
    assert_eq!(service(&host, &["wait", "w", "web"]).code, Some(0));
    let ran = service(&host, &["wait", "w", "web", "--until", "ended", "--timeout-seconds", "1"]);
    assert!(ran.code == Some(124) && ran.stdout.ends_with(" wait_timed_out=yes\n"), "{ran:?}");
}

#[test]
fn a_crash_loop_is_slowed_down_bounded_and_ended() {
    if !guest_available() {
        return;
    }
    let (host, _) = host();
    start(&host, "loop", &["--restart", "on-failure"], "echo up; exit 9");
    wait_until("it to be started again twice", || {
        status(&host, "loop")["restart_count"].as_u64().unwrap() >= 2
    });
    wait_until("it to wait", || status(&host, "loop")["state"] == "backoff");
    assert_eq!(status(&host, "loop")["exit_code"], 9);
    let ran = service(&host, &["stop", "w", "loop"]);
    assert!(ran.stderr.contains(" state=stopped "), "{ran:?}");
    assert!(logs(&host, "loop")["stdout"].as_str().unwrap().starts_with("up\nup\nup\n"));

    start(&host, "twice", &["--restart", "on-failure:2"], "echo up; kill -9 $$");
    let ran = service(&host, &["wait", "w", "twice", "--until", "ended"]);
    assert!(ran.code == Some(3) && ran.stdout.contains(" state=failed exit_code=137 "), "{ran:?}");
    assert_eq!(told(&host, "twice"), is("failed", Some("restart_limit")));
    assert_eq!(logs(&host, "twice")["stdout"], "up\nup\nup\n");
    // Success is no failure.
    start(&host, "once", &["--restart", "on-failure"], "echo done");
    assert_eq!(service(&host, &["wait", "w", "once", "--until", "ended"]).code, Some(0));
    assert_eq!(
        (told(&host, "once"), &status(&host, "once")["restart_count"]),
        (is("exited", None), &0.into())
    );
}

#[test]
fn a_stop_ends_the_whole_tree_and_a_restart_starts_it_anew() {
    if !guest_available() {
        return;
    }
    let (host, id) = host();
    // One in a session of its own, which is asked to end and takes its time.
    let other =
        "setsid sh -c 'trap \"sleep 0.3; echo other; exit\" TERM; echo up; while :; do sleep 0.05; done' &";
    start(&host, "tree", &[], &format!("{other} exec sleep 1000"));
    wait_until("both to run", || logs(&host, "tree")["stdout"] == "up\n");
    let ran = service(&host, &["restart", "w", "tree"]);
    let line = format!(
        "[workspace-service-restart] workspace_id={id} service=tree state=running cwd=/workspace ready_type=none \
         execution_mode=guest_vsock\n"
    );
    assert_eq!((ran.code, ran.stderr), (Some(0), line));
    wait_until("both to run again", || logs(&host, "tree")["stdout"] == "up\nother\nup\n");
    let ran = service(&host, &["stop", "w", "tree"]);
    let line = format!(
        "[workspace-service-stop] workspace_id={id} service=tree state=stopped execution_mode=guest_vsock\n"
    );
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), line.as_str()));
    assert_eq!(told(&host, "tree"), is("stopped", Some("sigterm")));
    assert_eq!(logs(&host, "tree")["stdout"], "up\nother\nup\nother\n");
    let ran = host.workspace(&["exec", "w", "--shell", "grep -qsx sleep /proc/[0-9]*/comm"]);
    assert_eq!(ran.code, Some(1), "a process survived its service: {ran:?}");
    // Again, it stays as it is.
    assert_eq!(service(&host, &["stop", "w", "tree"]).stderr, line);

    start(&host, "deaf", &["--ready-file", "deaf"], "trap '' TERM; touch deaf; while :; do sleep 0.1; done");
    service(&host, &["stop", "w", "deaf"]);
    assert_eq!(told(&host, "deaf"), is("stopped", Some("sigkill")));
    // One that has ended is started again as it was.
    let ran = service(&host, &["restart", "w", "tree"]);
    assert!(ran.code == Some(0) && told(&host, "tree") == is("running", None), "{ran:?}");
}

#[test]
fn a_fork_bomb_does_not_take_the_workspace_down() {
    if !guest_available() {
        return;
    }
    let (host, _) = host();
    // A shell that may not fork ends; the service's own process is none.
    let bomb = "bomb() { while :; do bomb & sleep 0.01; done; }; bomb 2>/dev/null & exec sleep 1000";
    start(&host, "bomb", &[], bomb);
    // The kernel counts what it refuses.
    let refused = "cat /sys/fs/cgroup/pyro/exec-*/pids.events | grep -c 'max [1-9]' || true";
    wait_until("it to be at its bound", || host.shell("w", refused) == "1\n");
    assert_eq!(host.shell("w", "echo still here"), "still here\n");
    start(&host, "other", &[], "exec sleep 1000");
    let now = status(&host, "bomb");
    assert!(now["task_count"].as_u64().is_some_and(|count| count > 50), "{now}");
    let ran = service(&host, &["stop", "w", "bomb"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(told(&host, "bomb").0, "stopped");
    assert_eq!(told(&host, "other"), is("running", None));
}

#[test]
fn two_hundred_megabytes_of_output_are_bounded_and_what_is_cut_is_told() {
    if !guest_available() {
        return;
    }
    let (host, id) = host();
    let text = "head -c 200000000 /dev/zero | tr '\\0' x | fold -w 99; echo last; echo err >&2";
    start(&host, "loud", &[], text);
    let ran = service(&host, &["wait", "w", "loud", "--until", "ended", "--timeout-seconds", "300"]);
    assert!(ran.code == Some(0) && ran.stdout.contains(" state=exited exit_code=0 "), "{ran:?}");
    let place: PathBuf = host.pyro.state.path().join("workspaces").join(&id).join("services");
    let files =
        std::fs::read_dir(place).unwrap().flatten().flat_map(|dir| std::fs::read_dir(dir.path()).unwrap());
    let bytes: u64 = files.flatten().map(|file| file.metadata().unwrap().len()).sum();
    assert!(bytes > 16 << 20 && bytes <= (32 << 20) + 4, "{bytes}");
    let all = logs(&host, "loud");
    assert_eq!(
        (&all["truncated"], &all["stdout_truncated"], &all["stderr_truncated"]),
        (&true.into(), &true.into(), &false.into())
    );
    // 200,000,000 bytes end within a line of 99.
    let end = format!("{}last\n", "x".repeat(200_000_000 % 99));
    let stdout = all["stdout"].as_str().unwrap();
    assert!(stdout.ends_with(&format!("xxx\n{end}")), "{}", &stdout[stdout.len() - 200..]);
    assert_eq!(all["stderr"], "err\n");
    let ran = service(&host, &["logs", "w", "loud", "--tail-lines", "2"]);
    let line = "x".repeat(99);
    assert_eq!(ran.stdout, format!("Workspace: {id}\nService: loud\nState: exited\n{line}\n{end}"));
    assert!(ran.stderr.ends_with(" service=loud truncated=stdout\n"), "{ran:?}");
}

#[test]
fn a_service_outlives_its_pyro_and_is_followed_by_another() {
    if !guest_available() {
        return;
    }
    let (host, id) = host();
    let text =
        "echo begun; while [ ! -e go ]; do sleep 0.05; done; touch .ready; echo ready; exec sleep 1000";
    let mut starter = spawn(&host, &["start", "w", "web", "--ready-file", ".ready", "--shell", text]);
    wait_until("it to be on record", || host.json(&["service", "list", "w"])["count"] == 1);
    kill_process(Pid::from_child(&starter), Signal::KILL).unwrap();
    starter.wait().unwrap();
    assert_eq!(told(&host, "web"), is("starting", None));
    let ran = service(&host, &["start", "w", "web", "--", "true"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains(&format!("service 'web' is already running in workspace '{id}'")), "{ran:?}");

    let waiting = spawn(&host, &["wait", "w", "web"]);
    let mut follower = spawn(&host, &["logs", "w", "web", "--follow"]);
    let mut stdout = BufReader::new(follower.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "begun\n");
    host.shell("w", "touch go");
    let ran = Ran::from(waiting.wait_with_output().unwrap());
    assert!(ran.code == Some(0) && ran.stdout.contains(" state=running "), "{ran:?}");
    service(&host, &["stop", "w", "web"]);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), follower.wait().unwrap().code()), ("ready\n", Some(0)));
}

#[test]
fn services_end_with_their_machine_and_come_back_where_asked() {
    if !guest_available() {
        return;
    }
    let (host, _) = host();
    let text = |file: &str| {
        format!("trap 'echo bye; exit' TERM; echo hello; touch {file}; while :; do sleep 0.05; done")
    };
    start(&host, "once", &["--ready-file", ".once"], &text(".once"));
    let command = ["--autostart", "--ready-command", "test -e .again"];
    start(&host, "again", &command, &text(".again"));
    host.done(&["stop", "w"]);
    for name in ["once", "again"] {
        assert_eq!(told(&host, name), is("stopped", Some("workspace_stopped")));
        assert_eq!(logs(&host, name)["stdout"], "hello\nbye\n");
    }
    let ran = service(&host, &["start", "w", "new", "--", "true"]);
    assert!(ran.code == Some(1) && ran.stderr.contains("must be in 'started' state"), "{ran:?}");
    let ran = service(&host, &["restart", "w", "once"]);
    assert!(ran.code == Some(1) && ran.stderr.contains("must be in 'started' state"), "{ran:?}");

    host.done(&["start", "w"]);
    assert_eq!(service(&host, &["wait", "w", "again"]).code, Some(0));
    assert_eq!((told(&host, "once").0, told(&host, "again").0), ("stopped".to_owned(), "running".to_owned()));
    wait_until("its words", || logs(&host, "again")["stdout"] == "hello\nbye\nhello\n");
    assert_eq!(logs(&host, "once")["stdout"], "hello\nbye\n");
    // A death that nobody could record is seen by who waits.
    let waiting = spawn(&host, &["wait", "w", "again", "--until", "ended"]);
    let follower = spawn(&host, &["logs", "w", "again", "--follow"]);
    kill_process(Pid::from_raw(host.supervisor().try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
    let ran = Ran::from(waiting.wait_with_output().unwrap());
    assert!(ran.code == Some(0) && ran.stdout.contains(" state=stopped "), "{ran:?}");
    assert_eq!(Ran::from(follower.wait_with_output().unwrap()).stdout, "hello\nbye\nhello\n");
    assert_eq!(told(&host, "again"), is("stopped", Some("machine_ended")));

    host.done(&["start", "w"]);
    assert_eq!(service(&host, &["wait", "w", "again"]).code, Some(0));
    host.done(&["reset", "w"]);
    assert_eq!(host.json(&["service", "list", "w"])["count"], 0);
    start(&host, "last", &[], "exec sleep 1000");
    host.done(&["delete", "w"]);
    wait_until("its processes to end", || host.holders().is_empty());
}

#[test]
fn what_cannot_be_a_service_is_refused_and_leaves_nothing() {
    if !guest_available() {
        return;
    }
    let (host, id) = host();
    start(&host, "web", &[], "echo kept");
    service(&host, &["wait", "w", "web", "--until", "ended"]);
    let refused = |arguments: &[&str], words: &str| {
        let ran = service(&host, arguments);
        assert!(ran.code == Some(1) && ran.stderr.starts_with("[error] "), "{arguments:?}: {ran:?}");
        assert!(ran.stderr.contains(words), "{arguments:?}: {ran:?}");
        let again =
            service(&host, &[arguments[..2].to_vec(), vec!["--json"], arguments[2..].to_vec()].concat());
        let told: Value = serde_json::from_str(&again.stdout).unwrap();
        assert_eq!((again.code, &told["ok"]), (Some(1), &false.into()), "{arguments:?}: {again:?}");
        assert_eq!(told["error"]["blame"], "caller", "{told}");
    };
    let start_with = |options: &[&str], words: &str| {
        refused(&[&["start", "w", "web"], options, &["--", "sleep", "1"]].concat(), words);
    };
    refused(&["start", "w", "a b", "--", "true"], "service_name must match");
    refused(&["start", "nowhere", "web", "--", "true"], "workspace 'nowhere' does not exist");
    refused(&["start", "w", "web"], "command is required");
    refused(&["start", "w", "web", "--", "no-such-program"], "not found in PATH");
    start_with(&["--cwd", "missing"], "working directory \"/workspace/missing\"");
    start_with(&["--user", "nobody-here"], "nobody-here");
    start_with(&["--secret-env", "OTHER"], "OTHER");
    start_with(&["--ready-file", "../x"], "must stay inside /workspace");
    start_with(&["--ready-file", "/etc/passwd"], "must stay inside /workspace");
    start_with(&["--ready-tcp", "8080"], "readiness.address must be in HOST:PORT format");
    start_with(&["--ready-http", "https://127.0.0.1/"], "must use http");
    start_with(&["--ready-command", " "], "readiness.command is required");
    start_with(&["--ready-tcp", "x:1", "--ready-file", "x"], "choose at most one of");
    start_with(&["--ready-timeout-seconds", "0"], "ready_timeout_seconds must be between 1 and 86400, not 0");
    start_with(&["--ready-interval-ms", "1"], "ready_interval_ms must be between 10 and 60000, not 1");
    start_with(&["--restart", "always"], "restart must be one of");
    start_with(&["--publish", "0"], "published guest_port must be between 1 and 65535");
    start_with(&["--publish", "80", "--publish", "80"], "must not repeat");
    start_with(
        &["--publish", "8080"],
        "published ports require workspace network_policy 'egress+published-ports'",
    );
    for command in ["status", "logs", "stop", "restart", "wait"] {
        refused(&[command, "w", "nothing"], &format!("service 'nothing' does not exist in workspace '{id}'"));
    }
    refused(&["logs", "w", "web", "--tail-lines", "0"], "tail_lines must be positive");
    // The one that was there is there.
    assert_eq!((told(&host, "web"), &logs(&host, "web")["stdout"]), (is("exited", None), &"kept\n".into()));
    assert_eq!(host.json(&["service", "list", "w"])["count"], 1);
    assert_eq!(host.shell("w", "grep -lsx sleep /proc/[0-9]*/comm || true"), "");
}
