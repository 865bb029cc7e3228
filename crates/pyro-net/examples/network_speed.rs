//! How fast the stack carries TCP between a network namespace and servers on the host's loopback, beside pasta where
//! it is installed: one line `NAME UNIT FIGURE` each, tabs between them. `cargo xtask bench --only network` runs it
//! as root.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::print_stderr)] // a program of its own, which may end at any error
#![allow(unreachable_pub)]

#[path = "../tests/kernel/sys.rs"]
mod sys;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use pyro_net::guest::{GATEWAY_V4, GATEWAY_V6, GUEST_MAC, GUEST_V4, GUEST_V6, MTU, PREFIX_V4, PREFIX_V6};
use pyro_net::policy::Limits;
use pyro_net::{FlowEvent, HostDialer, HostResolver, Mode, Network, Policy};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const BULK: Duration = Duration::from_secs(2);
const SHORT: Duration = Duration::from_secs(1);
const IDLE_FLOWS: usize = 2000;
const PIECE: usize = 128 << 10;

fn main() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let words: Vec<String> = std::env::args().collect();
    if let [_, word, host, ports @ ..] = words.as_slice()
        && word == "client"
    {
        let ports: Vec<u16> = ports.iter().map(|port| port.parse().unwrap()).collect();
        return client(host.parse().unwrap(), &ports);
    }
    let servers = [serve("127.0.0.1:0", swallow), serve("127.0.0.1:0", pour), serve("127.0.0.1:0", echo)];
    let ports: Vec<String> = servers.iter().map(|at| at.port().to_string()).collect();
    let own = std::env::current_exe().unwrap();
    let client =
        |host: &str| [vec![own.display().to_string(), "client".into(), host.into()], ports.clone()].concat();
    through_stack(&servers, &client(&GATEWAY_V4.to_string()));
    through_pasta(&client);
}

fn print(prefix: &str, lines: &[u8]) {
    for line in String::from_utf8_lossy(lines).lines() {
        println!("{prefix}: {line}");
    }
}

fn through_stack(servers: &[SocketAddr], client: &[String]) {
    let (made, tap) = mpsc::channel();
    let (go, begins) = mpsc::channel::<()>();
    let client = client.to_vec();
    let inside = thread::spawn(move || {
        sys::leave_network().unwrap();
        made.send(sys::open_tap("eth0").unwrap()).unwrap();
        configure();
        begins.recv().unwrap();
        let output = Command::new(&client[0]).args(&client[1..]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    });
    let most = u32::try_from(2 * IDLE_FLOWS).unwrap();
    let limits = Limits { flows: most, half_open: most, syn_per_second: 1_000_000, ..Limits::default() };
    let allow = servers.iter().map(|at| format!("tcp://{at}").parse().unwrap()).collect();
    let policy = Policy { allow, limits, ..Policy::of(Mode::Egress) };
    let (dialer, resolver) = (Box::new(HostDialer), Box::new(HostResolver::new().unwrap()));
    let network =
        Network::start(policy, None, tap.recv().unwrap(), dialer, resolver, Box::new(|_: FlowEvent| ()))
            .unwrap();
    go.send(()).unwrap();
    print("stack", &inside.join().unwrap());
    let counters = network.counters();
    assert!(counters.dropped.iter().sum::<u64>() < 1000, "{counters:?}");
}

fn configure() {
    let mac = GUEST_MAC.map(|byte| format!("{byte:02x}")).join(":");
    for command in [
        "link set lo up".to_owned(),
        format!("link set eth0 address {mac} mtu {MTU} txqueuelen 10000"),
        format!("addr add {GUEST_V4}/{PREFIX_V4} dev eth0"),
        format!("addr add {GUEST_V6}/{PREFIX_V6} dev eth0 nodad"),
        "link set eth0 up".to_owned(),
        format!("route add default via {GATEWAY_V4}"),
        format!("-6 route add default via {GATEWAY_V6}"),
    ] {
        assert!(Command::new("ip").args(command.split(' ')).status().unwrap().success(), "ip {command}");
    }
}

/// pasta gives its gateway, which is the host's own, for the host's loopback.
fn through_pasta(client: &dyn Fn(&str) -> Vec<String>) {
    let route = Command::new("ip").args(["-4", "route", "show", "default"]).output().unwrap();
    let route = String::from_utf8_lossy(&route.stdout).into_owned();
    let gateway = route.split(' ').skip_while(|word| *word != "via").nth(1);
    let Some(gateway) = gateway else {
        eprintln!("skipped (no default route for pasta to copy)");
        return;
    };
    // It would become nobody, who may not open the TAP device. Its time is bounded: some versions stop moving.
    let words = ["180", "pasta", "--runas", "0", "--netns-only", "--config-net", "--quiet", "--"];
    let output = Command::new("timeout").args(words).args(client(gateway)).output();
    match output {
        Ok(output) if output.status.success() => print("pasta", &output.stdout),
        Ok(output) => eprintln!("skipped (pasta: {})", String::from_utf8_lossy(&output.stderr).trim()),
        Err(error) => eprintln!("skipped (pasta: {error})"),
    }
}

fn serve(at: &str, server: fn(TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind(at).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = stream.set_nodelay(true);
            thread::Builder::new().stack_size(256 << 10).spawn(move || server(stream)).unwrap();
        }
    });
    address
}

