//! One TCP connection: the guest's end in user space, the server's end a descriptor.
//!
//! Bytes go from one kernel buffer through one ring to the other side. A side that does not take them leaves them in
//! the ring, the ring's window closes, and the other side stops: there is no other buffer to grow.

mod sys;
mod upstream;

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use smoltcp::iface::{Config, Interface, PollResult};
use smoltcp::socket::tcp::{self, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpCidr};

use super::FlowKey;
use super::device::{FlowDevice, Urgency};
use crate::event::{End, FlowState};
use crate::limits;
use crate::link::Link;
use crate::opening::{self, Expected, Opening, Requests};
use crate::policy::Name;
use crate::poller::Ready;
use sys::Sockets;
use upstream::Socket;
pub(super) use upstream::{Moved, end_of};
pub(super) use upstream::{NameStream, Upstream};

/// What a connection waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The addresses of its name.
    Resolving,
    /// The server's answer, at one of these addresses; the guest's SYN stays unanswered meanwhile.
    Dialling { others: VecDeque<std::net::SocketAddr>, since: Duration },
    /// The proxy's answer to a request of which so many bytes were sent; the SYN stays unanswered still.
    Tunnelling { sent: usize, since: Duration },
    /// The guest's answer to our SYN-ACK.
    Handshake { since: Duration },
    /// Nothing but bytes.
    Open,
}

/// What one turn of a connection came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pumped {
    /// There is more to do at once.
    Again,
    /// There is more to do once the link takes it.
    Blocked,
    /// There is nothing to do before something changes, or this time comes.
    Until(Option<Duration>),
    /// It is over.
    Over(End),
}

pub(super) struct Connection {
    interface: Interface,
    sockets: Sockets,
    /// What the guest takes at once.
    segment_bytes: u16,
    pub(super) phase: Phase,
    pub(super) upstream: Upstream,
    /// Nothing passes to the server before the first bytes agree with this.
    opening: Option<Name>,
    /// Each request must agree with its name.
    requests: Option<Requests>,
    is_reset_by_guest: bool,
    ring_bytes: usize,
    /// Bytes that were ever put into the rings, from the guest and for it: more pages than these were never touched.
    put: [usize; 2],
    /// Since when the guest owes an answer, if it does. The TCP stack's own time limit ends idle connections too.
    unanswered_since: Option<Duration>,
}

/// Segments without an option for it are of this size (RFC 9293, 3.7.1).
const DEFAULT_SEGMENT_BYTES: u16 = 536;

impl Connection {
    /// The connection that the guest's SYN asks for, not answered yet.
    pub(super) fn new(
        key: &FlowKey,
        segment_bytes: Option<u16>,
        buffer_bytes: usize,
        seed: u64,
        link: &mut Link,
        now: Duration,
    ) -> io::Result<Self> {
        let segment_bytes = segment_bytes.unwrap_or(DEFAULT_SEGMENT_BYTES);
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut device = FlowDevice { link, inbound: None, segment_bytes, urgency: Urgency::Patient };
        let mut interface = Interface::new(config, &mut device, instant(now));
        let own = key.destination.ip().into();
        interface.update_ip_addrs(|addresses| {
            // The list has room: it is empty.
            let _ = addresses.push(IpCidr::new(own, if key.destination.is_ipv4() { 32 } else { 128 }));
        });
        let mut sockets = Sockets::new(buffer_bytes)?;
        let socket = sockets.socket();
        socket.set_ack_delay(None);
        socket.set_nagle_enabled(false);
        socket.pause_synack(true);
        // Fails only for port 0, which is asked for by nobody who wants an answer.
        let _ = socket.listen((own, key.destination.port()));
        Ok(Self {
            interface,
            sockets,
            segment_bytes,
            phase: Phase::Resolving,
            upstream: Upstream::None,
            opening: None,
            requests: None,
            is_reset_by_guest: false,
            ring_bytes: buffer_bytes,
            put: [0; 2],
            unanswered_since: None,
        })
    }

