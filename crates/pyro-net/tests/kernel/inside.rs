//! A network namespace whose only way out is a stack, with the kernel's TCP for a guest's and ordinary programs in it.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::process::{Command, Output};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pyro_net::dns::{Found, ResolveError, Ticket, Wanted};
use pyro_net::guest::{
    GATEWAY_MAC, GATEWAY_V4, GATEWAY_V6, GUEST_MAC, GUEST_V4, GUEST_V6, MTU, PREFIX_V4, PREFIX_V6,
};
use pyro_net::policy::Name;
use pyro_net::{Dialer, FlowEvent, HostDialer, Network, Policy, Resolver};

use super::sys;

/// The namespace and the stack it hangs on.
pub struct Inside {
    pub network: Network,
    pub events: Arc<Mutex<Vec<FlowEvent>>>,
    orders: Option<Sender<(Vec<String>, Sender<Output>)>>,
    thread: Option<JoinHandle<()>>,
}

/// Says that a test is not run; under `PYRO_REQUIRE=netns` it fails.
fn skipped<T>(why: &str) -> Option<T> {
    println!("skipped ({why})");
    let is_required =
        std::env::var("PYRO_REQUIRE").is_ok_and(|list| list.split(',').any(|word| word == "netns"));
    assert!(!is_required, "PYRO_REQUIRE asks for netns");
    None
}

