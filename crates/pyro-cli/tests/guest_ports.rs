//! Published ports of services in real guests: what leads to them, their bounds, and every way in which a port is
//! free again. Each way has a test of its own, whose name tells it: `cargo xtask smoke published-ports` is this.

#![allow(clippy::unwrap_used)]

mod support;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use support::published::{
    CONTENT, READY, assert_free, assert_released, connect, free_port, get, host, port_of, publish,
    publish_text, read_all, server, start, web,
};
use support::{guest_available, wait_until};

#[test]
fn a_published_service_is_told_listed_and_reached() {
    if !guest_available() {
        return;
    }
    let (host, id) = host();
    let (port, second) = (free_port(), free_port());
    let ports = [format!("{port}:8080"), format!("{second}:9")];
    let options = ["--ready-tcp", "127.0.0.1:8080", "--publish", &ports[0], "--publish", &ports[1]];
    let ran = start(&host, "app", &options, &web());
    let line = format!(
        "[workspace-service-start] workspace_id={id} service=app state=running cwd=/workspace ready_type=tcp \
         execution_mode=guest_vsock published=127.0.0.1:{port}->8080/tcp,127.0.0.1:{second}->9/tcp\n"
    );
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), line.as_str()));
    assert_eq!(get(port), CONTENT);
    // Nothing listens there in the guest.
    assert_eq!(connect(second).read(&mut [0]).unwrap_or(0), 0);
    let wanted = format!(
        "Workspace: {id}\nPorts: 2\n- 127.0.0.1:{port}->8080/tcp service=app\n\
         - 127.0.0.1:{second}->9/tcp service=app\n"
    );
    assert_eq!(host.done(&["ports", "w"]), wanted);
    let listed: Value = host.json(&["ports", "w"]);
    assert_eq!((&listed["ports"][0]["host_port"], &listed["count"]), (&port.into(), &2.into()));
    assert_eq!(listed["ports"][0]["host"], "127.0.0.1");

    let closed = host.create(&["--network-policy", "egress"]);
    let ran = host.workspace(&["service", "start", &closed, "web", "--publish", "8080", "--", "sleep", "1"]);
    assert!(ran.code == Some(1) && ran.stderr.contains("'egress+published-ports', not 'egress'"), "{ran:?}");
    assert_eq!(host.json(&["service", "list", &closed])["count"], 0);
}

#[test]
fn a_host_port_that_is_taken_fails_the_service_which_leaves_nothing() {
    if !guest_available() {
        return;
    }
    let (host, _) = host();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, other) = (taken.local_addr().unwrap().port(), free_port());
    // The free one is taken first, and let go of.
    let ports = [format!("{other}:8080"), format!("{port}:8080")];
    let options = [&["--publish", &ports[0], "--publish", &ports[1]], &READY[..]].concat();
    let ran = start(&host, "app", &options, &web());
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.stderr.contains(&format!("port 127.0.0.1:{port} of the host cannot be had")), "{ran:?}");
    let app = host.json(&["service", "status", "w", "app"]);
    assert_eq!((&app["state"], &app["stop_reason"]), (&"failed".into(), &"published_port_failed".into()));
    assert_eq!((&app["published_ports"], &host.json(&["ports", "w"])["count"]), (&json!([]), &0.into()));
    assert_eq!(host.shell("w", "grep -lsx perl /proc/[0-9]*/comm || true"), "");
    assert_free(other);
    drop(taken);
    assert_free(port);
}

#[test]
fn a_stopped_service_frees_its_port() {
    if !guest_available() {
        return;
    }
    let (host, _) = host();
    let port = publish(&host, "web", &[]);
    let open = connect(port);
    host.done(&["service", "stop", "w", "web"]);
    assert_released(port, open);
    assert_eq!(host.json(&["ports", "w"])["count"], 0);
    let port = publish(&host, "web", &[]);
    host.done(&["service", "restart", "w", "web"]);
    assert_free(port);
    assert_eq!(get(port_of(&host, "web")), CONTENT);
}

#[test]
fn a_service_that_exits_frees_its_port() {
    if !guest_available() {
        return;
    }
    let (host, _) = host();
    // It ends by itself, after one request; the next one finds a new port.
    let once = server("my $l = <$c>; print $c \"bye\\n\"; close $c; exit 4");
    let options = ["--publish", "8080", "--restart", "on-failure"];
    let ran = start(&host, "once", &options, &once);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let port = port_of(&host, "once");
    wait_until("the server to answer", || read_all(port, b"x\n") == "bye\n");
    wait_until("the service to be started again", || {
        host.json(&["service", "status", "w", "once"])["restart_count"] == 1
    });
    wait_until("its port", || host.json(&["ports", "w"])["count"] == 1);
    host.done(&["service", "stop", "w", "once"]);
    let gone = start(&host, "once", &["--publish", &format!("{port}:8080")], &once);
    assert_eq!(gone.code, Some(0), "{gone:?}");
    wait_until("the server to answer", || read_all(port, b"x\n") == "bye\n");
    host.done(&["service", "wait", "w", "once", "--until", "ended"]);
    assert_free(port);
    assert_eq!(host.json(&["ports", "w"])["count"], 0);
}

