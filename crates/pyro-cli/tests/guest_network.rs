//! Networks of real guests of `debian:12`, which has perl and git. Servers are on this host's loopback, which is at
//! the guest's gateway; nothing is sent anywhere else.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::host::Host;
use support::network::{GATEWAY, Server, client};
use support::{Pyro, guest_available, patience, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

fn exec(host: &Host, text: &str) -> Value {
    let ran = host.workspace(&["exec", "w", "--json", "--shell", text]);
    serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}"))
}

/// What was denied, with the rule that would have allowed it.
fn denials(record: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let denials = record["network_denials"].as_array().unwrap().iter();
    denials.map(|one| (text(&one["destination"]), text(&one["allow_with"]))).collect()
}

fn pair(destination: &str, rule: &str) -> (String, String) {
    (destination.to_owned(), rule.to_owned())
}

#[test]
fn the_host_is_denied_at_once_and_the_rule_that_was_told_opens_exactly_it() {
    if !guest_available() {
        return;
    }
    let (server, other) = (Server::start(), Server::start());
    let host = Host::new();
    host.create(&["--name", "w", "--network-policy", "egress"]);
    assert_eq!(host.shell("w", "ls /sys/class/net"), "eth0\nlo\n");
    let text = client(server.port, "");
    let ran = host.workspace(&["exec", "w", "--shell", &text]);
    let (rule, at) = (server.rule(), format!("127.0.0.1:{}", server.port));
    assert!(ran.stderr.contains("Connection refused"), "{ran:?}");
    let told = format!(
        "[network] denied tcp {at}: its address is not public (loopback) rule=none allow with: --allow {rule}\n"
    );
    assert!(ran.stderr.ends_with(&told), "{ran:?}");
    let record = exec(&host, &text);
    assert_eq!(denials(&record), [pair(&at, &rule)]);
    assert_eq!(denials(&exec(&host, "true")), [], "what others were denied before is not told");
    assert!(server.is_alone());

    let updated = host.json(&["update", "w", "--allow", &rule]);
    assert_eq!(updated["network_effect"], "now");
    assert_eq!(updated["network_rules"]["allow"], serde_json::json!([rule]));
    assert_eq!(host.shell("w", &text), "hello\n");
    server.connections.recv_timeout(patience(PATIENCE)).unwrap();
    let record = exec(&host, &client(other.port, ""));
    assert_eq!(denials(&record), [pair(&format!("127.0.0.1:{}", other.port), &other.rule())]);
    assert!(other.is_alone());

    let log = host.json(&["network", "log", "w"]);
    let ends: Vec<_> = log["flows"].as_array().unwrap().iter().map(|flow| flow["end"].clone()).collect();
    assert!(ends.iter().filter(|end| *end == "denied").count() == 3, "{log:#}");
    let denied = host.done(&["network", "log", "w", "--denied", "--tail-lines", "1"]);
    assert!(denied.contains(&other.rule()) && denied.lines().count() == 1, "{denied}");
}

#[test]
fn a_narrower_policy_ends_open_connections_and_the_log_is_followed() {
    if !guest_available() {
        return;
    }
    let server = Server::start();
    let host = Host::new();
    host.create(&["--name", "w", "--network-policy", "egress", "--allow", &server.rule()]);
    let mut follow = host.spawn(&["network", "log", "w", "--follow", "--json"]);
    let mut client = host.spawn_shell("w", &client(server.port, "print defined(<$s>) ? 1 : \"ended\\n\""));
    let connection = server.connections.recv_timeout(patience(PATIENCE)).unwrap();
    let mut output = BufReader::new(client.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "hello\n");
    let updated = host.done(&["update", "w", "--deny", &server.rule()]);
    assert!(
        updated.contains(&format!("Network rules: --allow {0} --deny {0}\n", server.rule())),
        "{updated}"
    );
    assert!(updated.ends_with("Network change: in force now\n"), "{updated}");
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "ended\n");
    client.wait().unwrap();
    // The server hears of it, too.
    connection.set_read_timeout(Some(patience(PATIENCE))).unwrap();
    assert!(matches!((&connection).read(&mut [0; 1]), Ok(0) | Err(_)));
    let mut records = BufReader::new(follow.stdout.take().unwrap());
    let mut record = String::new();
    records.read_line(&mut record).unwrap();
    let record: Value = serde_json::from_str(&record).unwrap();
    assert_eq!((&record["end"], &record["received_bytes"]), (&"policy-changed".into(), &6.into()));
    // The end of the machine is the log's.
    host.done(&["stop", "w"]);
    assert!(follow.wait().unwrap().success());
}

