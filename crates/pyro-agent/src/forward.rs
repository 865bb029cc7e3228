//! Streams from the host to TCP ports of the guest: what a published port leads to.
//!
//! ```text
//! asked --port--> connecting --each address in turn--> relaying --both ends shut--> (gone)
//! ```
//! One thread and one epoll for all of them. A stream costs two buffers that are only as large as what is under
//! way, so a thousand idle ones cost little. Nothing is read that cannot be passed on.

mod relay;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use pyro_agent::wire::{Forwarded, PORT_BYTES};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::console::say;
use crate::limits::{FORWARD_CONNECT_DEADLINE, MAX_FORWARDS, REQUEST_DEADLINE};
use relay::{Relay, Turn};

/// Where a service may listen, in the order of trying.
const ADDRESSES: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
/// Events taken from the kernel at a time.
const EVENTS_PER_WAIT: usize = 64;
/// How often deadlines are looked at while there are any.
const DEADLINE_LOOK: Duration = Duration::from_secs(1);
/// The listener's number among the events; streams count from 1.
const LISTENER: u64 = 0;

/// A new connection with the question whether it is the host's.
type Accept<'a> = dyn Fn() -> io::Result<Option<OwnedFd>> + 'a;

/// All streams.
pub(crate) struct Forwarder {
    epoll: OwnedFd,
    streams: BTreeMap<u64, Stream>,
    next: u64,
    /// Streams that stopped at their share of a turn.
    again: BTreeSet<u64>,
}

enum Stream {
    /// The host has not said which port it wants.
    Asked {
        host: OwnedFd,
        port: Vec<u8>,
        until: Instant,
    },
    /// The guest's kernel has not answered.
    Connecting {
        host: OwnedFd,
        guest: OwnedFd,
        port: u16,
        address: usize,
        until: Instant,
    },
    Relaying(Relay),
}

/// What becomes of a stream after something happened to it.
enum Fate {
    Stays(Stream),
    /// It has more to move at once.
    Continues(Stream),
    Ends,
}

