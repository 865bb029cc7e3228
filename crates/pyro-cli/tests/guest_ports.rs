//! Published ports of services in real guests: what leads to them, and every way in which a port is free again.

#![allow(clippy::unwrap_used)]

mod support;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;
use support::host::Host;
use support::{Ran, guest_available, wait_until};

/// Enough for a loaded machine; nothing here takes long by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server on the guest's loopback: `each` is perl that has the connection in `$c`.
fn server(each: &str) -> String {
    format!(
        "exec perl -MIO::Socket::INET -e 'my $s = IO::Socket::INET->new(LocalAddr => \"127.0.0.1\", \
         LocalPort => 8080, Listen => 1024, ReuseAddr => 1) or die \"cannot listen: $!\"; $SIG{{CHLD}} = \"IGNORE\"; \
         while (my $c = $s->accept) {{ {each}; close $c }}'"
    )
}

/// Answers each request and hangs up.
fn web() -> String {
    server("my $l = <$c>; print $c \"HTTP/1.0 200 OK\\r\\n\\r\\nhello\\n\"")
}

/// A workspace `w` whose policy lets ports be published.
fn host() -> (Host, String) {
    let host = Host::new();
    let id = host.create(&["--name", "w", "--network-policy", "egress+published-ports"]);
    (host, id)
}

fn start(host: &Host, name: &str, options: &[&str], text: &str) -> Ran {
    host.workspace(&[&["service", "start", "w", name][..], options, &["--shell", text]].concat())
}

/// A host port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Starts a web server that is published, and gives its port.
fn publish(host: &Host, name: &str, options: &[&str]) -> u16 {
    let ready = ["--publish", "8080", "--ready-http", "http://127.0.0.1:8080/", "--ready-interval-ms", "50"];
    let ran = start(host, name, &[&ready, options].concat(), &web());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let port = port_of(host, name);
    assert_eq!(get(port), "HTTP/1.0 200 OK\r\n\r\nhello\n");
    port
}

fn port_of(host: &Host, name: &str) -> u16 {
    let status = host.json(&["service", "status", "w", name]);
    u16::try_from(status["published_ports"][0]["host_port"].as_u64().unwrap()).unwrap()
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn get(port: u16) -> String {
    let mut stream = connect(port);
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    // The server may hang up with the request half read.
    let _ = stream.read_to_string(&mut text);
    text
}

#[track_caller]
fn assert_free(port: u16) {
    assert_eq!(TcpStream::connect(("127.0.0.1", port)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    TcpListener::bind(("127.0.0.1", port)).unwrap();
}

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
    assert_eq!(get(port), "HTTP/1.0 200 OK\r\n\r\nhello\n");
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

    // Taken by another: the second one fails, is ended, and leaves nothing.
    let taken = ["--publish", &ports[0]];
    let ran = start(&host, "other", &taken, "exec sleep 1000");
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.stderr.contains(&format!("port 127.0.0.1:{port} of the host cannot be had")), "{ran:?}");
    let other = host.json(&["service", "status", "w", "other"]);
    assert_eq!((&other["state"], &other["stop_reason"]), (&"failed".into(), &"published_port_failed".into()));
    assert_eq!(host.shell("w", "grep -lsx sleep /proc/[0-9]*/comm || true"), "");
    assert_eq!(get(port), "HTTP/1.0 200 OK\r\n\r\nhello\n");

    let closed = host.create(&["--network-policy", "egress"]);
    let ran = host.workspace(&["service", "start", &closed, "web", "--publish", "8080", "--", "sleep", "1"]);
    assert!(ran.code == Some(1) && ran.stderr.contains("'egress+published-ports', not 'egress'"), "{ran:?}");
    assert_eq!(host.json(&["service", "list", &closed])["count"], 0);
}

#[test]
fn a_port_is_free_again_however_its_service_ends() {
    if !guest_available() {
        return;
    }
    let (host, _) = host();
    let port = publish(&host, "stopped", &[]);
    let mut open = connect(port);
    host.done(&["service", "stop", "w", "stopped"]);
    assert_eq!(open.read(&mut [0]).unwrap_or(0), 0);
    assert_free(port);
    assert_eq!(host.json(&["ports", "w"])["count"], 0);

    // It ends by itself, after one request; the next one finds a new port.
    let once = server("my $l = <$c>; print $c \"bye\\n\"; close $c; exit 4");
    let options = ["--publish", "8080", "--restart", "on-failure"];
    let ran = start(&host, "once", &options, &once);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let port = port_of(&host, "once");
    wait_until("the server to answer", || get(port) == "bye\n");
    wait_until("the service to be started again", || {
        host.json(&["service", "status", "w", "once"])["restart_count"] == 1
    });
    wait_until("its port", || host.json(&["ports", "w"])["count"] == 1);
    host.done(&["service", "stop", "w", "once"]);
    let gone = start(&host, "once", &["--publish", &format!("{port}:8080")], &once);
    assert_eq!(gone.code, Some(0), "{gone:?}");
    wait_until("the server to answer", || get(port) == "bye\n");
    host.done(&["service", "wait", "w", "once", "--until", "ended"]);
    assert_free(port);

    // Never ready: never published.
    let late = ["--publish", &format!("{port}:8080"), "--ready-file", "x", "--ready-timeout-seconds", "1"];
    assert_eq!(start(&host, "late", &late, "exec sleep 1000").code, Some(3));
    assert_free(port);

    let port = publish(&host, "web", &[]);
    host.done(&["service", "restart", "w", "web"]);
    assert_free(port);
    let port = port_of(&host, "web");
    assert_eq!(get(port), "HTTP/1.0 200 OK\r\n\r\nhello\n");
    host.done(&["stop", "w"]);
    assert_free(port);
    host.done(&["start", "w"]);
    assert_eq!(host.json(&["ports", "w"])["count"], 0);
    let port = publish(&host, "web", &[]);
    host.done(&["reset", "w"]);
    assert_free(port);
    let port = publish(&host, "web", &["--autostart"]);
    kill_process(Pid::from_raw(host.supervisor().try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
    wait_until("the port to be free", || TcpStream::connect(("127.0.0.1", port)).is_err());
    assert_eq!(host.json(&["ports", "w"])["count"], 0);
    host.done(&["start", "w"]);
    wait_until("it to be published again", || host.json(&["ports", "w"])["count"] == 1);
    let port = port_of(&host, "web");
    host.done(&["delete", "w"]);
    assert_free(port);
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
    wait_until("the server", || get_count(port, b"abc") == "3\n");

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

/// What the bulk server has counted.
fn get_count(port: u16, bytes: &[u8]) -> String {
    let mut stream = connect(port);
    // Before the server listens the connection is closed at once.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    text
}