#[test]
fn a_service_that_is_never_ready_takes_no_port() {
    if !guest_available() {
        return;
    }
    let (host, _) = host();
    let port = free_port();
    let late = ["--publish", &format!("{port}:8080"), "--ready-file", "x", "--ready-timeout-seconds", "1"];
    assert_eq!(start(&host, "late", &late, "exec sleep 1000").code, Some(3));
    assert_free(port);
    assert_eq!(host.json(&["ports", "w"])["count"], 0);
}

#[test]
fn a_restart_that_fails_frees_its_port() {
    if !guest_available() {
        return;
    }
    let (host, _) = host();
    let text = format!("test -e begun && exit 7; touch begun; {}", web());
    let port = publish_text(&host, "web", &[], &text);
    let open = connect(port);
    let ran = host.workspace(&["service", "restart", "w", "web"]);
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert_released(port, open);
    let status = host.json(&["service", "status", "w", "web"]);
    assert_eq!((&status["state"], &status["published_ports"]), (&"failed".into(), &json!([])));
}

#[test]
fn a_reset_frees_its_ports() {
    if !guest_available() {
        return;
    }
    let (host, _) = host();
    let port = publish(&host, "web", &[]);
    let open = connect(port);
    host.done(&["reset", "w"]);
    assert_released(port, open);
    assert_eq!(host.json(&["ports", "w"])["count"], 0);
}

#[test]
fn a_stopped_workspace_frees_its_ports() {
    if !guest_available() {
        return;
    }
    let (host, _) = host();
    let port = publish(&host, "web", &[]);
    let open = connect(port);
    host.done(&["stop", "w"]);
    assert_released(port, open);
    assert_eq!(host.json(&["ports", "w"])["count"], 0);
    host.done(&["start", "w"]);
    assert_eq!(host.json(&["ports", "w"])["count"], 0);
}

#[test]
fn a_deleted_workspace_frees_its_ports() {
    if !guest_available() {
        return;
    }
    let (host, _) = host();
    let port = publish(&host, "web", &[]);
    let open = connect(port);
    host.done(&["delete", "w"]);
    assert_released(port, open);
}

#[test]
fn a_workspace_that_expires_frees_its_ports() {
    if !guest_available() {
        return;
    }
    let (host, id) = host();
    let port = publish(&host, "web", &[]);
    let open = connect(port);
    host.expire(&id);
    // The supervisor looks at the records anew after each use; the service alone does not keep the workspace.
    host.workspace(&["service", "status", "w", "web"]);
    wait_until("the machine to end", || host.holders().is_empty());
    assert_released(port, open);
    let ran = host.workspace(&["ports", "w"]);
    assert!(ran.stderr.contains("expired and was automatically deleted"), "{ran:?}");
}

