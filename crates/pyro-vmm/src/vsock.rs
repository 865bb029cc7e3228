//! The streams between guest and host: packets, flow control, and the multiplexer that joins the guest's
//! connections with host sockets.
//!
//! Nothing here knows a queue: the device core brings packets and takes packets away. The host's side is
//! behind [`HostSide`]; everything travels as descriptors, there are no paths.
//!
//! One connection's life. *Connecting*: asked for by the host, not answered by the guest. *Open*: both
//! directions flow, each until its own end. *Closing*: the host has gone, the guest still reads what it
//! was sent. A guest that has closed, or was reset, leaves nothing but the bytes it had sent, which the
//! host still reads.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

mod connection;
pub mod limits;
mod muxer;
mod packet;
mod poller;

pub use muxer::Muxer;
pub use packet::{HEADER_BYTES, Header, Operation};

/// The host's address on every machine.
pub const HOST_CID: u64 = 2;

/// Where connections from the host come from, and where those of the guest go.
pub trait HostSide: Send {
    /// Becomes readable when [`HostSide::next_connect`] has something; the same one for ever.
    fn as_fd(&self) -> Option<BorrowedFd<'_>>;

    /// The next stream that the host wants joined with a port of the guest, without blocking. After an
    /// error it is not asked again.
    fn next_connect(&mut self) -> io::Result<Option<(u32, OwnedFd)>>;

    /// Whether the guest may connect to this port of the host.
    fn is_open(&self, port: u32) -> bool;

    /// Hands out the host's end of a connection that the guest made to an open port, without blocking. An
    /// error refuses the connection.
    fn accepted(&mut self, port: u32, stream: OwnedFd) -> io::Result<()>;
}

#[cfg(test)]
mod tests;
