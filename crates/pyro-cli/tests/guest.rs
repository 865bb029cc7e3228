//! Real guests: every test boots machines of `debian:12` with the built `pyro`.

#![allow(clippy::unwrap_used)]

mod support;

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Stdio};
use std::time::Duration;
use support::{Pyro, assert_all_gone, descendants, guest_available, patience, wait_until};

#[test]
fn run_prints_the_transcripts_lines_on_their_streams() {
    if !guest_available() {
        return;
    }
    let pyro = Pyro::new();
    let ran = pyro.run(&["run", "debian:12", "--", "git", "--version"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stdout.starts_with("git version 2."), "{ran:?}");
    let lines: Vec<&str> = ran.stderr.lines().collect();
    assert_eq!(lines[0], "[run] phase=create environment=debian:12");
    let id = lines[1].strip_prefix("[run] phase=start vm_id=").unwrap();
    assert!(id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit()));
    assert_eq!(lines[2], format!("[run] phase=execute vm_id={id}"));
    let summary = "[run] environment=debian:12 execution_mode=guest_vsock exit_code=0 duration_ms=";
    assert!(lines[3].strip_prefix(summary).unwrap().parse::<u64>().is_ok());
    assert_eq!(lines.len(), 4);
    pyro.assert_nothing_left();
}