#[test]
fn a_supervisor_that_is_killed_frees_its_ports_and_they_come_back_with_autostart() {
    if !guest_available() {
        return;
    }
    let (host, _) = host();
    let port = publish(&host, "web", &["--autostart"]);
    let open = connect(port);
    kill_process(Pid::from_raw(host.supervisor().try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
    wait_until("the port to be free", || TcpStream::connect(("127.0.0.1", port)).is_err());
    assert_released(port, open);
    assert_eq!(host.json(&["ports", "w"])["count"], 0);
    host.done(&["start", "w"]);
    wait_until("it to be published again", || host.json(&["ports", "w"])["count"] == 1);
    assert_eq!(get(port_of(&host, "web")), CONTENT);
}

#[test]
fn a_narrower_policy_frees_its_ports_and_the_service_goes_on() {
    if !guest_available() {
        return;
    }
    let (host, _) = host();
    let port = publish(&host, "web", &[]);
    let open = connect(port);
    let updated = host.json(&["update", "w", "--network-policy", "egress"]);
    assert_eq!(updated["network_effect"], "now");
    assert_released(port, open);
    assert_eq!(host.json(&["ports", "w"])["count"], 0);
    let status = host.json(&["service", "status", "w", "web"]);
    assert_eq!((&status["state"], &status["published_ports"]), (&"running".into(), &json!([])));
    let look = "perl -MIO::Socket::INET -e 'my $s = IO::Socket::INET->new(PeerAddr => \"127.0.0.1:8080\") or \
                die $!; print $s \"GET / HTTP/1.0\\r\\n\\r\\n\"; print <$s>'";
    assert!(host.shell("w", look).ends_with(CONTENT));
    // Not even a restart publishes it.
    let ran = host.workspace(&["service", "restart", "w", "web"]);
    assert!(ran.code == Some(3) && ran.stderr.contains("is 'egress', under which"), "{ran:?}");
    host.done(&["update", "w", "--network-policy", "egress+published-ports"]);
    host.done(&["service", "restart", "w", "web"]);
    assert_eq!(get(port_of(&host, "web")), CONTENT);
}

#[test]
fn bytes_arrive_whole_whoever_is_slow_and_however_many_there_are() {
    if !guest_available() {
        return;
    }
    let (host, _) = host();
    // Says how much it has got when its client has said all, then sends a lot.
    let each = "if (!fork) { my ($n, $b) = (0); while (my $l = sysread($c, $b, 65536)) { $n += $l } \
                print $c \"$n\\n\"; if ($n > 1000) { print $c \"x\" x 65536 for 1..512 } exit 0 }";
    let ran = start(&host, "bulk", &["--publish", "8080"], &server(each));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let port = port_of(&host, "bulk");
    wait_until("the server", || read_all(port, b"abc") == "3\n");

    let mut slow = connect(port);
    slow.write_all(&vec![7; 4 << 20]).unwrap();
    slow.shutdown(Shutdown::Write).unwrap();
    let mut head = [0; 8];
    slow.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"4194304\n");
    // It reads no more for now, and others go on: a thousand at a time.
    let mut streams: Vec<TcpStream> = (0..1000).map(|_| connect(port)).collect();
    for (number, stream) in streams.iter_mut().enumerate() {
        stream.write_all(&vec![1; number % 100 + 1]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    }
    for (number, mut stream) in streams.into_iter().enumerate() {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, format!("{}\n", number % 100 + 1), "connection {number}");
    }
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).unwrap();
    assert!(rest.len() == 32 << 20 && rest.iter().all(|byte| *byte == b'x'), "{} bytes", rest.len());
}

#[test]
fn connections_and_ports_have_their_bounds_and_silent_ones_are_closed() {
    if !guest_available() {
        return;
    }
    let (host, _) = host();
    for (option, value, told) in [
        ("--publish-max-connections", "4097", "publish_max_connections must be between 1 and 4096, not 4097"),
        ("--publish-idle-seconds", "604801", "publish_idle_seconds must be between 1 and 604800, not 604801"),
    ] {
        let ran = start(&host, "web", &["--publish", "8080", option, value], "exec sleep 1000");
        assert!(ran.code == Some(1) && ran.stderr.contains(told), "{ran:?}");
    }
    // Echoes lines; one connection at a time is let in.
    let echo = server("if (!fork) { $c->autoflush(1); while (my $l = <$c>) { print $c $l } exit 0 }");
    let options = ["--publish", "8080", "--ready-tcp", "127.0.0.1:8080", "--publish-max-connections", "1"];
    let ran = start(&host, "echo", &options, &echo);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let port = port_of(&host, "echo");
    let (mut first, mut second) = (connect(port), connect(port));
    second.write_all(b"second\n").unwrap();
    let mut line = [0; 7];
    for _ in 0..3 {
        first.write_all(b"first!\n").unwrap();
        first.read_exact(&mut line).unwrap();
    }
    second.set_nonblocking(true).unwrap();
    assert!(second.read(&mut line).is_err(), "more connections than allowed are carried");
    second.set_nonblocking(false).unwrap();
    drop(first);
    second.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"second\n");
    drop(second);
    host.done(&["service", "stop", "w", "echo"]);

    let options = ["--publish", "8080", "--ready-tcp", "127.0.0.1:8080", "--publish-idle-seconds", "1"];
    let ran = start(&host, "echo", &options, &echo);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let port = port_of(&host, "echo");
    let mut silent = connect(port);
    silent.write_all(b"first!\n").unwrap();
    silent.read_exact(&mut line).unwrap();
    // Nothing is said any more, by neither end.
    assert_eq!(silent.read(&mut line).unwrap_or(0), 0);
    host.done(&["service", "stop", "w", "echo"]);

    let many: Vec<String> = (1..=64).flat_map(|port| ["--publish".to_owned(), port.to_string()]).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for name in ["a", "b", "c", "d"] {
        assert_eq!(start(&host, name, &many, "exec sleep 1000").code, Some(0));
    }
    let ran = start(&host, "one", &["--publish", "8080"], "exec sleep 1000");
    let told = "a workspace publishes at most 256 ports, and 0 are left of them";
    assert!(ran.code == Some(3) && ran.stderr.contains(told), "{ran:?}");
    host.done(&["service", "stop", "w", "a"]);
    assert_eq!(start(&host, "one", &["--publish", "8080"], "exec sleep 1000").code, Some(0));
    assert_eq!(host.json(&["ports", "w"])["count"], 193);
}