impl Forwarder {
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, streams: BTreeMap::new(), next: LISTENER + 1, again: BTreeSet::new() })
    }

    /// Serves the host's connections to `listener` for ever. `accept` gives the next one without waiting.
    pub(crate) fn serve(mut self, listener: &OwnedFd, accept: &Accept<'_>) -> io::Result<()> {
        epoll::add(&self.epoll, listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        loop {
            self.turn(accept)?;
        }
    }

    fn turn(&mut self, accept: &Accept<'_>) -> io::Result<()> {
        let mut numbers = std::mem::take(&mut self.again);
        numbers.extend(self.wait(!numbers.is_empty())?);
        for number in numbers {
            if number == LISTENER {
                self.admit(accept);
            } else if let Some(stream) = self.streams.remove(&number) {
                let fate = self.advance(number, stream);
                self.settle(number, fate);
            }
        }
        let now = Instant::now();
        // Those that have come to relay have no deadline here: the host watches them.
        self.streams.retain(|_, stream| match stream {
            Stream::Asked { until, .. } => *until > now,
            Stream::Connecting { host, until, .. } => {
                let waits = *until > now;
                if !waits {
                    tell(host, Forwarded::TimedOut);
                }
                waits
            }
            Stream::Relaying(_) => true,
        });
        Ok(())
    }

    fn wait(&self, is_busy: bool) -> io::Result<Vec<u64>> {
        let has_deadlines = self.streams.values().any(|stream| !matches!(stream, Stream::Relaying(_)));
        let patience = match (is_busy, has_deadlines) {
            (true, _) => Some(Duration::ZERO),
            (false, true) => Some(DEADLINE_LOOK),
            (false, false) => None,
        };
        let patience = patience.and_then(|patience| rustix::event::Timespec::try_from(patience).ok());
        let mut events = Vec::with_capacity(EVENTS_PER_WAIT);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), patience.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(events.iter().map(|event| event.data.u64()).collect()),
            Err(error) => Err(error.into()),
        }
    }

    fn admit(&mut self, accept: &Accept<'_>) {
        loop {
            let host = match accept() {
                Ok(Some(host)) => host,
                Ok(None) => return,
                // Out of descriptors or memory, or a peer that went away: the next event tries again.
                Err(error) => return say(&format!("warning: accept of a forwarded stream: {error}")),
            };
            if self.streams.len() >= MAX_FORWARDS {
                tell(&host, Forwarded::TooMany);
                continue;
            }
            let number = self.next;
            self.next += 1;
            let until = Instant::now() + REQUEST_DEADLINE;
            if rustix::io::ioctl_fionbio(&host, true).is_ok() && self.watch(&host, number).is_ok() {
                // What came before it was watched is an event, too.
                self.streams.insert(number, Stream::Asked { host, port: Vec::new(), until });
            }
        }
    }

    /// Edges only: whoever is told moves what can be moved, so a full buffer keeps nobody awake.
    fn watch(&self, fd: &OwnedFd, number: u64) -> io::Result<()> {
        let edges = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(number), edges)?)
    }

    fn settle(&mut self, number: u64, fate: Fate) {
        match fate {
            Fate::Stays(stream) => drop(self.streams.insert(number, stream)),
            Fate::Continues(stream) => {
                self.streams.insert(number, stream);
                self.again.insert(number);
            }
            Fate::Ends => {}
        }
    }

    fn advance(&self, number: u64, stream: Stream) -> Fate {
        match stream {
            Stream::Asked { host, port, until } => self.hear(number, host, port, until),
            Stream::Connecting { host, guest, port, address, until } => {
                match rustix::net::sockopt::socket_error(&guest) {
                    Ok(Ok(())) if is_connected(&guest) => relay(host, guest),
                    // An event of the host's end, or none at all.
                    Ok(Ok(())) => Fate::Stays(Stream::Connecting { host, guest, port, address, until }),
                    Ok(Err(_)) | Err(_) => self.connect(number, host, port, address + 1, until),
                }
            }
            Stream::Relaying(mut relay) => match relay.turn() {
                Turn::Waits => Fate::Stays(Stream::Relaying(relay)),
                Turn::HasMore => Fate::Continues(Stream::Relaying(relay)),
                Turn::Over => Fate::Ends,
            },
        }
    }

    /// Reads the port, and no more: what follows is the stream's.
    fn hear(&self, number: u64, host: OwnedFd, mut port: Vec<u8>, until: Instant) -> Fate {
        while port.len() < PORT_BYTES {
            let mut bytes = [0; PORT_BYTES];
            let wanted = PORT_BYTES - port.len();
            match rustix::net::recv(&host, &mut bytes[..wanted], RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return Fate::Ends,
                Ok((_, len)) => port.extend_from_slice(&bytes[..len]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Fate::Stays(Stream::Asked { host, port, until }),
                Err(_) => return Fate::Ends,
            }
        }
        let port = u16::from_le_bytes([port[0], port[1]]);
        self.connect(number, host, port, 0, Instant::now() + FORWARD_CONNECT_DEADLINE)
    }

    /// Tries the addresses from `address` on.
    fn connect(&self, number: u64, host: OwnedFd, port: u16, address: usize, until: Instant) -> Fate {
        for (address, ip) in ADDRESSES.iter().enumerate().skip(address) {
            let Ok((guest, is_connected)) = start_connect(SocketAddr::new(*ip, port)) else { continue };
            if self.watch(&guest, number).is_err() {
                continue;
            }
            if is_connected {
                return relay(host, guest);
            }
            return Fate::Stays(Stream::Connecting { host, guest, port, address, until });
        }
        tell(&host, Forwarded::Refused);
        Fate::Ends
    }
}

/// A connection under way, and whether it is there already.
fn start_connect(to: SocketAddr) -> io::Result<(OwnedFd, bool)> {
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    rustix::net::sockopt::set_tcp_nodelay(&socket, true)?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) => Ok((socket, true)),
        Err(Errno::INPROGRESS) => Ok((socket, false)),
        Err(error) => Err(error.into()),
    }
}

fn is_connected(socket: &OwnedFd) -> bool {
    rustix::net::getpeername(socket).is_ok()
}

fn relay(host: OwnedFd, guest: OwnedFd) -> Fate {
    tell(&host, Forwarded::Connected);
    // Whatever either end has sent meanwhile was told before.
    Fate::Continues(Stream::Relaying(Relay::new(host, guest)))
}

/// One byte into an empty buffer; a host that is gone does not want it.
fn tell(host: &OwnedFd, what: Forwarded) {
    let _ = rustix::net::send(host.as_fd(), &[what as u8], SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
}