#[test]
fn an_egress_limit_ends_what_goes_on_says_so_and_is_raised_at_once() {
    if !guest_available() {
        return;
    }
    let server = Server::start();
    let (host, text) = (Host::new(), client(server.port, ""));
    // The greeting has six bytes.
    let options = ["--network-policy", "egress", "--allow", &server.rule(), "--egress-limit", "10"];
    host.create(&[&["--name", "w"], &options[..]].concat());
    let first = exec(&host, &text);
    assert_eq!((&first["stdout"], denials(&first)), (&"hello\n".into(), vec![]));
    let at = format!("127.0.0.1:{}", server.port);
    for _ in 0..2 {
        // The second greeting is cut, the third connection refused.
        let record = exec(&host, &text);
        assert_ne!(record["stdout"], "hello\n");
        assert_eq!(denials(&record), [pair(&at, "")], "{record:#}");
        let denial = &record["network_denials"][0];
        assert_eq!(denial["reason"], "the egress limit is used up");
        assert_eq!(denial["hint"], "a higher --egress-limit");
    }
    let ran = host.workspace(&["exec", "w", "--shell", &text]);
    assert!(
        ran.stderr.contains(&format!("[network] denied tcp {at}: the egress limit is used up")),
        "{ran:?}"
    );
    assert!(ran.stderr.ends_with(" rule=none allow with: a higher --egress-limit\n"), "{ran:?}");

    let updated = host.json(&["update", "w", "--egress-limit", "1M"]);
    assert_eq!(
        (&updated["network_effect"], &updated["network_rules"]["egress_limit_bytes"]),
        (&"now".into(), &(1 << 20).into())
    );
    assert_eq!(host.shell("w", &text), "hello\n");
    assert!(host.done(&["status", "w"]).contains("Egress limit: 1MiB\n"));
    host.done(&["fork", "w", "--name", "copy"]);
    let list = host.json(&["list"]).to_string();
    assert_eq!(list.matches("\"egress_limit_bytes\":1048576").count(), 2, "{list}");
    let cleared = host.json(&["update", "w", "--clear-egress-limit"]);
    assert_eq!(cleared["network_rules"]["egress_limit_bytes"], Value::Null);
}

