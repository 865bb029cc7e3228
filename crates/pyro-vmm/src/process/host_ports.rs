//! The guest's streams as the host hands them in and takes them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::protocol::channel::{self, Message, Received};
use crate::vsock::HostSide;

/// The host channel's end in the jailed process.
pub(super) struct HostPorts {
    pub(super) channel: OwnedFd,
    /// Ports of the host that the guest may connect to.
    pub(super) open: Vec<u32>,
}

impl HostSide for HostPorts {
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.channel.as_fd())
    }

    fn next_connect(&mut self) -> io::Result<Option<(u32, OwnedFd)>> {
        match channel::receive(self.channel.as_fd())? {
            Received::Message(Message::Connect(port), stream) => Ok(Some((port, stream.into()))),
            Received::Message(Message::Accepted(_), _) => {
                Err(io::Error::other("the host sent what only a machine sends"))
            }
            Received::Nothing => Ok(None),
            Received::Closed => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }

    fn is_open(&self, port: u32) -> bool {
        self.open.contains(&port)
    }

    fn accepted(&mut self, port: u32, stream: OwnedFd) -> io::Result<()> {
        channel::send(self.channel.as_fd(), Message::Accepted(port), stream.as_fd())
    }
}