#[test]
fn the_guests_exit_code_and_streams_are_pyros() {
    if !guest_available() {
        return;
    }
    let ran = Pyro::new().run(&["run", "debian:12", "--shell", "echo out; echo err >&2; exit 42"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(42), "out\n"));
    assert!(ran.stderr.contains("err\n"), "{ran:?}");
    let ran = Pyro::new().run(&["run", "debian:12", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(ran.code, Some(137));
}

#[test]
fn json_carries_the_result_and_the_cleanup() {
    if !guest_available() {
        return;
    }
    let ran = Pyro::new().run(&["run", "--json", "debian:12", "--", "sh", "-c", "echo 'a b'; exit 3"]);
    let value: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(ran.code, Some(3));
    assert_eq!(ran.stderr, "");
    assert_eq!(value["stdout"], "a b\n");
    assert_eq!(value["exit_code"], 3);
    assert_eq!(value["execution_mode"], "guest_vsock");
    assert_eq!(value["command"], r#"sh -c "echo 'a b'; exit 3""#);
    assert_eq!(value["cleanup"]["deleted"], true);
    assert_eq!(value["cleanup"]["reason"], "post_exec_cleanup");
    assert_eq!(value["cleanup"]["vm_id"], value["vm_id"]);
}

#[test]
fn demo_succeeds_in_a_guest() {
    if !guest_available() {
        return;
    }
    let ran = Pyro::new().run(&["demo"]);
    let value: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((ran.code, &value["execution_mode"]), (Some(0), &"guest_vsock".into()), "{ran:?}");
}

#[test]
fn a_timeout_keeps_the_output_so_far_and_kills_the_whole_tree() {
    if !guest_available() {
        return;
    }
    let script = "echo before; (setsid sleep 1000 &) ; sleep 1000";
    let limit = patience(Duration::from_secs(2)).as_secs().to_string();
    let ran = Pyro::new().run(&["run", "--timeout-seconds", &limit, "debian:12", "--", "sh", "-c", script]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(124), "before\n"), "{ran:?}");
}

#[test]
fn standard_input_environment_and_directory_reach_the_command() {
    if !guest_available() {
        return;
    }
    let pyro = Pyro::new();
    let script = "cat; pwd; echo $GREETING";
    let arguments = [
        "run",
        "debian:12",
        "--stdin",
        "--env",
        "GREETING=hi there",
        "--cwd",
        "/usr",
        "--",
        "sh",
        "-c",
        script,
    ];
    let mut child = pyro
        .command(&arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"from the host\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "from the host\n/usr\nhi there\n");
}

#[test]
fn ten_mebibytes_of_each_stream_arrive_whole_and_in_order() {
    if !guest_available() {
        return;
    }
    let script = "seq 1 1500000; seq 1 1500000 >&2";
    let ran = Pyro::new().run(&["run", "debian:12", "--", "sh", "-c", script]);
    let wanted: String = (1..=1_500_000).map(|n| format!("{n}\n")).collect();
    assert!(ran.stdout == wanted, "stdout differs: {} of {} bytes", ran.stdout.len(), wanted.len());
    assert!(ran.stderr.contains(&wanted), "stderr differs");
}

#[test]
fn what_the_command_cannot_have_is_one_clear_error() {
    if !guest_available() {
        return;
    }
    let pyro = Pyro::new();
    for (arguments, text) in [
        (&["run", "debian:12", "--", "no-such-program"][..], "no-such-program"),
        (&["run", "debian:12", "--cwd", "/no/such/dir", "--", "true"], "/no/such/dir"),
    ] {
        let ran = pyro.run(arguments);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let error = ran.stderr.lines().find(|line| line.starts_with("[error] ")).unwrap();
        assert!(error.contains(text), "{ran:?}");
    }
    pyro.assert_nothing_left();
}

#[test]
fn a_guest_panic_is_told_and_leaves_nothing() {
    if !guest_available() {
        return;
    }
    let pyro = Pyro::new();
    let script = "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger; sleep 30";
    let ran = pyro.run(&["run", "debian:12", "--", "sh", "-c", script]);
    assert_eq!(ran.code, Some(125), "{ran:?}");
    assert!(ran.stderr.contains("[error] the machine ended") && ran.stderr.contains("panic"), "{ran:?}");
    pyro.assert_nothing_left();
}

#[test]
fn a_full_disk_is_the_guests_error_and_the_machine_lives_on() {
    if !guest_available() {
        return;
    }
    let script = "dd if=/dev/zero of=/big bs=1M count=256 conv=fsync; echo dd=$?; echo alive";
    let ran = Pyro::new().run(&["run", "--disk-mib", "64", "debian:12", "--", "sh", "-c", script]);
    assert!(ran.stdout.contains("dd=1\nalive\n"), "{ran:?}");
}

#[test]
fn a_second_machine_sees_nothing_of_the_first_ones_disk() {
    if !guest_available() {
        return;
    }
    let pyro = Pyro::new();
    assert_eq!(pyro.run(&["run", "debian:12", "--", "sh", "-c", "echo x > /root/x; sync"]).code, Some(0));
    assert_eq!(pyro.run(&["run", "debian:12", "--", "test", "-e", "/root/x"]).code, Some(1));
}

#[test]
fn three_machines_run_at_once() {
    if !guest_available() {
        return;
    }
    let pyro = Pyro::new();
    let children: Vec<Child> = (0..3)
        .map(|n| {
            let script = format!("sleep 2; echo machine {n}");
            pyro.command(&["run", "debian:12", "--mem-mib", "256", "--shell", &script])
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for (n, child) in children.into_iter().enumerate() {
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("machine {n}\n"));
    }
    pyro.assert_nothing_left();
}

#[test]
fn signals_and_sudden_death_of_the_command_leave_nothing() {
    if !guest_available() {
        return;
    }
    for (signal, code) in [(Signal::INT, Some(130)), (Signal::TERM, Some(143)), (Signal::KILL, None)] {
        let pyro = Pyro::new();
        let mut child = running_machine(&pyro);
        let below = descendants(child.id());
        // A supervisor, a machine, and an emulator where there is one.
        assert!(below.len() >= 2 + support::engine_programs().len(), "{below:?}");
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), code, "after {signal:?}");
        assert_all_gone(&below);
        pyro.assert_nothing_left();
    }
}

#[test]
fn sudden_death_of_any_process_below_ends_the_run_and_leaves_nothing() {
    if !guest_available() {
        return;
    }
    for name in support::engine_programs().iter().chain(&["pyro-vmm"]) {
        let pyro = Pyro::new();
        let mut child = running_machine(&pyro);
        let below = descendants(child.id());
        let victim = below.iter().find(|(pid, _)| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == *name)
        });
        let victim = victim.unwrap_or_else(|| panic!("no {name} among {below:?}"));
        kill_process(Pid::from_raw(victim.0.try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(125), "{stderr}");
        assert!(stderr.contains("[error] "), "{stderr}");
        assert_all_gone(&below);
        pyro.assert_nothing_left();
    }
}

/// A run whose command has begun and goes on for long.
fn running_machine(pyro: &Pyro) -> Child {
    let mut child = pyro
        .command(&["run", "debian:12", "--timeout-seconds", "300", "--", "sh", "-c", "echo begun; sleep 300"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "begun\n");
    child
}

#[test]
fn a_terminal_has_the_callers_size_and_delivers_keys() {
    if !guest_available() {
        return;
    }
    // script(1) of util-linux gives the command a terminal of its own.
    let pyro = Pyro::new();
    let command = format!(
        "stty rows 33 cols 101; {} run -t debian:12 -- sh -c 'stty size; read line; echo got $line'",
        env!("CARGO_BIN_EXE_pyro")
    );
    let mut child = std::process::Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .env("PYRO_STATE_DIR", pyro.state.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    wait_until("the terminal's size", || {
        output.read_line(&mut text).unwrap();
        text.contains("33 101")
    });
    stdin.write_all(b"hello\n").unwrap();
    wait_until("the answer", || {
        output.read_line(&mut text).unwrap();
        text.contains("got hello")
    });
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_guest_without_a_network_has_the_loopback_interface_alone() {
    if !guest_available() {
        return;
    }
    let ran = Pyro::new().run(&["run", "debian:12", "--", "ls", "/sys/class/net"]);
    assert_eq!(ran.stdout, "lo\n", "{ran:?}");
}

#[test]
fn no_process_of_the_guest_reaches_the_agent() {
    if !guest_available() {
        return;
    }
    // By the machine's own address, the local one and the host's: the agent serves the host alone.
    let script = r#"for cid in 1 2 3; do perl -e '
        use Socket; socket(my $s, 40, SOCK_STREAM, 0) or die "socket: $!";
        my $address = pack("SSLLx4", 40, 0, 5005, $ARGV[0]);
        if (connect($s, $address)) { sysread($s, my $answer, 1) or print "closed\n"; print "answered\n" if length $answer; }
        else { print "refused\n" }' $cid; done"#;
    let ran = Pyro::new().run(&["run", "debian:12", "--", "sh", "-c", script]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stdout.lines().count() == 3 && !ran.stdout.contains("answered"), "{ran:?}");
}