fn swallow(mut stream: TcpStream) {
    let mut buffer = vec![0; PIECE];
    while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
}

fn pour(mut stream: TcpStream) {
    let buffer = vec![7; PIECE];
    while stream.write_all(&buffer).is_ok() {}
}

fn echo(mut stream: TcpStream) {
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
}

fn client(host: IpAddr, ports: &[u16]) {
    let [sink, source, echo] = [0, 1, 2].map(|index| SocketAddr::new(host, ports[index]));
    for idle in [0, IDLE_FLOWS] {
        let mut held: Vec<TcpStream> = Vec::new();
        for _ in 0..idle {
            // pasta of some versions holds fewer.
            let Ok(stream) = TcpStream::connect_timeout(&sink, Duration::from_secs(5)) else { break };
            held.push(stream);
        }
        let with = if idle == 0 { String::new() } else { format!(", {} idle", held.len()) };
        for count in [1, 4] {
            let up = bulk(count, sink, |stream, buffer| stream.write(buffer));
            println!("guest to host, {count} flows{with}\tGbit/s\t{up}");
            let down = bulk(count, source, |stream, buffer| stream.read(buffer));
            println!("host to guest, {count} flows{with}\tGbit/s\t{down}");
        }
        println!("round trip, median{with}\tus\t{}", round_trip(echo));
        println!("connect, ask, close{with}\t/s\t{}", connects(echo));
    }
}

/// Gbit/s of `count` connections at once.
fn bulk(count: usize, to: SocketAddr, step: fn(&mut TcpStream, &mut [u8]) -> std::io::Result<usize>) -> f64 {
    let bytes = Arc::new(AtomicU64::new(0));
    let is_over = Arc::new(AtomicBool::new(false));
    let begun = Instant::now();
    let threads: Vec<_> = (0..count)
        .map(|_| {
            let (bytes, is_over) = (Arc::clone(&bytes), Arc::clone(&is_over));
            thread::spawn(move || {
                let mut stream = TcpStream::connect(to).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
                let mut buffer = vec![7; PIECE];
                while !is_over.load(Ordering::Relaxed) {
                    let Ok(moved) = step(&mut stream, &mut buffer) else { break };
                    bytes.fetch_add(moved as u64, Ordering::Relaxed);
                }
            })
        })
        .collect();
    thread::sleep(BULK);
    let moved = bytes.load(Ordering::Relaxed) as f64;
    let seconds = begun.elapsed().as_secs_f64();
    is_over.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    moved * 8.0 / seconds / 1e9
}

fn ask(stream: &mut TcpStream) {
    let mut byte = [1];
    stream.write_all(&byte).unwrap();
    stream.read_exact(&mut byte).unwrap();
}

fn round_trip(to: SocketAddr) -> f64 {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut times, end) = (Vec::new(), Instant::now() + SHORT);
    while Instant::now() < end {
        let begun = Instant::now();
        ask(&mut stream);
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}

fn connects(to: SocketAddr) -> f64 {
    let (mut count, begun) = (0u32, Instant::now());
    while begun.elapsed() < SHORT {
        ask(&mut TcpStream::connect(to).unwrap());
        count += 1;
    }
    f64::from(count) / begun.elapsed().as_secs_f64()
}
