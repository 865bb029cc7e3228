//! A guest whose root does to its network whatever a link can carry, while others of this host go on. Servers are on
//! this host's loopback; no other address is ever allowed, so nothing is sent anywhere else.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, ChildStdout};
use support::host::Host;
use support::network::{Server, client};
use support::{guest_available, wait_until};

/// What a supervisor may take beside the rings of its guest's connections: itself, buffers of the link and of the
/// log, and 1024 connections that moved nothing. It is a quarter of that when this was written.
const SUPERVISOR_MIB: u64 = 64;
/// What `pyro-net` lets the rings of one machine take together (`RINGS_BYTES`).
const RINGS_MIB: u64 = 256;
/// Connections of one guest at a time (`FLOWS` of `pyro-net`).
const FLOWS: usize = 1024;
/// What the server sends on each connection: all together more than the rings may take.
const FLOOD_BYTES: usize = 384 << 10;

/// A workspace `w` that may reach these ports of the host's loopback, and nothing else.
fn host(ports: &[u16]) -> Host {
    let host = Host::new();
    host.write("seed/frames.pl", include_str!("hostile/frames.pl"));
    host.write("seed/flows.pl", include_str!("hostile/flows.pl"));
    let seed = host.path("seed");
    let rules: Vec<String> = ports.iter().map(|port| format!("tcp://127.0.0.1:{port}")).collect();
    let rules: Vec<&str> = rules.iter().flat_map(|rule| ["--allow-only", rule]).collect();
    let common = ["--name", "w", "--network-policy", "egress", "--seed-path", &seed];
    host.create(&[&common[..], &rules].concat());
    host
}

/// An attack that has begun and goes on until it is told that it is enough.
struct Attack<'a> {
    host: &'a Host,
    child: Child,
    output: BufReader<ChildStdout>,
}

impl<'a> Attack<'a> {
    fn begin(host: &'a Host, text: &str) -> Self {
        let mut child = host.spawn(&["exec", "w", "--timeout-seconds", "180", "--shell", text]);
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut attack = Self { host, child, output };
        assert_eq!(attack.line(), "begun\n");
        attack
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        if line.is_empty() {
            let mut said = String::new();
            self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("the attack ended early: {said}");
        }
        line
    }

    fn enough(mut self) -> String {
        self.host.shell("w", "touch /run/enough");
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        assert!(self.child.wait().unwrap().success());
        rest
    }
}

/// Sockets of `pid` that are of this host's network.
fn inet_sockets(pid: u32) -> usize {
    let mut open = BTreeSet::new();
    for fd in fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        let Ok(target) = fs::read_link(fd.path()) else { continue };
        let inode =
            target.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        open.extend(inode.filter(|inode: &u64| *inode > 0));
    }
    let tables = ["tcp", "tcp6", "udp", "udp6", "raw", "raw6", "icmp", "icmp6"].iter();
    let tables =
        tables.map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default());
    let inodes: BTreeSet<u64> = tables
        .flat_map(|text| {
            let inodes = text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(9)?.parse().ok());
            inodes.collect::<Vec<u64>>()
        })
        .collect();
    open.intersection(&inodes).count()
}

/// The most memory that `pid` has had, MiB.
fn peak_mib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() / 1024
}

/// Another workspace does what it always does.
fn assert_goes_on(other: &Host, server: &Server) {
    assert_eq!(other.shell("w", "echo fine"), "fine\n");
    assert_eq!(other.shell("w", &client(server.port, "")), "hello\n");
    server.connections.recv().unwrap();
}