impl Inside {
    /// `None` where it cannot be made, which is said.
    pub fn start(policy: Policy, hosts: &[(&str, SocketAddr)]) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return skipped("a network namespace with a TAP device needs root");
        }
        for program in ["ip", "curl", "python3"] {
            if Command::new(program).arg("--help").output().is_err() {
                return skipped(&format!("no {program}"));
            }
        }
        let (orders, taken) = channel::<(Vec<String>, Sender<Output>)>();
        let (made, tap) = channel();
        let thread = thread::spawn(move || live_inside(&made, &taken));
        let tap: io::Result<OwnedFd> = tap.recv().unwrap();
        let tap = match tap {
            Ok(tap) => tap,
            Err(error) => return skipped(&format!("no network namespace with a TAP device: {error}")),
        };
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&events);
        let record = move |event: FlowEvent| sink.lock().unwrap().push(event);
        let hosts: HashMap<Name, SocketAddr> =
            hosts.iter().map(|(name, at)| (name.parse().unwrap(), *at)).collect();
        let resolver = Table { hosts: hosts.clone(), answers: Vec::new() };
        let dialer = Elsewhere { hosts };
        let network =
            Network::start(policy, None, tap, Box::new(dialer), Box::new(resolver), Box::new(record))
                .unwrap();
        Some(Self { network, events, orders: Some(orders), thread: Some(thread) })
    }

    /// Runs a program in the namespace.
    pub fn run(&self, words: &[&str]) -> Output {
        let (done, output) = channel();
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        self.orders.as_ref().unwrap().send((words, done)).unwrap();
        output.recv().unwrap()
    }

    /// Waits for a record of which `is_it` holds.
    pub fn event(&self, is_it: impl Fn(&FlowEvent) -> bool) -> FlowEvent {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(event) = self.events.lock().unwrap().iter().find(|event| is_it(event)) {
                return event.clone();
            }
            assert!(Instant::now() < end, "no such record: {:#?}", self.events.lock().unwrap());
            thread::yield_now();
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The namespace is this thread's and ends with it; programs that it starts are born into it.
fn live_inside(made: &Sender<io::Result<OwnedFd>>, orders: &Receiver<(Vec<String>, Sender<Output>)>) {
    let tap = sys::leave_network().and_then(|()| sys::open_tap("eth0"));
    let is_made = tap.is_ok();
    if is_made {
        configure();
    }
    made.send(tap).unwrap();
    if !is_made {
        return;
    }
    while let Ok((words, done)) = orders.recv() {
        done.send(Command::new(&words[0]).args(&words[1..]).output().unwrap()).unwrap();
    }
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// What the agent does in a guest.
fn configure() {
    let commands = [
        "link set lo up".to_owned(),
        format!("link set eth0 address {} mtu {MTU}", mac(GUEST_MAC)),
        format!("addr add {GUEST_V4}/{PREFIX_V4} dev eth0"),
        format!("addr add {GUEST_V6}/{PREFIX_V6} dev eth0 nodad"),
        "link set eth0 up".to_owned(),
        format!("route add default via {GATEWAY_V4}"),
        format!("-6 route add default via {GATEWAY_V6}"),
    ];
    for command in commands {
        let output = Command::new("ip").args(command.split(' ')).output().unwrap();
        assert!(output.status.success(), "ip {command}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let _ = GATEWAY_MAC;
}

/// Names that resolve to public addresses, where nothing is ever sent: the sockets go to servers on loopback.
struct Table {
    hosts: HashMap<Name, SocketAddr>,
    answers: Vec<(Ticket, Result<Found, ResolveError>)>,
}

impl Resolver for Table {
    fn ask(&mut self, ticket: Ticket, name: &Name, wanted: Wanted) {
        let found = |at: &SocketAddr| match wanted {
            Wanted::Addresses => Found::Addresses(vec![public(*at).ip()]),
            Wanted::Records(_) => Found::Records(Vec::new()),
        };
        let answer = self.hosts.get(name).map(found).ok_or(ResolveError::NoSuchName);
        self.answers.push((ticket, answer));
    }

    fn finished(&mut self) -> Option<(Ticket, Result<Found, ResolveError>)> {
        self.answers.pop()
    }

    fn wakes(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// The public address that stands for a server on loopback.
fn public(at: SocketAddr) -> SocketAddr {
    let [high, low] = at.port().to_be_bytes();
    ([1, 2, high, low], 0).into()
}

struct Elsewhere {
    hosts: HashMap<Name, SocketAddr>,
}

impl Elsewhere {
    fn real(&self, to: SocketAddr) -> io::Result<SocketAddr> {
        if to.ip().is_loopback() {
            return Ok(to);
        }
        let real = self.hosts.values().find(|at| public(**at).ip() == to.ip());
        // No test sends a packet to anyone.
        real.copied().ok_or(io::ErrorKind::HostUnreachable.into())
    }
}

impl Dialer for Elsewhere {
    fn tcp(&mut self, to: SocketAddr) -> io::Result<OwnedFd> {
        HostDialer.tcp(self.real(to)?)
    }

    fn udp(&mut self, to: SocketAddr) -> io::Result<OwnedFd> {
        HostDialer.udp(self.real(to)?)
    }

    fn ping(&mut self, to: IpAddr) -> io::Result<OwnedFd> {
        HostDialer.ping(self.real(SocketAddr::new(to, 0))?.ip())
    }

    fn is_hosts(&mut self, address: IpAddr) -> bool {
        HostDialer.is_hosts(address)
    }
}

/// An HTTP server of one request a connection: answers `/N` with N bytes, and a body with its length and sum.
pub fn serve_http(at: &str) -> SocketAddr {
    let listener = TcpListener::bind(at).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            thread::spawn(move || drop(answer(stream)));
        }
    });
    address
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let field = |name: &str| {
        let mut lines = head.lines();
        lines.find_map(|line| {
            line.to_ascii_lowercase().strip_prefix(name).map(|value| value.trim().to_owned())
        })
    };
    let body = if let Some(length) = field("content-length:") {
        if field("expect:").is_some() {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let mut body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut body)?;
        format!("{} {}", body.len(), sum(&body)).into_bytes()
    } else {
        let path = head.split(' ').nth(1).unwrap();
        bytes(path.trim_start_matches('/').parse().unwrap_or(0))
    };
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    stream.write_all(&body)
}

/// Bytes of which none can be missing or change places unseen.
pub fn bytes(count: usize) -> Vec<u8> {
    (0..count as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

pub fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(7, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)))
}
