//! Joins the guest's connections with host sockets.
//!
//! Nobody waits for anybody: what a host socket does not take is kept, as far as the connection's credit
//! goes; what the guest may not be sent yet stays in the host's socket. Connections that have something
//! for the guest take turns, a packet each.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::epoll::EventFlags;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, socketpair};

use super::connection::{Connection, Effect, Phase};
use super::limits::{
    CONNECT_TIMEOUT, CREDIT_REQUEST_INTERVAL, FIRST_HOST_PORT, HOST_PORTS, MAX_CONNECTIONS,
    MAX_CONNECTS_PER_TURN, MAX_RESETS,
};
use super::packet::{HEADER_BYTES, Header, Operation, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::poller::{Poller, Token};
use super::{HOST_CID, HostSide};
use crate::device::iov::{SocketIo, Source, Target};

mod buffer;
mod joined;

use buffer::Buffer;
use joined::Joined;

/// All connections of one guest.
pub struct Muxer<H> {
    guest_cid: u64,
    host: H,
    poller: Poller,
    connections: HashMap<u64, Joined>,
    /// Connections by the guest's and the host's port.
    by_ports: HashMap<(u32, u32), u64>,
    /// What guests that are done had sent and the host has not read.
    lingering: HashMap<u64, (OwnedFd, Buffer)>,
    /// Connections with something for the guest, each once.
    turns: VecDeque<u64>,
    resets: VecDeque<Header>,
    timers: BTreeSet<(Instant, u64)>,
    /// Connections whose guest has to be asked what it has read, if it does not say so soon.
    stalled: Vec<u64>,
    next_number: u64,
    next_port: u32,
}

impl<H: HostSide> Muxer<H> {
    /// No connection yet.
    pub fn new(guest_cid: u64, host: H) -> io::Result<Self> {
        let poller = Poller::new()?;
        if let Some(fd) = host.as_fd() {
            poller.add(fd, Token::Host, EventFlags::IN)?;
        }
        Ok(Muxer {
            guest_cid,
            host,
            poller,
            connections: HashMap::new(),
            by_ports: HashMap::new(),
            lingering: HashMap::new(),
            turns: VecDeque::new(),
            resets: VecDeque::new(),
            timers: BTreeSet::new(),
            stalled: Vec::new(),
            next_number: 0,
            next_port: 0,
        })
    }

    /// Becomes readable when [`Muxer::poll`] has something to do.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.poller.as_fd()
    }

    /// The guest's address.
    pub fn guest_cid(&self) -> u64 {
        self.guest_cid
    }

    /// Connections that take a place, the ones that only deliver their last bytes included.
    pub fn connection_count(&self) -> usize {
        self.connections.len() + self.lingering.len()
    }

    /// True while the guest has to take refusals before more of its packets are looked at.
    pub fn is_blocked(&self) -> bool {
        self.resets.len() >= MAX_RESETS
    }

    /// True when [`Muxer::next_packet`] may have something.
    pub fn has_pending(&self) -> bool {
        !self.resets.is_empty() || !self.turns.is_empty()
    }

    /// Forgets every connection. What the guest had sent still reaches the host.
    pub fn reset(&mut self) {
        let numbers: Vec<u64> = self.connections.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.close(number));
        self.turns.clear();
        self.resets.clear();
        self.timers.clear();
        self.stalled.clear();
    }

    /// Takes one packet of the guest; `payload` is what followed the header.
    pub fn receive(&mut self, packet: &Header, payload: &Source<'_>, now: Instant) -> io::Result<()> {
        if packet.src_cid != self.guest_cid || packet.dst_cid != HOST_CID {
            // Nobody could be told.
            return Ok(());
        }
        match self.by_ports.get(&(packet.src_port, packet.dst_port)) {
            Some(number) => self.receive_for(*number, packet, payload),
            None if packet.operation == Some(Operation::Request) => self.accept(packet),
            None if packet.operation == Some(Operation::Reset) => {}
            None => self.refuse(packet.src_port, packet.dst_port),
        }
        self.set_deadline(now)
    }

    fn receive_for(&mut self, number: u64, packet: &Header, payload: &Source<'_>) {
        let Some(joined) = self.connections.get_mut(&number) else {
            return;
        };
        let whole = packet.operation != Some(Operation::Data) || payload.len() >= packet.len as usize;
        let effect = if whole { joined.connection.receive(packet).ok() } else { None };
        match effect {
            Some(Effect::None) => {}
            Some(Effect::Data) => joined.deliver(&payload.part(0, packet.len as usize)),
            Some(Effect::EndOfGuest) => joined.end_after_buffer(),
            Some(Effect::GuestDeaf) => joined.stop_listening(),
            Some(Effect::Reset) => return self.close(number),
            Some(Effect::Closed) | None => return self.close_and_reset(number),
        }
        self.refresh(number);
    }

    fn accept(&mut self, request: &Header) {
        let (guest_port, host_port) = (request.src_port, request.dst_port);
        if !self.host.is_open(host_port) || !self.make_place() {
            return self.refuse(guest_port, host_port);
        }
        let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let Ok((ours, theirs)) = pair else {
            return self.refuse(guest_port, host_port);
        };
        let accepted = self.host.accepted(host_port, theirs).is_ok();
        if !accepted || self.insert(Connection::from_guest(request), ours).is_none() {
            self.refuse(guest_port, host_port);
        }
    }

    /// Serves what has happened on the host's side, without waiting.
    pub fn poll(&mut self, now: Instant) -> io::Result<()> {
        for (token, flags) in self.poller.events()? {
            match token {
                Token::Host => self.take_connects(now),
                Token::Timer => self.poller.clear_timer(),
                Token::Connection(number) if self.lingering.contains_key(&number) => self.linger(number),
                Token::Connection(number) => {
                    if let Some(joined) = self.connections.get_mut(&number) {
                        joined.take_event(flags);
                        self.refresh(number);
                    }
                }
            }
        }
        self.expire(now);
        self.set_deadline(now)
    }

    fn take_connects(&mut self, now: Instant) {
        for _ in 0..MAX_CONNECTS_PER_TURN {
            match self.host.next_connect() {
                Ok(Some((port, stream))) => self.connect(port, stream, now),
                Ok(None) => return,
                Err(_) => {
                    // The host has gone; its descriptor would be readable for ever.
                    if let Some(fd) = self.host.as_fd() {
                        self.poller.remove(fd);
                    }
                    return;
                }
            }
        }
    }

    /// Asks the guest for a connection. Refusing it means dropping the stream.
    fn connect(&mut self, guest_port: u32, stream: OwnedFd, now: Instant) {
        if !self.make_place() {
            return;
        }
        // There are far more ports than connections, so this ends soon.
        let host_port = loop {
            let port = FIRST_HOST_PORT + self.next_port % HOST_PORTS;
            self.next_port = self.next_port.wrapping_add(1);
            if !self.by_ports.contains_key(&(guest_port, port)) {
                break port;
            }
        };
        if let Some(number) = self.insert(Connection::to_guest(guest_port, host_port), stream) {
            self.timers.insert((now + CONNECT_TIMEOUT, number));
        }
    }

    /// Makes sure that there is a place for one more connection.
    fn make_place(&mut self) -> bool {
        if self.connection_count() < MAX_CONNECTIONS {
            return true;
        }
        // One whose host has gone only waits for the guest to read the rest; the oldest has to give way.
        let closing = |(_, joined): &(&u64, &Joined)| joined.connection.phase() == Phase::Closing;
        let oldest = self.connections.iter().filter(closing).map(|(number, _)| *number).min();
        oldest.map(|number| self.close_and_reset(number)).is_some()
    }

    fn insert(&mut self, connection: Connection, socket: OwnedFd) -> Option<u64> {
        let number = self.next_number;
        let ports = (connection.guest_port, connection.host_port);
        let token = Token::Connection(number);
        self.poller.add(socket.as_fd(), token, EventFlags::ONESHOT).ok()?;
        self.next_number += 1;
        self.by_ports.insert(ports, number);
        self.connections.insert(number, Joined::new(connection, socket));
        self.refresh(number);
        Some(number)
    }

    /// The next packet for the guest, written into `room`: its length, or `None` when there is nothing.
    /// A room that does not even hold a header takes a packet of 0 bytes, so that the guest gets it back.
    pub fn next_packet(&mut self, room: &mut Target<'_>, now: Instant) -> io::Result<Option<usize>> {
        // A connection without anything to send loses its turn, so this ends.
        let packet = loop {
            if !self.has_pending() {
                break None;
            }
            if room.len() <= HEADER_BYTES {
                break Some(0);
            }
            if let Some(reset) = self.resets.pop_front() {
                break Some(room.copy_from(&reset.emit()));
            }
            let Some(number) = self.turns.pop_front() else {
                break None;
            };
            if let Some(len) = self.take_turn(number, room) {
                break Some(len);
            }
        };
        self.set_deadline(now)?;
        Ok(packet)
    }

    /// Writes the connection's next packet into `room`, if it has one.
    fn take_turn(&mut self, number: u64, room: &mut Target<'_>) -> Option<usize> {
        let joined = self.connections.get_mut(&number)?;
        joined.has_turn = false;
        let packet = match joined.connection.next_control(self.guest_cid) {
            Some(header) => Some(room.copy_from(&header.emit())),
            None => joined.next_data(self.guest_cid, room),
        };
        self.refresh(number);
        packet
    }

    fn expire(&mut self, now: Instant) {
        while let Some((at, number)) = self.timers.first().copied() {
            if at > now {
                return;
            }
            self.timers.pop_first();
            let Some(joined) = self.connections.get_mut(&number) else {
                continue;
            };
            if joined.connection.phase() == Phase::Connecting {
                self.close_and_reset(number);
                continue;
            }
            if joined.asks_at == Some(at) {
                joined.asks_at = None;
                if joined.waits_for_reader() {
                    joined.connection.request_credit();
                }
                self.refresh(number);
            }
        }
    }

    /// Gives a connection a turn if it has something for the guest, and listens for what it waits for.
    fn refresh(&mut self, number: u64) {
        let Some(joined) = self.connections.get_mut(&number) else {
            return;
        };
        if joined.wants_turn() && !joined.has_turn {
            joined.has_turn = true;
            self.turns.push_back(number);
        }
        if joined.waits_for_reader() && joined.asks_at.is_none() {
            self.stalled.push(number);
        }
        if let Some(flags) = joined.take_interest() {
            // The socket is registered, so this does not fail.
            let _ = self.poller.modify(joined.socket.as_fd(), Token::Connection(number), flags);
        }
    }

    fn refuse(&mut self, guest_port: u32, host_port: u32) {
        self.resets.push_back(Header {
            src_cid: HOST_CID,
            dst_cid: self.guest_cid,
            src_port: host_port,
            dst_port: guest_port,
            len: 0,
            operation: Some(Operation::Reset),
            flags: 0,
            buf_alloc: 0,
            fwd_cnt: 0,
        });
    }

    fn close_and_reset(&mut self, number: u64) {
        let joined = self.connections.get(&number);
        // Nobody has to be told that what was never asked for ends; a guest that takes nothing would let such
        // refusals pile up.
        if let Some(joined) = joined.filter(|joined| !joined.connection.is_unknown_to_guest()) {
            self.refuse(joined.connection.guest_port, joined.connection.host_port);
        }
        self.close(number);
    }

    /// Ends a connection; what the guest had sent still reaches the host.
    fn close(&mut self, number: u64) {
        let Some(joined) = self.connections.remove(&number) else {
            return;
        };
        self.by_ports.remove(&(joined.connection.guest_port, joined.connection.host_port));
        if joined.buffer.is_empty() {
            self.poller.remove(joined.socket.as_fd());
            return;
        }
        let token = Token::Connection(number);
        if self.poller.modify(joined.socket.as_fd(), token, EventFlags::OUT).is_ok() {
            self.lingering.insert(number, (joined.socket, joined.buffer));
        }
    }

    fn linger(&mut self, number: u64) {
        let Some((socket, buffer)) = self.lingering.get_mut(&number) else {
            return;
        };
        let done = match buffer.send_to(socket.as_fd()) {
            Ok(_) => buffer.is_empty(),
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        };
        if done {
            self.poller.remove(socket.as_fd());
            self.lingering.remove(&number);
        }
    }

    fn set_deadline(&mut self, now: Instant) -> io::Result<()> {
        for number in std::mem::take(&mut self.stalled) {
            if let Some(joined) = self.connections.get_mut(&number).filter(|joined| joined.asks_at.is_none())
            {
                let at = now + CREDIT_REQUEST_INTERVAL;
                joined.asks_at = Some(at);
                self.timers.insert((at, number));
            }
        }
        let first = self.timers.first().map(|(at, _)| *at);
        self.poller.set_deadline(first, now)
    }
}