#[test]
fn frames_that_nobody_may_send_open_nothing_fill_nothing_and_disturb_nobody() {
    if !guest_available() {
        return;
    }
    let (server, open) = (Server::start(), Server::start());
    let (hostile, other) = (host(&[open.port]), host(&[server.port]));
    let supervisor = hostile.supervisor();
    assert_eq!(inet_sockets(supervisor), 0);
    let text = format!("exec perl frames.pl 20000 2000000 {}", open.port);
    let attack = Attack::begin(&hostile, &text);
    for _ in 0..3 {
        assert_goes_on(&other, &server);
        for _ in 0..100 {
            assert_eq!(inet_sockets(supervisor), 0, "what is denied has opened a socket");
        }
    }
    let sent: u64 = attack.enough().trim().parse().unwrap();
    assert!(sent >= 20_000, "{sent} frames");
    assert!(open.is_alone(), "a connection came of frames that are none of the guest's");
    assert_eq!(inet_sockets(supervisor), 0);
    let peak = peak_mib(supervisor);
    println!("{sent} frames, supervisor's peak {peak} MiB");
    assert!(peak <= SUPERVISOR_MIB, "{peak} MiB");
    // Its own network goes on as well, and what was denied is on record.
    assert_eq!(hostile.shell("w", &client(open.port, "")), "hello\n");
    let log = hostile.json(&["network", "log", "w", "--denied", "--tail-lines", "1000"]);
    let flows = log["flows"].as_array().unwrap();
    assert!(!flows.is_empty() && flows.iter().all(|flow| flow["received_bytes"] == 0), "{log:#}");
}

/// A server that sends to everybody who comes and waits for nobody.
fn flood() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let piece: Vec<u8> =
            b"hello\n".iter().copied().chain(std::iter::repeat(7)).take(FLOOD_BYTES).collect();
        let mut held = Vec::new();
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            stream.set_nonblocking(true).unwrap();
            let mut sent = 0;
            while sent < piece.len()
                && let Ok(count) = stream.write(&piece[sent..])
            {
                sent += count;
            }
            held.push(stream);
        }
    });
    port
}

/// Lets the guest try to open this many connections that it never reads from. How many it opened, and how many sockets
/// were there when it held what it had.
fn hold(hostile: &Host, other: &Host, server: &Server, attempts: usize, port: u16) -> (usize, usize) {
    let supervisor = hostile.supervisor();
    let text = format!("rm -f /run/enough; ulimit -n 20000; exec perl flows.pl {attempts} {port}");
    let mut attack = Attack::begin(hostile, &text);
    for _ in 0..3 {
        assert_goes_on(other, server);
        let sockets = inet_sockets(supervisor);
        assert!(sockets <= FLOWS, "{sockets} sockets");
    }
    let told = attack.line();
    let (opened, refused) = told.trim().split_once(' ').unwrap();
    let (opened, refused): (usize, usize) = (opened.parse().unwrap(), refused.parse().unwrap());
    assert_eq!(opened + refused, attempts);
    assert_goes_on(other, server);
    let sockets = inet_sockets(supervisor);
    attack.enough();
    let peak = peak_mib(supervisor);
    println!("{opened} opened, {refused} refused, {sockets} sockets, supervisor's peak {peak} MiB");
    wait_until("the connections to be gone", || inet_sockets(supervisor) == 0);
    (opened, sockets)
}

#[test]
fn ten_thousand_connections_that_nobody_reads_from_stay_within_their_bounds() {
    if !guest_available() {
        return;
    }
    // The servers here have a descriptor for each.
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files }).unwrap();
    let (server, silent, flooding) = (Server::start(), Server::start(), flood());
    let hostile = host(&[silent.port, flooding]);
    let other = host(&[server.port]);
    let supervisor = hostile.supervisor();

    // As many as are allowed are held, and no more.
    let (opened, sockets) = hold(&hostile, &other, &server, 10_000, silent.port);
    assert_eq!((opened, sockets), (FLOWS, FLOWS));
    let peak = peak_mib(supervisor);
    assert!(peak <= SUPERVISOR_MIB, "{peak} MiB");

    // Those that hold much are ended to make room for others.
    let (opened, sockets) = hold(&hostile, &other, &server, 3000, flooding);
    assert!(opened >= FLOWS / 2, "{opened} opened");
    assert!(sockets > 0 && sockets < FLOWS, "{sockets} sockets");
    assert_eq!(hostile.shell("w", &client(flooding, "")), "hello\n");
    let peak = peak_mib(supervisor);
    assert!(peak <= SUPERVISOR_MIB + RINGS_MIB, "{peak} MiB");
}
