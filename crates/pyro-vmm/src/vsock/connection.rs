//! One connection: flow control both ways, the directions' ends, and what is owed to the guest. No I/O.

use std::collections::VecDeque;
use std::num::Wrapping;

use super::limits::{
    BUFFER_BYTES, CREDIT_UPDATE_BYTES, MAX_PACKETS_UNREAD, MAX_PAYLOAD_BYTES, PACKET_OVERHEAD_BYTES,
};
use super::packet::{Header, Operation, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};

#[cfg(test)]
mod tests;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The guest has not answered.
    Connecting,
    /// Data flows.
    Open,
    /// The host has gone; the guest has been told and answers with a reset when it has read everything.
    Closing,
}

/// A packet breaks the rules of its connection, which is reset.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Violation;

/// What the guest's packet means for the host's socket.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    /// The payload goes to the host.
    Data,
    /// The guest sends no more: the host reads an end once it has read what was sent.
    EndOfGuest,
    /// The guest receives no more: the host need not send.
    GuestDeaf,
    /// Both: the connection ends.
    Closed,
    /// The connection ends without an answer to the guest.
    Reset,
}

/// Control packets that are owed to the guest.
#[derive(Clone, Copy, Debug, Default)]
struct Owed {
    request: bool,
    response: bool,
    credit_update: bool,
    credit_request: bool,
    /// Flags of a shutdown, 0 for none.
    shutdown: u32,
}

pub(super) struct Connection {
    pub(super) guest_port: u32,
    pub(super) host_port: u32,
    phase: Phase,
    owed: Owed,
    /// Directions whose end the guest has been told, as shutdown flags.
    told: u32,
    /// Directions that the guest has ended, as shutdown flags.
    ended_by_guest: u32,

    /// Bytes received from the guest, and of those taken by the host.
    received: Wrapping<u32>,
    forwarded: Wrapping<u32>,
    /// What the guest was last told as forwarded.
    forwarded_told: Wrapping<u32>,

    /// Bytes sent to the guest, and of those read by its application.
    sent: Wrapping<u32>,
    guest_forwarded: Wrapping<u32>,
    guest_buffer: u32,
    /// The value of `sent` after each packet that is not known to be read.
    unread: VecDeque<Wrapping<u32>>,
}

impl Connection {
    /// The host wants it.
    pub(super) fn to_guest(guest_port: u32, host_port: u32) -> Self {
        Self::new(guest_port, host_port, Phase::Connecting, Owed { request: true, ..Owed::default() })
    }

    /// The guest wants it and gets it.
    pub(super) fn from_guest(request: &Header) -> Self {
        let owed = Owed { response: true, ..Owed::default() };
        let mut connection = Self::new(request.src_port, request.dst_port, Phase::Open, owed);
        connection.take_credit(request);
        connection
    }

    fn new(guest_port: u32, host_port: u32, phase: Phase, owed: Owed) -> Self {
        let zero = Wrapping(0);
        Connection {
            guest_port,
            host_port,
            phase,
            owed,
            told: 0,
            ended_by_guest: 0,
            received: zero,
            forwarded: zero,
            forwarded_told: zero,
            sent: zero,
            guest_forwarded: zero,
            guest_buffer: 0,
            unread: VecDeque::new(),
        }
    }

