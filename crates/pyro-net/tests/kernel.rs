//! The kernel's own TCP for a guest's, and ordinary programs, against servers on the host's loopback. Needs root for a
//! network namespace of its own; nothing leaves this machine.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::print_stdout)]

#[path = "kernel/inside.rs"]
mod inside;
#[path = "kernel/sys.rs"]
mod sys;

use std::net::UdpSocket;
use std::process::Output;

use inside::{Inside, bytes, serve_http, sum};
use pyro_net::guest::{GATEWAY_V4, GATEWAY_V6};
use pyro_net::{End, Mode, Policy};

const LIMIT: [&str; 4] = ["curl", "-sS", "--max-time", "60"];

fn policy(mode: Mode, allow: &[String]) -> Policy {
    Policy { allow: allow.iter().map(|rule| rule.parse().unwrap()).collect(), ..Policy::of(mode) }
}

fn curl(inside: &Inside, words: &[&str]) -> Output {
    inside.run(&[&LIMIT[..], words].concat())
}

fn check(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn downloads_and_uploads_of_both_families_arrive_whole() {
    const LENGTH: usize = 32 << 20;
    let (v4, v6) = (serve_http("127.0.0.1:0"), serve_http("[::1]:0"));
    let rules = [format!("tcp://127.0.0.1:{}", v4.port()), format!("tcp://[::1]:{}", v6.port())];
    let Some(inside) = Inside::start(policy(Mode::Egress, &rules), &[]) else { return };
    let whole = bytes(LENGTH);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &whole).unwrap();
    let upload = format!("@{}", file.path().display());
    for host in [format!("{GATEWAY_V4}:{}", v4.port()), format!("[{GATEWAY_V6}]:{}", v6.port())] {
        let output = curl(&inside, &[&format!("http://{host}/{LENGTH}")]);
        check(&output);
        assert!(output.stdout == whole, "{host}: {} bytes", output.stdout.len());
        let output = curl(&inside, &["--data-binary", &upload, &format!("http://{host}/")]);
        check(&output);
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{LENGTH} {}", sum(&whole)));
        // Several at once, and many one after the other.
        let url = format!("http://{host}/[100000-100031]");
        let output = curl(
            &inside,
            &["--parallel", "--parallel-max", "8", "-o", "/dev/null", "-w", "%{size_download}\n", &url],
        );
        check(&output);
        assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 32);
    }
    let event = inside.event(|event| event.received_bytes > LENGTH as u64);
    assert_eq!((event.end, event.dialled), (End::Finished, Some(v4)));
}

#[test]
fn a_denial_is_told_at_once_and_its_rule_opens_what_was_denied() {
    let server = serve_http("127.0.0.1:0");
    let Some(inside) = Inside::start(Policy::of(Mode::Egress), &[]) else { return };
    let url = format!("http://{GATEWAY_V4}:{}/1000", server.port());
    let output = curl(&inside, &[&url]);
    assert_eq!(output.status.code(), Some(7), "refused");
    let event = inside.event(|event| event.end == End::Denied);
    let rule = event.smallest_rule_that_would_allow.unwrap().to_string();
    assert_eq!(rule, format!("tcp://{server}"));
    inside.network.set_policy(policy(Mode::Egress, &[rule]), || ());
    let output = curl(&inside, &["--retry", "20", "--retry-connrefused", "--retry-delay", "1", &url]);
    check(&output);
    assert_eq!(output.stdout, bytes(1000));
}

#[test]
fn a_closed_port_refuses() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let Some(inside) = Inside::start(policy(Mode::Egress, &[format!("127.0.0.1:{port}")]), &[]) else {
        return;
    };
    assert_eq!(curl(&inside, &[&format!("http://{GATEWAY_V4}:{port}/")]).status.code(), Some(7));
    inside.event(|event| event.end == End::Refused);
}

