//! Datagrams of the host channel: eight bytes and one stream each.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Length of every datagram.
pub const MESSAGE_BYTES: usize = 8;

/// What a datagram's stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Host to machine: connect the stream to this guest port.
    Connect(u32),
    /// Machine to host: the guest connected the stream to this host port.
    Accepted(u32),
}

/// Eight bytes that are no message.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:02x?} is not a message of the host channel")]
pub struct MessageError(pub Vec<u8>);

impl Message {
    /// Inverse of [`Message::emit`].
    pub fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        let Ok(&[kind, 0, 0, 0, a, b, c, d]) = <&[u8; MESSAGE_BYTES]>::try_from(bytes) else {
            return Err(MessageError(bytes.to_vec()));
        };
        let port = u32::from_le_bytes([a, b, c, d]);
        match kind {
            1 => Ok(Self::Connect(port)),
            2 => Ok(Self::Accepted(port)),
            _ => Err(MessageError(bytes.to_vec())),
        }
    }

    /// The datagram's bytes.
    pub fn emit(self) -> [u8; MESSAGE_BYTES] {
        let (kind, port) = match self {
            Self::Connect(port) => (1, port),
            Self::Accepted(port) => (2, port),
        };
        let [a, b, c, d] = port.to_le_bytes();
        [kind, 0, 0, 0, a, b, c, d]
    }
}

/// Sends `message` with `stream`. Fails with `WouldBlock` when the other side does not keep up.
pub fn send(socket: BorrowedFd<'_>, message: Message, stream: BorrowedFd<'_>) -> io::Result<()> {
    let bytes = message.emit();
    let fds = [stream];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::io::retry_on_intr(|| sendmsg(socket, &[IoSlice::new(&bytes)], &mut ancillary, flags))?;
    Ok(())
}

/// What [`receive`] found.
#[derive(Debug)]
pub enum Received {
    /// A message with its stream.
    Message(Message, UnixStream),
    /// Nothing yet.
    Nothing,
    /// The other side is gone.
    Closed,
}

/// Takes the next message without waiting.
pub fn receive(socket: BorrowedFd<'_>) -> io::Result<Received> {
    let mut bytes = [0u8; MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let result = rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)
    });
    let received = match result {
        Ok(received) => received,
        Err(rustix::io::Errno::AGAIN) => return Ok(Received::Nothing),
        Err(rustix::io::Errno::CONNRESET) => return Ok(Received::Closed),
        Err(errno) => return Err(errno.into()),
    };
    let stream = ancillary.drain().find_map(first_stream);
    if received.bytes == 0 && stream.is_none() {
        return Ok(Received::Closed);
    }
    let truncated = received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    let message = Message::parse(&bytes[..received.bytes]).map_err(io::Error::other)?;
    match stream {
        Some(stream) if !truncated => Ok(Received::Message(message, UnixStream::from(stream))),
        _ => Err(io::Error::other("a message of the host channel does not carry exactly one stream")),
    }
}

fn first_stream(message: RecvAncillaryMessage<'_>) -> Option<OwnedFd> {
    match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
