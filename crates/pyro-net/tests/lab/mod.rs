//! A guest made of smoltcp on the other end of a stack's link, servers in this process, a cable that loses, doubles
//! and reorders, and a clock that only the test moves.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // each test binary uses its own part

pub mod guest;
pub mod host;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pyro_net::{FlowEvent, Policy, Proxy, Setup, Stack, Turn, limits};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

pub use guest::Guest;
pub use host::{Host, Script};

/// Random enough, and the same for the same seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// How bad the cable is, in percent of the packets of each direction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub lost: u64,
    pub doubled: u64,
    pub late: u64,
}

pub struct Lab {
    pub stack: Stack,
    pub guest: Guest,
    pub host: Host,
    pub events: Arc<Mutex<Vec<FlowEvent>>>,
    pub now: Duration,
    pub faults: Faults,
    /// What the stack sent, whole, as it came out of the link.
    pub seen: VecDeque<Vec<u8>>,
    cable: OwnedFd,
    dice: Dice,
    /// Packets under way by the time of their arrival.
    to_guest: BTreeMap<(Duration, u64), Vec<u8>>,
    to_stack: BTreeMap<(Duration, u64), Vec<u8>>,
    sent: u64,
}

impl Lab {
    pub fn new(policy: Policy, seed: u64) -> Self {
        Self::with_proxy(policy, None, seed)
    }

    pub fn with_proxy(policy: Policy, proxy: Option<Proxy>, seed: u64) -> Self {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (link, cable) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&events);
        let host = Host::default();
        let setup = Setup { policy, proxy, epoch: Duration::from_secs(1_700_000_000), seed };
        let record = move |event: FlowEvent| sink.lock().unwrap().push(event);
        let stack =
            Stack::new(setup, link, Box::new(host.dialer()), Box::new(host.resolver()), Box::new(record))
                .unwrap();
        Self {
            stack,
            guest: Guest::new(seed),
            host,
            events,
            now: Duration::ZERO,
            faults: Faults::default(),
            seen: VecDeque::new(),
            cable,
            dice: Dice::new(seed),
            to_guest: BTreeMap::new(),
            to_stack: BTreeMap::new(),
            sent: 0,
        }
    }

    /// Turns everything until `is_done`, for at most so much of the simulated time.
    pub fn run(&mut self, within: Duration, mut is_done: impl FnMut(&mut Self) -> bool) {
        let end = self.now + within;
        while !is_done(self) {
            assert!(self.now < end, "not done after {within:?}; events {:#?}", self.events.lock().unwrap());
            self.step();
        }
    }

    /// Turns everything for so much of the simulated time.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    pub fn step(&mut self) {
        self.host.step();
        self.stack.wait(Some(Duration::ZERO)).unwrap();
        assert_eq!(self.stack.work(self.now).unwrap(), Turn::On);
        let from_stack = self.receive();
        let arrived = self.due(true);
        let from_guest = self.guest.poll(self.now, arrived);
        let is_quiet = from_stack.is_empty() && from_guest.is_empty();
        for message in from_stack {
            self.seen.push_back(message.clone());
            self.seen.truncate(1000);
            for packet in guest::segments(&message) {
                self.put(packet, true);
            }
        }
        for packet in from_guest {
            let message = guest::framed(&packet);
            self.put(message, false);
        }
        for message in self.due(false) {
            self.send(&message);
        }
        if is_quiet {
            let quiet = self.quiet();
            self.now += quiet;
        }
    }

    /// How long nothing will happen, but at least a little and at most a while.
    fn quiet(&mut self) -> Duration {
        let under_way =
            self.to_guest.keys().chain(self.to_stack.keys()).map(|(at, _)| at.saturating_sub(self.now));
        let (least, most) = (Duration::from_micros(100), Duration::from_millis(50));
        let waits = [self.stack.patience(self.now), self.guest.patience(self.now)];
        under_way.chain(waits.into_iter().flatten()).min().unwrap_or(most).clamp(least, most)
    }

    fn put(&mut self, packet: Vec<u8>, is_to_guest: bool) {
        if self.dice.roll(100) < self.faults.lost {
            return;
        }
        let copies = 1 + u64::from(self.dice.roll(100) < self.faults.doubled);
        for _ in 0..copies {
            let is_late = self.dice.roll(100) < self.faults.late;
            let delay = Duration::from_micros(10 + if is_late { self.dice.roll(3000) } else { 0 });
            self.sent += 1;
            let way = if is_to_guest { &mut self.to_guest } else { &mut self.to_stack };
            way.insert((self.now + delay, self.sent), packet.clone());
        }
    }

    fn due(&mut self, is_to_guest: bool) -> Vec<Vec<u8>> {
        let way = if is_to_guest { &mut self.to_guest } else { &mut self.to_stack };
        let later = way.split_off(&(self.now + Duration::from_nanos(1), 0));
        std::mem::replace(way, later).into_values().collect()
    }

    /// Puts a message on the link as it is.
    pub fn send(&mut self, message: &[u8]) {
        match send(&self.cable, message, SendFlags::NOSIGNAL) {
            Ok(_) => {}
            // The stack takes some before the next is put on.
            Err(Errno::AGAIN) => {
                self.stack.wait(Some(Duration::ZERO)).unwrap();
                self.stack.work(self.now).unwrap();
                send(&self.cable, message, SendFlags::NOSIGNAL).unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Takes what is on the link.
    pub fn receive(&mut self) -> Vec<Vec<u8>> {
        let mut buffer = vec![0; limits::MAX_LINK_BYTES];
        let mut messages = Vec::new();
        loop {
            match recv(&self.cable, &mut buffer[..], RecvFlags::empty()) {
                Ok((_, length)) => messages.push(buffer[..length].to_vec()),
                Err(Errno::AGAIN) => return messages,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Turns the stack alone, as often as it has something to do at once.
    pub fn turn(&mut self) {
        loop {
            self.stack.wait(Some(Duration::ZERO)).unwrap();
            self.stack.work(self.now).unwrap();
            if self.stack.patience(self.now) != Some(Duration::ZERO) {
                return;
            }
        }
    }

    pub fn events(&self) -> Vec<FlowEvent> {
        self.events.lock().unwrap().clone()
    }

    /// The only record so far.
    pub fn event(&self) -> FlowEvent {
        let events = self.events();
        assert_eq!(events.len(), 1, "{events:#?}");
        events[0].clone()
    }
}

pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Bytes that tell if any of them is missing or out of place.
pub fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut dice = Dice::new(seed);
    (0..length).map(|_| dice.roll(256) as u8).collect()
}
