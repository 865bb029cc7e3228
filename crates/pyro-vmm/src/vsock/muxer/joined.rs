//! A connection joined with its host socket.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::*;

pub(super) struct Joined {
    pub(super) connection: Connection,
    pub(super) socket: OwnedFd,
    /// What the guest sent and the socket has not taken.
    pub(super) buffer: Buffer,
    /// It is in the queue of turns.
    pub(super) has_turn: bool,
    /// When the guest will be asked what it has read.
    pub(super) asks_at: Option<Instant>,
    /// The socket may have bytes, or its end, to receive.
    readable: bool,
    /// The host's stream has ended.
    ended: bool,
    /// The host has closed its end altogether.
    hung_up: bool,
    /// The host receives nothing more; what the guest sends is dropped.
    host_deaf: bool,
    /// The guest's stream has ended, behind what is in the buffer.
    ends_after_buffer: bool,
    /// What the poller listens for; `None` after an event.
    armed: Option<EventFlags>,
}

impl Joined {
    pub(super) fn new(connection: Connection, socket: OwnedFd) -> Self {
        Joined {
            connection,
            socket,
            buffer: Buffer::default(),
            has_turn: false,
            asks_at: None,
            readable: false,
            ended: false,
            hung_up: false,
            host_deaf: false,
            ends_after_buffer: false,
            armed: None,
        }
    }

    /// The guest's bytes go to the host, or are kept for it.
    pub(super) fn deliver(&mut self, payload: &Source<'_>) {
        let mut sent = 0;
        if self.buffer.is_empty() && !self.host_deaf {
            match self.socket.as_fd().send(payload) {
                Ok(len) => sent = len,
                Err(error) => self.check_send_error(&error),
            }
        }
        if self.host_deaf {
            sent = payload.len();
        }
        self.connection.forward(sent);
        if sent < payload.len() {
            self.buffer.push(&payload.part(sent, usize::MAX));
        }
    }

    fn flush(&mut self) {
        if !self.buffer.is_empty() {
            match self.buffer.send_to(self.socket.as_fd()) {
                Ok(sent) => self.connection.forward(sent),
                Err(error) => self.check_send_error(&error),
            }
        }
        if self.ends_after_buffer {
            self.end_after_buffer();
        }
    }

    fn check_send_error(&mut self, error: &io::Error) {
        if error.kind() != io::ErrorKind::WouldBlock && error.kind() != io::ErrorKind::Interrupted {
            self.drop_guests_bytes();
            self.connection.end_by_host(SHUTDOWN_RECEIVE);
        }
    }

    fn drop_guests_bytes(&mut self) {
        self.host_deaf = true;
        self.connection.forward(self.buffer.len());
        self.buffer = Buffer::default();
    }

    /// The guest sends no more.
    pub(super) fn end_after_buffer(&mut self) {
        self.ends_after_buffer = !self.buffer.is_empty();
        if !self.ends_after_buffer {
            // Fails only when the host has gone already.
            let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
        }
    }

    /// The guest receives no more, so the host's writes fail from here on.
    pub(super) fn stop_listening(&mut self) {
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Read);
        self.notice_hang_up();
    }

    /// Something has happened to the socket.
    pub(super) fn take_event(&mut self, flags: EventFlags) {
        self.armed = None;
        let hung_up = flags.intersects(EventFlags::HUP | EventFlags::ERR);
        self.hung_up |= hung_up;
        if hung_up || flags.intersects(EventFlags::IN | EventFlags::RDHUP) {
            self.readable = !self.ended;
        }
        self.flush();
        self.notice_hang_up();
    }

    /// What the host wrote before it closed is still delivered; after that it has gone.
    fn notice_hang_up(&mut self) {
        let open = self.connection.phase() == Phase::Open;
        if self.hung_up && open && !self.connection.can_send() {
            self.host_has_gone();
        }
    }

    fn host_has_gone(&mut self) {
        self.drop_guests_bytes();
        self.connection.end_by_host(SHUTDOWN_BOTH);
    }

    /// Receives from the host into a packet; its length, or `None` if there was nothing or it may not be sent.
    pub(super) fn next_data(&mut self, guest_cid: u64, room: &mut Target<'_>) -> Option<usize> {
        if !self.readable || !self.connection.can_send() {
            return None;
        }
        let most = (self.connection.credit() as usize).min(room.len() - HEADER_BYTES);
        if most == 0 {
            return None;
        }
        match self.socket.as_fd().receive(&mut room.part(HEADER_BYTES, most)) {
            Ok(0) => {
                (self.readable, self.ended) = (false, true);
                if self.hung_up {
                    self.host_has_gone();
                } else {
                    self.connection.end_by_host(SHUTDOWN_SEND);
                }
                None
            }
            Ok(len) => {
                // Less than was asked for: the socket is empty for now.
                self.readable = len == most;
                let header = self.connection.data(guest_cid, len as u32);
                Some(room.copy_from(&header.emit()) + len)
            }
            Err(error) => {
                self.readable = error.kind() == io::ErrorKind::Interrupted;
                if !self.readable && error.kind() != io::ErrorKind::WouldBlock {
                    self.ended = true;
                    self.host_has_gone();
                }
                None
            }
        }
    }

    pub(super) fn wants_turn(&self) -> bool {
        let can_read = self.readable && self.connection.can_send() && self.connection.credit() > 0;
        self.connection.owes() || can_read
    }

    /// Data waits, and only the number of unread packets is in its way.
    pub(super) fn waits_for_reader(&self) -> bool {
        self.readable && self.connection.can_send() && self.connection.is_packet_ceiling_reached()
    }

    /// What to listen for, if that has changed.
    pub(super) fn take_interest(&mut self) -> Option<EventFlags> {
        let mut flags = EventFlags::ONESHOT;
        if !self.readable && !self.ended && self.connection.can_send() {
            flags |= EventFlags::IN | EventFlags::RDHUP;
        }
        if !self.buffer.is_empty() {
            flags |= EventFlags::OUT;
        }
        // A hang-up is always told; once known, or behind unread bytes, it would be told without end.
        let listens_for_more = flags != EventFlags::ONESHOT || !(self.readable || self.hung_up);
        if !listens_for_more || self.armed.is_some_and(|armed| armed.contains(flags)) {
            return None;
        }
        self.armed = Some(flags);
        Some(flags)
    }
}