    /// The guest has not even been asked.
    pub(super) fn is_unknown_to_guest(&self) -> bool {
        self.owed.request
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// Takes a packet of the guest for this connection.
    pub(super) fn receive(&mut self, packet: &Header) -> Result<Effect, Violation> {
        let operation = packet.operation.ok_or(Violation)?;
        self.take_credit(packet);
        match (operation, self.phase) {
            (Operation::Reset, _) => Ok(Effect::Reset),
            (Operation::Request, _) => Err(Violation),
            (Operation::Response, Phase::Connecting) => {
                self.phase = Phase::Open;
                Ok(Effect::None)
            }
            (_, Phase::Connecting) | (Operation::Response, Phase::Open | Phase::Closing) => Err(Violation),
            (Operation::Data, Phase::Open | Phase::Closing) => self.receive_data(packet.len),
            (Operation::Shutdown, Phase::Open | Phase::Closing) => {
                self.ended_by_guest |= packet.flags & SHUTDOWN_BOTH;
                Ok(match self.ended_by_guest {
                    SHUTDOWN_BOTH => Effect::Closed,
                    SHUTDOWN_SEND => Effect::EndOfGuest,
                    SHUTDOWN_RECEIVE => Effect::GuestDeaf,
                    _ => Effect::None,
                })
            }
            (Operation::CreditUpdate, Phase::Open | Phase::Closing) => Ok(Effect::None),
            (Operation::CreditRequest, Phase::Open | Phase::Closing) => {
                self.owed.credit_update = true;
                Ok(Effect::None)
            }
        }
    }

    fn receive_data(&mut self, len: u32) -> Result<Effect, Violation> {
        let room = BUFFER_BYTES - (self.received - self.forwarded).0;
        if self.ended_by_guest & SHUTDOWN_SEND != 0 || len > room || len > MAX_PAYLOAD_BYTES {
            return Err(Violation);
        }
        self.received += len;
        Ok(if len == 0 { Effect::None } else { Effect::Data })
    }

    fn take_credit(&mut self, packet: &Header) {
        self.guest_buffer = packet.buf_alloc;
        let forwarded = Wrapping(packet.fwd_cnt);
        // A guest that has read more than it was sent lies; its claim is not taken.
        if (self.sent - forwarded).0 > (self.sent - self.guest_forwarded).0 {
            return;
        }
        self.guest_forwarded = forwarded;
        let in_flight = (self.sent - forwarded).0;
        while self.unread.front().is_some_and(|end| (self.sent - *end).0 >= in_flight) {
            self.unread.pop_front();
        }
    }

    /// The host has taken `len` bytes of what the guest sent.
    pub(super) fn forward(&mut self, len: usize) {
        self.forwarded += len as u32;
        let known_room = BUFFER_BYTES - (self.received - self.forwarded_told).0;
        if known_room < CREDIT_UPDATE_BYTES {
            self.owed.credit_update = true;
        }
    }

    /// Bytes that the next packet to the guest may carry; 0 when it has to read first.
    pub(super) fn credit(&self) -> u32 {
        if self.phase != Phase::Open || self.is_packet_ceiling_reached() {
            return 0;
        }
        let room = self.guest_buffer.saturating_sub((self.sent - self.guest_forwarded).0);
        room.min(MAX_PAYLOAD_BYTES)
    }

    /// The guest could not hold another packet, however small.
    pub(super) fn is_packet_ceiling_reached(&self) -> bool {
        let ceiling = (self.guest_buffer / PACKET_OVERHEAD_BYTES) as usize;
        // One packet at least is always possible, else nothing would ever flow.
        self.unread.len() >= ceiling.clamp(1, MAX_PACKETS_UNREAD)
    }

    /// Asks the guest what it has read.
    pub(super) fn request_credit(&mut self) {
        self.owed.credit_request = true;
    }

    /// The host has ended directions, as shutdown flags seen from the host.
    pub(super) fn end_by_host(&mut self, flags: u32) {
        self.owed.shutdown |= flags & !self.told;
        if (self.told | self.owed.shutdown) == SHUTDOWN_BOTH && self.phase == Phase::Open {
            self.phase = Phase::Closing;
        }
    }

    /// Whether the guest still wants what the host sends, and has not been told its end.
    pub(super) fn can_send(&self) -> bool {
        let ended = self.told | self.owed.shutdown;
        self.phase == Phase::Open && self.ended_by_guest & SHUTDOWN_RECEIVE == 0 && ended & SHUTDOWN_SEND == 0
    }

    pub(super) fn owes(&self) -> bool {
        let owed = &self.owed;
        owed.request || owed.response || owed.credit_update || owed.credit_request || owed.shutdown != 0
    }

    /// The next control packet that is owed to the guest.
    pub(super) fn next_control(&mut self, guest_cid: u64) -> Option<Header> {
        let mut flags = 0;
        let operation = if std::mem::take(&mut self.owed.request) {
            Operation::Request
        } else if std::mem::take(&mut self.owed.response) {
            Operation::Response
        } else if std::mem::take(&mut self.owed.credit_update) {
            Operation::CreditUpdate
        } else if std::mem::take(&mut self.owed.credit_request) {
            Operation::CreditRequest
        } else if self.owed.shutdown != 0 {
            flags = std::mem::take(&mut self.owed.shutdown);
            self.told |= flags;
            Operation::Shutdown
        } else {
            return None;
        };
        Some(self.header(guest_cid, operation, flags, 0))
    }

    /// The header of a data packet of `len` bytes, which counts as sent.
    pub(super) fn data(&mut self, guest_cid: u64, len: u32) -> Header {
        self.sent += len;
        self.unread.push_back(self.sent);
        self.header(guest_cid, Operation::Data, 0, len)
    }

    fn header(&mut self, guest_cid: u64, operation: Operation, flags: u32, len: u32) -> Header {
        self.forwarded_told = self.forwarded;
        self.owed.credit_update = false;
        Header {
            src_cid: super::HOST_CID,
            dst_cid: guest_cid,
            src_port: self.host_port,
            dst_port: self.guest_port,
            len,
            operation: Some(operation),
            flags,
            buf_alloc: BUFFER_BYTES,
            fwd_cnt: self.forwarded.0,
        }
    }
}