#[test]
fn a_detached_command_keeps_what_it_was_denied_and_open_flows_are_told() {
    if !guest_available() {
        return;
    }
    let (server, closed) = (Server::start(), Server::start());
    let host = Host::new();
    host.create(&["--name", "w", "--network-policy", "egress", "--allow", &server.rule()]);
    let denied = client(closed.port, "");
    let started = host.json(&["exec", "w", "--detach", "--shell", &denied]);
    let number = started["sequence"].to_string();
    let wait = host.workspace(&["exec", "wait", "w", &number, "--json"]);
    let waited: Value = serde_json::from_str(&wait.stdout).unwrap_or_else(|_| panic!("{wait:?}"));
    let expected = [pair(&format!("127.0.0.1:{}", closed.port), &closed.rule())];
    assert_eq!(denials(&waited), expected);
    assert_eq!(denials(&host.json(&["exec", "list", "w"])["commands"][0]), expected);
    assert_eq!(denials(&host.json(&["exec", "logs", "w", &number])), expected);
    let shown = host.workspace(&["exec", "wait", "w", &number]).stderr;
    assert!(shown.contains(&format!("allow with: --allow {}\n", closed.rule())), "{shown}");
    // A service is told of its own time alone.
    host.done(&["service", "start", "w", "early", "--shell", "sleep 1000"]);
    assert_eq!(denials(&host.json(&["service", "status", "w", "early"])), []);
    let asks_and_stays = format!("{denied}; sleep 1000");
    host.done(&["service", "start", "w", "denied", "--shell", &asks_and_stays]);
    wait_until("the service's denial", || {
        denials(&host.json(&["service", "status", "w", "denied"])) == expected
    });
    host.done(&["service", "start", "w", "late", "--shell", "sleep 1000"]);
    assert_eq!(denials(&host.json(&["service", "status", "w", "late"])), []);
    assert_eq!(denials(&host.json(&["service", "status", "w", "early"])), expected);

    assert_eq!(host.json(&["network", "log", "w"])["open"], serde_json::json!([]));
    host.json(&["exec", "w", "--detach", "--shell", &client(server.port, "print scalar <$s>")]);
    let connection = server.connections.recv_timeout(patience(PATIENCE)).unwrap();
    let log = || host.json(&["network", "log", "w"]);
    wait_until("the greeting", || log()["open"][0]["received_bytes"] == 6);
    let log = log();
    assert_eq!((&log["open"][0]["state"], &log["open"][0]["rule"]), (&"open".into(), &server.rule().into()));
    assert_eq!((log["open"].as_array().unwrap().len(), &log["open_truncated"]), (1, &false.into()));
    let text = host.done(&["network", "log", "w"]);
    assert!(
        text.lines().last().unwrap().contains("state=open sent_bytes=0 received_bytes=6 tcp to"),
        "{text}"
    );
    assert!(!host.done(&["network", "log", "w", "--denied"]).contains("state=open"));
    drop(connection);
    host.done(&["stop", "w"]);
    assert_eq!(host.json(&["network", "log", "w"])["open"], serde_json::json!([]));
}

#[test]
fn an_allow_list_knows_its_names_alone() {
    if !guest_available() {
        return;
    }
    let host = Host::new();
    host.create(&["--name", "w", "--network-policy", "egress", "--allow-only", "*.listed.example:443"]);
    assert!(host.shell("w", "getent ahostsv4 api.listed.example").starts_with("198.18."));
    let record = exec(&host, "getent hosts secret-data.other.example; echo $?");
    assert_eq!(record["stdout"], "2\n");
    assert_eq!(denials(&record), [pair("secret-data.other.example", "secret-data.other.example")]);
    assert_eq!(record["network_denials"][0]["protocol"], "dns");
}

#[test]
fn a_run_has_a_network_only_when_it_is_asked_for() {
    if !guest_available() {
        return;
    }
    let server = Server::start();
    let text = client(server.port, "");
    let run = |options: &[&str]| {
        let all =
            [&["run", "debian:12", "--mem-mib", "256", "--json"], options, &["--shell", &text]].concat();
        let ran = Pyro::new().run(&all);
        serde_json::from_str::<Value>(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}"))
    };
    let none = run(&[]);
    assert!(none["stderr"].as_str().unwrap().contains("Network is unreachable"), "{none:#}");
    assert_eq!(denials(&none), []);
    let denied = run(&["--network"]);
    assert_eq!(denials(&denied)[0].1, server.rule());
    let allowed = run(&["--network=egress", "--allow", &server.rule()]);
    assert_eq!((&allowed["stdout"], denials(&allowed)), (&"hello\n".into(), vec![]));
    let observed = run(&["--network", "--observe", "--allow", "127.0.0.0/8"]);
    assert_eq!(observed["network_contacts"]["rules"], serde_json::json!([server.rule()]), "{observed:#}");
    let listed = run(&["--network", "--allow-only", &server.rule()]);
    assert_eq!((&listed["stdout"], denials(&listed)), (&"hello\n".into(), vec![]));
    let closed = run(&["--network", "--allow", "127.0.0.0/8", "--deny", &server.rule()]);
    assert_eq!(closed["network_denials"][0]["rule"], server.rule());
}