#[test]
fn a_listed_name_opens_itself_and_no_other() {
    let server = serve_http("127.0.0.1:0");
    let hosts = [("api.example", server), ("other.example", server)];
    let Some(inside) = Inside::start(policy(Mode::AllowList, &["api.example".into()]), &hosts) else {
        return;
    };
    // The table's dialler sends any port to the server, so that the names' usual ports can be used.
    let get = |words: &[&str]| {
        // The namespace has the host's resolver configuration; whatever it names, the gateway answers.
        curl(&inside, &[words, &["-4"]].concat())
    };
    let output = get(&["http://api.example/500"]);
    check(&output);
    assert_eq!(output.stdout, bytes(500));
    assert_eq!(get(&["http://other.example/500"]).status.code(), Some(6), "no such name");
    let output = get(&["-H", "Host: other.example", "http://api.example/500"]);
    assert!(!output.status.success() && output.stdout.is_empty());
    inside.event(|event| event.end == End::OtherName);
}

#[test]
fn a_side_that_said_its_last_still_hears_the_other() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let Some(inside) = Inside::start(policy(Mode::Egress, &[format!("127.0.0.1:{port}")]), &[]) else {
        return;
    };
    let server = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = listener.accept().unwrap();
        let mut question = Vec::new();
        stream.read_to_end(&mut question).unwrap();
        stream.write_all(&bytes(1_000_000)).unwrap();
        question
    });
    let program = format!(
        "import socket\ns = socket.create_connection(('{GATEWAY_V4}', {port}))\ns.sendall(b'question')\n\
         s.shutdown(socket.SHUT_WR)\nn = 0\nwhile True:\n  b = s.recv(65536)\n  if not b: break\n  n += len(b)\nprint(n)"
    );
    let output = inside.run(&["timeout", "60", "python3", "-c", &program]);
    check(&output);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "1000000");
    assert_eq!(server.join().unwrap(), b"question");
}

#[test]
fn datagrams_of_any_size_go_and_come() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let Some(inside) = Inside::start(policy(Mode::Egress, &[format!("127.0.0.1:{port}")]), &[]) else {
        return;
    };
    std::thread::spawn(move || {
        let mut buffer = [0; 65536];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            // Longer than what came: pieces are put together again by the guest.
            let answer: Vec<u8> = buffer[..length].iter().copied().cycle().take(length * 6).collect();
            socket.send_to(&answer, from).unwrap();
        }
    });
    let program = format!(
        "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.settimeout(20)\n\
         s.connect(('{GATEWAY_V4}', {port}))\nfor n in (1, 100, 1400):\n  s.send(bytes(range(1)) * n)\n  print(len(s.recv(65536)))\n\
         d = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nd.settimeout(20)\nd.connect(('10.0.0.1', 9))\nd.send(b'x')\n\
         try:\n  d.recv(1)\nexcept OSError as e:\n  print(e.errno)\n"
    );
    let output = inside.run(&["timeout", "60", "python3", "-c", &program]);
    check(&output);
    // 113 is EHOSTUNREACH: denied datagrams are told so.
    assert_eq!(String::from_utf8_lossy(&output.stdout), "6\n600\n8400\n113\n");
}

#[test]
fn the_gateway_answers_echo_of_both_families() {
    let Some(inside) = Inside::start(Policy::of(Mode::Egress), &[]) else { return };
    // Raw sockets of the program itself: ping is not everywhere.
    let program = format!(
        "import socket\nfor f, p, a, q, o in ((socket.AF_INET, 1, '{GATEWAY_V4}', 8, 20), (socket.AF_INET6, 58, '{GATEWAY_V6}', 128, 0)):\n\
         \x20 s = socket.socket(f, socket.SOCK_RAW, p)\n  s.settimeout(20)\n  m = bytes([q, 0, 0, 0, 0, 7, 0, 1]) + b'payload!'\n\
         \x20 c = sum(int.from_bytes(m[i:i+2], 'big') for i in range(0, len(m), 2))\n  c = (c & 65535) + (c >> 16)\n\
         \x20 m = m[:2] + ((~c) & 65535).to_bytes(2, 'big') + m[4:]\n  s.sendto(m, (a, 0))\n\
         \x20 while True:\n    r = s.recv(2000)[o:]\n    if r[0] in (0, 129): break\n  print(r[8:].decode())\n"
    );
    let output = inside.run(&["timeout", "60", "python3", "-c", &program]);
    check(&output);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "payload!\npayload!\n");
}
