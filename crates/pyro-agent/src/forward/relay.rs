//! Bytes both ways between two sockets, each way until its sender ends it.

use std::os::fd::OwnedFd;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use crate::limits::{FORWARD_BUFFER_BYTES, FORWARD_TURN_BYTES};

/// Two connected sockets, neither of which blocks.
pub(super) struct Relay {
    host: OwnedFd,
    guest: OwnedFd,
    inward: Way,
    outward: Way,
}

/// How it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Until one of the sockets is ready again.
    Waits,
    /// At once: others get their turn first.
    HasMore,
    /// Both ways have ended, or one end is gone.
    Over,
}

/// One direction. Bytes are read when there are none that wait.
#[derive(Default)]
struct Way {
    bytes: Vec<u8>,
    sent: usize,
    phase: Phase,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Open,
    /// The sender has ended it; what waits is still to be passed on.
    Ending,
    /// The receiver knows of the end.
    Shut,
}

impl Relay {
    pub(super) fn new(host: OwnedFd, guest: OwnedFd) -> Self {
        Self { host, guest, inward: Way::default(), outward: Way::default() }
    }

    /// Moves what can be moved.
    pub(super) fn turn(&mut self) -> Turn {
        let inward = self.inward.move_bytes(&self.host, &self.guest);
        let outward = self.outward.move_bytes(&self.guest, &self.host);
        match (inward, outward) {
            (Err(_), _) | (_, Err(_)) => Turn::Over,
            _ if self.inward.phase == Phase::Shut && self.outward.phase == Phase::Shut => Turn::Over,
            (Ok(false), Ok(false)) => Turn::Waits,
            (Ok(_), Ok(_)) => Turn::HasMore,
        }
    }
}

impl Way {
    /// Tells whether it stopped at its share although there was more.
    fn move_bytes(&mut self, from: &OwnedFd, to: &OwnedFd) -> rustix::io::Result<bool> {
        let mut moved = 0;
        loop {
            if self.sent < self.bytes.len() {
                let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
                match rustix::net::send(to, &self.bytes[self.sent..], flags) {
                    Ok(len) => {
                        self.sent += len;
                        moved += len;
                    }
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => return Ok(false),
                    // Nobody reads this way any more; what comes the other way is still wanted.
                    Err(_) => {
                        (self.bytes, self.sent, self.phase) = (Vec::new(), 0, Phase::Shut);
                        return Ok(false);
                    }
                }
                continue;
            }
            match self.phase {
                Phase::Shut => return Ok(false),
                Phase::Ending => {
                    // Fails for a socket that is gone, whose other way tells so.
                    let _ = rustix::net::shutdown(to, Shutdown::Write);
                    self.phase = Phase::Shut;
                    return Ok(false);
                }
                Phase::Open if moved >= FORWARD_TURN_BYTES => return Ok(true),
                Phase::Open => {}
            }
            if !self.read(from)? {
                return Ok(false);
            }
        }
    }

    /// Reads what there is; `false` when there is nothing now. A way without bytes keeps no buffer.
    fn read(&mut self, from: &OwnedFd) -> rustix::io::Result<bool> {
        self.sent = 0;
        self.bytes.clear();
        self.bytes.reserve(FORWARD_BUFFER_BYTES);
        let received = rustix::net::recv(from, spare_capacity(&mut self.bytes), RecvFlags::DONTWAIT);
        match received {
            Ok((_, 0)) => self.phase = Phase::Ending,
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => return Ok(true),
            Err(Errno::AGAIN) => {
                self.bytes = Vec::new();
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        self.bytes = Vec::new();
        Ok(true)
    }
}