#[test]
fn a_new_interface_comes_with_the_next_start_and_rules_stay_over_stop_reset_and_fork() {
    if !guest_available() {
        return;
    }
    let server = Server::start();
    let (host, rule, text) = (Host::new(), server.rule(), client(server.port, ""));
    host.create(&["--name", "w"]);
    let updated = host.json(&["update", "w", "--network-policy", "egress", "--allow", &rule]);
    assert_eq!(
        (&updated["network_effect"], &updated["guest_ip"]),
        (&"next_start".into(), &"198.19.255.2".into())
    );
    assert_eq!(host.shell("w", "ls /sys/class/net"), "lo\n");
    host.done(&["stop", "w"]);
    host.done(&["start", "w"]);
    assert_eq!(host.shell("w", &text), "hello\n");
    host.done(&["reset", "w"]);
    assert_eq!(host.shell("w", &text), "hello\n");
    host.done(&["fork", "w", "--name", "copy"]);
    assert_eq!(host.shell("copy", &text), "hello\n");
    let list = host.json(&["list"]).to_string();
    assert_eq!(list.matches(&format!("\"allow\":[\"{rule}\"]")).count(), 2, "{list}");
    // Off keeps the interface until the machine's end, and lets nothing through it.
    let off = host.json(&["update", "w", "--network-policy", "off"]);
    assert_eq!(off["network_effect"], "next_start");
    assert!(host.workspace(&["exec", "w", "--shell", &text]).stderr.contains("Connection refused"));
    host.done(&["stop", "w"]);
    host.done(&["start", "w"]);
    assert_eq!(host.shell("w", "ls /sys/class/net"), "lo\n");
}

/// Ends with its test, however that does.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn git_clones_from_a_server_that_a_rule_opens() {
    if !guest_available() {
        return;
    }
    let host = Host::new();
    let git = |words: &[&str]| {
        let mut command = Command::new("git");
        command.current_dir(host.files.path()).args(["-c", "user.name=t", "-c", "user.email=t@example.com"]);
        let output = command.args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    git(&["init", "-q", "repo"]);
    host.write("repo/file", &"content\n".repeat(100_000));
    git(&["-C", "repo", "add", "file"]);
    git(&["-C", "repo", "commit", "-q", "-m", "first"]);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let base = format!("--base-path={}", host.files.path().display());
    let programs = Command::new("git").arg("--exec-path").output().unwrap().stdout;
    // Itself, not `git`, whose child would outlive it.
    let daemon = Command::new(format!("{}/git-daemon", String::from_utf8_lossy(&programs).trim()))
        .args(["--listen=127.0.0.1", &format!("--port={port}"), "--export-all", &base])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _daemon = Daemon(daemon);
    wait_until("git daemon", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    host.create(&["--name", "w", "--network-policy", "egress", "--allow", &format!("127.0.0.1:{port}")]);
    let cloned = host.workspace(&[
        "exec",
        "w",
        "--shell",
        &format!("git clone -q git://{GATEWAY}:{port}/repo/.git copy && wc -c < copy/file"),
    ]);
    assert_eq!((cloned.code, cloned.stdout.as_str()), (Some(0), "800000\n"), "{cloned:?}");
}

#[test]
fn a_supervisor_that_is_killed_leaves_a_log_that_can_be_read_and_a_network_for_the_next_start() {
    if !guest_available() {
        return;
    }
    let server = Server::start();
    let host = Host::new();
    host.create(&["--name", "w", "--network-policy", "egress"]);
    let text = client(server.port, "");
    assert_eq!(denials(&exec(&host, &text)).len(), 1);
    let denied = || host.json(&["network", "log", "w", "--denied"])["flows"].as_array().unwrap().len();
    wait_until("the record", || denied() == 1);
    let supervisor = rustix::process::Pid::from_raw(host.supervisor().cast_signed()).unwrap();
    rustix::process::kill_process(supervisor, rustix::process::Signal::KILL).unwrap();
    wait_until("the machine's end", || host.json(&["status", "w"])["state"] == "stopped");
    assert_eq!(denied(), 1);
    host.done(&["start", "w"]);
    assert_eq!(denials(&exec(&host, &text)).len(), 1);
    wait_until("the next record", || denied() == 2);
}
