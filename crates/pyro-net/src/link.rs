//! The cable to the guest: a descriptor that carries one packet at a time.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send, sockopt};

use crate::limits;

/// What came out of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// So many bytes of a packet.
    Packet(usize),
    /// Nothing now.
    Nothing,
    /// Nothing ever again.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `SOCK_SEQPACKET`.
    Socket,
    /// A TAP device with virtio headers, which tests use: the same packets by read and write.
    Device,
}

/// The stack's end of the link.
pub(crate) struct Link {
    descriptor: OwnedFd,
    kind: Kind,
    /// Packets that found the link full, in order.
    backlog: VecDeque<Vec<u8>>,
    /// The packet that is being made.
    scratch: Vec<u8>,
    lost: u64,
    is_over: bool,
}

impl Link {
    /// Takes `descriptor`, which becomes non-blocking.
    pub(crate) fn new(descriptor: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&descriptor, true)?;
        let kind = match sockopt::socket_type(&descriptor) {
            Ok(_) => Kind::Socket,
            Err(Errno::NOTSOCK) => Kind::Device,
            Err(error) => return Err(error.into()),
        };
        if kind == Kind::Socket {
            // What the host allows of it; less is slower, nothing else.
            let _ = sockopt::set_socket_send_buffer_size(&descriptor, limits::LINK_BUFFER_BYTES);
        }
        let scratch = vec![0; limits::MAX_LINK_BYTES];
        Ok(Self { descriptor, kind, backlog: VecDeque::new(), scratch, lost: 0, is_over: false })
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// Whether a packet sent now goes out at once, as far as is known. Flows wait while it does not.
    pub(crate) fn is_clear(&self) -> bool {
        self.backlog.is_empty()
    }

    /// How many packets were lost because the guest did not take them.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Received> {
        let result = match self.kind {
            Kind::Socket => recv(&self.descriptor, &mut *buffer, RecvFlags::TRUNC).map(|(_, length)| length),
            Kind::Device => rustix::io::read(&self.descriptor, &mut *buffer),
        };
        match result {
            Ok(0) => Ok(Received::End),
            // What is longer than any packet is none; the parser sees nothing.
            Ok(length) if length > buffer.len() => Ok(Received::Packet(0)),
            Ok(length) => Ok(Received::Packet(length)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(Received::Nothing),
            Err(Errno::CONNRESET | Errno::PIPE) => Ok(Received::End),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a packet, or keeps it for later, or loses it when too many wait.
    pub(crate) fn send(&mut self, message: Vec<u8>) {
        if self.backlog.is_empty() && self.try_send(&message) {
            return;
        }
        self.keep(message);
    }

    /// Lets `make` write a packet into a buffer of `length` and sends it.
    pub(crate) fn send_made<R>(&mut self, length: usize, make: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut scratch = std::mem::take(&mut self.scratch);
        let made = make(&mut scratch[..length]);
        if !self.backlog.is_empty() || !self.try_send(&scratch[..length]) {
            self.keep(scratch[..length].to_vec());
        }
        self.scratch = scratch;
        made
    }

    fn keep(&mut self, message: Vec<u8>) {
        if self.is_over || self.backlog.len() >= limits::LINK_BACKLOG {
            self.lost += 1;
        } else {
            self.backlog.push_back(message);
        }
    }

    /// Whether the packet is gone, one way or another.
    fn try_send(&mut self, message: &[u8]) -> bool {
        let result = match self.kind {
            Kind::Socket => send(&self.descriptor, message, SendFlags::NOSIGNAL),
            Kind::Device => rustix::io::write(&self.descriptor, message),
        };
        match result {
            Ok(_) => true,
            Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS) => false,
            Err(_) => {
                // The end itself is seen by the next receive.
                self.is_over = true;
                self.lost += 1;
                true
            }
        }
    }

    /// Sends what waits, as far as the link takes it.
    pub(crate) fn flush(&mut self) {
        while let Some(message) = self.backlog.pop_front() {
            if !self.try_send(&message) {
                self.backlog.push_front(message);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (Link, OwnedFd) {
        let (own, peer) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        (Link::new(own).unwrap(), peer)
    }

    #[test]
    fn packets_that_find_the_link_full_wait_in_order_and_are_bounded() {
        let (mut link, peer) = pair();
        let mut sent = 0u32;
        while link.lost() == 0 {
            let mut message = vec![0; 60_000];
            message[..4].copy_from_slice(&sent.to_ne_bytes());
            link.send(message);
            sent += 1;
        }
        assert_eq!(link.backlog.len(), limits::LINK_BACKLOG);
        let mut buffer = vec![0; limits::MAX_LINK_BYTES];
        for expected in 0..sent - 1 {
            assert_eq!(recv(&peer, &mut buffer[..], RecvFlags::empty()).unwrap().1, 60_000);
            assert_eq!(buffer[..4], expected.to_ne_bytes());
            link.flush();
        }
        assert!(link.is_clear());
    }

    #[test]
    fn the_end_of_the_other_side_is_seen_and_breaks_nothing() {
        let (mut link, peer) = pair();
        drop(peer);
        link.send(vec![1; 100]);
        assert_eq!(link.receive(&mut [0; 10]).unwrap(), Received::End);
    }

    #[test]
    fn a_packet_longer_than_any_is_none() {
        let (mut link, peer) = pair();
        send(&peer, &[1; 100], SendFlags::empty()).unwrap();
        assert_eq!(link.receive(&mut [0; 10]).unwrap(), Received::Packet(0));
        assert_eq!(link.receive(&mut [0; 10]).unwrap(), Received::Nothing);
    }
}
