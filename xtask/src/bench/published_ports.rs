//! What a published port costs: the same server in a guest behind its port, and on this machine without one.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::table::{Bound, Table};
use super::workspaces::client::Client;
use super::workspaces::{SLOW_RUNS, median, median_of, parse};
use crate::steps;

/// Each bulk transfer.
const BYTES: usize = 128 << 20;
const PIECE: usize = 64 << 10;
const ROUND_TRIPS: u32 = 200;
const CONNECTIONS: u32 = 100;
/// For each read and write: a guest that is stuck shall end the measurement.
const PATIENCE: Duration = Duration::from_secs(60);
/// In the guest.
const GUEST_PORT: u16 = 8080;

/// The first byte of a connection says what is wanted: `u` counts what comes, `d` sends, `a` echoes.
const SERVER: &str = r#"use strict; use IO::Socket::INET;
my ($port, $pieces) = @ARGV; $SIG{CHLD} = "IGNORE"; my $piece = "x" x 65536;
my $s = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => $port, Listen => 64, ReuseAddr => 1) or die $!;
while (1) { my $c = $s->accept or next; next if fork;
setsockopt($c, 6, 1, 1); sysread($c, my $what, 1); my ($got, $n) = (0, 0);
if ($what eq "u") { while ($n = sysread($c, my $b, 65536)) { $got += $n } syswrite($c, "$got\n") }
if ($what eq "d") { for (1 .. $pieces) { my $at = 0; while ($at < 65536) { $at += syswrite($c, $piece, 65536, $at) // die } } }
if ($what eq "a") { while ($n = sysread($c, my $b, 65536)) { syswrite($c, $b, $n) } }
exit 0 }"#;

/// A server of this machine, for as long as this is held.
struct Plain {
    child: Child,
    port: u16,
}

impl Drop for Plain {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Plain {
    fn start() -> Result<Self> {
        // Free a moment ago.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new("perl");
        command.args(["-e", SERVER, &port.to_string(), &pieces()]).stdin(Stdio::null());
        let plain = Self { child: command.spawn().context("cannot run perl")?, port };
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(Instant::now() < end, "perl does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(plain)
    }
}

fn pieces() -> String {
    (BYTES / PIECE).to_string()
}

/// Both ways in bytes a second, and times in seconds.
struct Figures {
    to: f64,
    from: f64,
    round_trip: f64,
    connection: f64,
}

/// Nothing stays in `place`, unless the workspace cannot be deleted.
pub(super) fn measure(pyro: &Path, place: &Path, table: &mut Table) -> Result<()> {
    let client = Client::open(pyro, &place.join("published ports"))?;
    let measured = steps::call("published ports", || measure_both(&client, table));
    let closed = steps::call("delete the workspaces", || client.close());
    match (measured, closed) {
        (Err(error), Err(left)) => Err(error.context(format!("{left:#}"))),
        (measured, closed) => measured.and(closed),
    }
}

#[derive(Deserialize)]
struct Service {
    published_ports: Vec<Port>,
}

#[derive(Deserialize)]
struct Port {
    host_port: u16,
}

fn measure_both(client: &Client, table: &mut Table) -> Result<()> {
    let create = ["create", "debian:12", "--id-only", "--network-policy", "egress+published-ports"];
    let id = client.run(&create)?.stdout;
    let (port, pieces, address) = (GUEST_PORT.to_string(), pieces(), format!("127.0.0.1:{GUEST_PORT}"));
    let start =
        ["service", "start", id.trim(), "server", "--publish", &port, "--ready-tcp", &address, "--json"];
    let serve = ["--", "perl", "-e", SERVER, &port, &pieces];
    let started = client.run(&[&start[..], &serve].concat())?;
    let service: Service = parse(&started.stdout)?;
    let Some(Port { host_port }) = service.published_ports.first() else { bail!("no port is published") };
    let plain = Plain::start()?;
    // In turn, so that what else this machine does meets both.
    let (theirs, ours) = (figures(plain.port)?, figures(*host_port)?);
    let speed = |bytes_a_second: f64| bytes_a_second / super::MEBIBYTE;
    let milliseconds = |seconds: f64| seconds * 1000.0;
    for (name, unit, ours, theirs) in [
        ("into the guest", "MiB/s", speed(ours.to), speed(theirs.to)),
        ("out of the guest", "MiB/s", speed(ours.from), speed(theirs.from)),
        ("round trip, median", "ms", milliseconds(ours.round_trip), milliseconds(theirs.round_trip)),
        ("connect, ask, close, median", "ms", milliseconds(ours.connection), milliseconds(theirs.connection)),
    ] {
        table.add(&format!("published port, {name}"), ours, unit, Bound::None);
        table.add("  the same without a guest", theirs, unit, Bound::None);
        table.add("  ratio of the two", ours / theirs, "", Bound::None);
    }
    Ok(())
}

fn figures(port: u16) -> Result<Figures> {
    let to = median_of(SLOW_RUNS, |_| {
        let started = Instant::now();
        let mut stream = connect(port, b"u")?;
        let piece = vec![7; PIECE];
        (0..BYTES / PIECE).try_for_each(|_| stream.write_all(&piece))?;
        stream.shutdown(Shutdown::Write)?;
        let mut counted = String::new();
        stream.read_to_string(&mut counted)?;
        ensure!(counted.trim() == BYTES.to_string(), "the server got {} bytes of {BYTES}", counted.trim());
        Ok(started.elapsed())
    })?;
    let from = median_of(SLOW_RUNS, |_| {
        let started = Instant::now();
        let mut stream = connect(port, b"d")?;
        let got = std::io::copy(&mut stream, &mut std::io::sink())?;
        ensure!(got == BYTES as u64, "the server sent {got} bytes of {BYTES}");
        Ok(started.elapsed())
    })?;
    let mut stream = connect(port, b"a")?;
    let ask = |stream: &mut TcpStream| {
        let started = Instant::now();
        stream.write_all(b"?")?;
        stream.read_exact(&mut [0])?;
        Ok(started.elapsed())
    };
    let round_trips = (0..ROUND_TRIPS).map(|_| ask(&mut stream)).collect::<Result<Vec<_>>>()?;
    let connection = median_of(CONNECTIONS, |_| {
        let started = Instant::now();
        ask(&mut connect(port, b"a")?)?;
        Ok(started.elapsed())
    })?;
    let bytes = BYTES as f64;
    Ok(Figures { to: bytes / to, from: bytes / from, round_trip: median(&round_trips)?, connection })
}

fn connect(port: u16, what: &[u8]) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(what)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_counts_sends_and_echoes() {
        let plain = Plain::start().unwrap();
        let mut stream = connect(plain.port, b"u").unwrap();
        stream.write_all(b"abc").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "3\n");
        let mut stream = connect(plain.port, b"d").unwrap();
        assert_eq!(std::io::copy(&mut stream, &mut std::io::sink()).unwrap(), BYTES as u64);
        let mut stream = connect(plain.port, b"a").unwrap();
        stream.write_all(b"echo").unwrap();
        let mut echo = [0; 4];
        stream.read_exact(&mut echo).unwrap();
        assert_eq!(&echo, b"echo");
    }
}