    /// Whether the guest or the server has yet to answer.
    pub(super) fn is_half_open(&self) -> bool {
        self.phase != Phase::Open
    }

    pub(super) fn state(&self) -> FlowState {
        match self.phase {
            Phase::Resolving => FlowState::Resolving,
            Phase::Dialling { .. } | Phase::Tunnelling { .. } | Phase::Handshake { .. } => {
                FlowState::Connecting
            }
            Phase::Open => FlowState::Open,
        }
    }

    /// How much memory its rings may have taken.
    pub(super) fn touched_bytes(&self) -> usize {
        self.put[0] + self.put[1]
    }

    fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.socket()
    }

    /// Takes a packet of the guest's.
    pub(super) fn feed(&mut self, packet: &[u8], is_reset: bool, link: &mut Link, now: Duration) {
        let was_open = self.socket().is_open();
        // Whatever of it is data: what comes out of order is put into the ring too.
        self.put[0] = (self.put[0] + packet.len()).min(self.ring_bytes);
        self.unanswered_since = None;
        let segment_bytes = self.segment_bytes;
        let mut device = FlowDevice { link, inbound: Some(packet), segment_bytes, urgency: Urgency::Patient };
        self.interface.poll_ingress_single(instant(now), &mut device, self.sockets.set());
        let state = self.socket().state();
        // A reset before the handshake's end sends a socket back to listening; outside the window it does nothing.
        self.is_reset_by_guest |= is_reset && was_open && matches!(state, State::Closed | State::Listen);
    }

    /// Takes note of a change of the server's end.
    pub(super) fn note_ready(&mut self, ready: Ready) {
        if let Upstream::Socket(socket) = &mut self.upstream {
            socket.note_ready(ready);
        }
    }

    /// The descriptor that is being dialled.
    pub(super) fn set_socket(&mut self, descriptor: OwnedFd) {
        self.upstream = Upstream::Socket(Socket::new(descriptor));
    }

    /// What the guest sends must be for this name.
    pub(super) fn expect(&mut self, expected: Option<(Expected, Name)>) {
        match expected {
            Some((Expected::Tls, name)) => self.opening = Some(name),
            Some((Expected::Http, name)) => self.requests = Some(Requests::new(name)),
            None => {}
        }
    }

    /// Answers the guest's SYN: the server has answered, or is the gateway itself.
    pub(super) fn accept(&mut self, now: Duration) {
        self.phase = Phase::Handshake { since: now };
        self.socket().pause_synack(false);
    }

    /// Breaks off towards both sides, at once.
    pub(super) fn abort(&mut self, link: &mut Link, now: Duration) {
        if let Upstream::Socket(socket) = &self.upstream {
            socket.break_off();
        }
        if self.socket().state() == State::Closed {
            return;
        }
        self.socket().abort();
        self.transmit(link, now, Urgency::Last);
    }

    /// Moves bytes both ways, as far as both sides and `budget` let it.
    pub(super) fn pump(&mut self, link: &mut Link, now: Duration, moved: &mut Moved) -> Pumped {
        if self.is_reset_by_guest {
            if let Upstream::Socket(socket) = &self.upstream {
                socket.break_off();
            }
            return Pumped::Over(End::ResetByGuest);
        }
        match &self.phase {
            Phase::Resolving => return Pumped::Until(None),
            Phase::Dialling { since, .. } => return Pumped::Until(Some(*since + limits::DIAL)),
            Phase::Tunnelling { since, .. } => return Pumped::Until(Some(*since + limits::PROXY)),
            Phase::Handshake { .. } | Phase::Open => {}
        }
        if let Phase::Handshake { since } = self.phase {
            if !matches!(self.socket().state(), State::SynReceived | State::Listen) {
                self.phase = Phase::Open;
            } else if now >= since + limits::HANDSHAKE {
                self.abort(link, now);
                return Pumped::Over(End::TimedOut);
            }
        }
        loop {
            let before = *moved;
            let step = self.take_from_guest(moved).and_then(|()| self.give_to_guest(moved));
            if let Err(end) = step {
                self.abort(link, now);
                return Pumped::Over(end);
            }
            // Nothing of a connection that the guest's end is through with may be timed out while it drains.
            if !self.is_draining() {
                self.transmit(link, now, Urgency::Patient);
            }
            if let Some(end) = self.end(link, now) {
                return Pumped::Over(end);
            }
            if before == *moved {
                break;
            }
            if moved.is_enough() {
                return Pumped::Again;
            }
        }
        if self.is_given_up(now) {
            self.abort(link, now);
            return Pumped::Over(End::TimedOut);
        }
        self.next_step(link, now)
    }

    fn next_step(&mut self, link: &Link, now: Duration) -> Pumped {
        if self.is_draining() {
            return Pumped::Until(None);
        }
        let due = self
            .interface
            .poll_at(instant(now), self.sockets.as_set())
            .map(|at| Duration::from_micros(u64::try_from(at.total_micros()).unwrap_or(0)));
        let due = match due {
            Some(due) if due <= now && !link.is_clear() => return Pumped::Blocked,
            // What is due and was not done just now will not be done by trying at once.
            Some(due) if due <= now => Some(now + Duration::from_millis(1)),
            due => due,
        };
        let limits = [
            due,
            self.unanswered_since.map(|since| since + limits::TCP_UNACKNOWLEDGED),
            match self.phase {
                Phase::Handshake { since } => Some(since + limits::HANDSHAKE),
                Phase::Resolving | Phase::Dialling { .. } | Phase::Tunnelling { .. } | Phase::Open => None,
            },
        ];
        Pumped::Until(limits.into_iter().flatten().min())
    }

    /// Whether the guest has not answered for too long what was sent to it.
    fn is_given_up(&mut self, now: Duration) -> bool {
        let socket = self.socket();
        let is_owed = match socket.state() {
            State::FinWait1 | State::Closing | State::LastAck => true,
            State::Established | State::CloseWait | State::FinWait2 => socket.send_queue() > 0,
            State::Closed | State::Listen | State::SynSent | State::SynReceived | State::TimeWait => false,
        };
        if !is_owed {
            self.unanswered_since = None;
            return false;
        }
        now >= *self.unanswered_since.get_or_insert(now) + limits::TCP_UNACKNOWLEDGED
    }

    /// Whether the guest's end is closed and only its last bytes are left to be delivered.
    fn is_draining(&mut self) -> bool {
        let socket = self.socket();
        matches!(socket.state(), State::Closed | State::TimeWait) && socket.recv_queue() > 0
    }

    fn end(&mut self, link: &mut Link, now: Duration) -> Option<End> {
        let (is_ended, is_shut) = match &self.upstream {
            Upstream::Socket(socket) => (socket.is_ended, socket.is_shut),
            Upstream::Names(stream) => (stream.is_over(), true),
            Upstream::None => (false, false),
        };
        match self.socket().state() {
            State::TimeWait | State::Closed if is_ended && is_shut => Some(End::Finished),
            State::Closed if self.socket().recv_queue() == 0 => {
                // The TCP stack gave up on the guest; its reset is still to be sent.
                self.transmit(link, now, Urgency::Last);
                if let Upstream::Socket(socket) = &self.upstream {
                    socket.break_off();
                }
                Some(End::TimedOut)
            }
            State::Closed
            | State::TimeWait
            | State::Listen
            | State::SynSent
            | State::SynReceived
            | State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::Closing
            | State::LastAck => None,
        }
    }

    /// Sends what the guest's end has to say, while the link takes it.
    fn transmit(&mut self, link: &mut Link, now: Duration, urgency: Urgency) {
        let mut device = FlowDevice { link, inbound: None, segment_bytes: self.segment_bytes, urgency };
        while self.interface.poll_egress(instant(now), &mut device, self.sockets.set())
            == PollResult::SocketStateChanged
        {
            if urgency == Urgency::Last {
                break;
            }
        }
    }

    /// Passes on what the guest sent, then that it will send no more.
    fn take_from_guest(&mut self, moved: &mut Moved) -> Result<(), End> {
        while self.socket().can_recv() && self.upstream.takes() && !moved.is_enough() {
            let room = self.checked_bytes()?;
            if room == 0 {
                break;
            }
            let taken = self.sockets.socket().recv(|bytes| {
                let most = moved.room_for(bytes.len()).min(room);
                let result = self.upstream.write(&bytes[..most]);
                (*result.as_ref().unwrap_or(&0), result)
            });
            match taken {
                Ok(Ok(0)) | Err(_) => break,
                Ok(Ok(count)) => {
                    moved.from_guest += count;
                    if let Some(requests) = &mut self.requests {
                        requests.passed(count);
                    }
                }
                Ok(Err(end)) => return Err(end),
            }
        }
        if self.is_through() {
            if self.socket().recv_queue() == 0 {
                self.upstream.shut();
            } else if self.upstream.takes()
                && self.checked_bytes()? == 0
                && !self.requests.as_ref().is_some_and(Requests::awaits_answer)
            {
                // Nothing that would make it clear comes any more.
                return Err(End::OtherName);
            }
        }
        Ok(())
    }

    /// Whether the guest will send no more.
    fn is_through(&mut self) -> bool {
        match self.socket().state() {
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait | State::Closed => true,
            State::Listen
            | State::SynSent
            | State::SynReceived
            | State::Established
            | State::FinWait1
            | State::FinWait2 => false,
        }
    }

    /// How many of the bytes that wait may pass, as far as it depends on whom they are for.
    fn checked_bytes(&mut self) -> Result<usize, End> {
        if self.opening.is_none() && self.requests.is_none() {
            return Ok(usize::MAX);
        }
        // Within a body nothing need be read.
        if let (None, Some(requests)) = (&self.opening, &mut self.requests)
            && let Ok(room @ 1..) = requests.room(&[])
        {
            return Ok(room);
        }
        let socket = self.sockets.socket();
        let mut bytes = vec![0; socket.recv_queue().min(limits::MAX_OPENING_BYTES)];
        let count = socket.peek_slice(&mut bytes).unwrap_or(0);
        if let Some(name) = &self.opening {
            match opening::inspect(Expected::Tls, &bytes[..count]) {
                Opening::For(found) if found == *name => self.opening = None,
                Opening::Unfinished => return Ok(0),
                Opening::For(_) | Opening::Other => return Err(End::OtherName),
            }
        }
        match &mut self.requests {
            Some(requests) => requests.room(&bytes[..count]).map_err(|_| End::OtherName),
            None => Ok(usize::MAX),
        }
    }

    /// Passes on what the server sent, then that it will send no more.
    fn give_to_guest(&mut self, moved: &mut Moved) -> Result<(), End> {
        let socket = self.sockets.socket();
        while socket.can_send() && self.upstream.has_more() && !moved.is_enough() {
            let given = socket.send(|ring| {
                let room = moved.room_for(ring.len());
                let result = self.upstream.read(&mut ring[..room]);
                if let (Some(requests), Ok(count)) = (&mut self.requests, &result) {
                    requests.answered(&ring[..*count]);
                }
                (*result.as_ref().unwrap_or(&0), result)
            });
            match given {
                Ok(Ok(0)) | Err(_) => break,
                Ok(Ok(count)) => {
                    moved.to_guest += count;
                    self.put[1] = (self.put[1] + count).min(self.ring_bytes);
                }
                Ok(Err(end)) => return Err(end),
            }
        }
        if self.upstream.is_ended() && matches!(socket.state(), State::Established | State::CloseWait) {
            socket.close();
        }
        Ok(())
    }
}

fn instant(at: Duration) -> Instant {
    Instant::from_micros(i64::try_from(at.as_micros()).unwrap_or(i64::MAX))
}
