//! JSON messages with at most one descriptor each over a `SOCK_SEQPACKET` socket.
//!
//! A packet socket keeps message boundaries, so a descriptor can never be attached to the wrong message,
//! and needs no length prefix.

use crate::limits::PACKET_BYTES;
use crate::sys;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Serialize, de::DeserializeOwned};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// One end of a packet connection.
pub(crate) struct PacketSocket {
    fd: AsyncFd<OwnedFd>,
}

/// What [`PacketSocket::receive`] yields.
pub(crate) struct Packet<T> {
    pub(crate) message: T,
    pub(crate) fd: Option<OwnedFd>,
}

impl PacketSocket {
    /// Takes over `fd`, which must be a sequenced-packet socket. Needs a tokio runtime.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self { fd: sys::watch(fd, Interest::READABLE | Interest::WRITABLE)? })
    }

    /// A connected pair; the first end is for this process, the second for a child.
    pub(crate) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self::new(ours)?, theirs))
    }

    /// Sends one message, with one descriptor when `fd` is given.
    pub(crate) async fn send<T: Serialize>(&self, message: &T, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > PACKET_BYTES {
            return Err(io::Error::other(format!("message of {} bytes is over the limit", bytes.len())));
        }
        loop {
            let mut guard = self.fd.writable().await?;
            match guard.try_io(|socket| send_once(socket.as_fd(), &bytes, fd)) {
                Ok(result) => return result,
                Err(_would_block) => continue,
            }
        }
    }

    /// The next message; `None` when the peer is gone.
    pub(crate) async fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<Packet<T>>> {
        loop {
            let mut guard = self.fd.readable().await?;
            match guard.try_io(|socket| receive_once(socket.as_fd())) {
                Ok(Ok(None)) => return Ok(None),
                Ok(Ok(Some((bytes, fd)))) => {
                    let message = serde_json::from_slice(&bytes)?;
                    return Ok(Some(Packet { message, fd }));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => continue,
            }
        }
    }
}

fn send_once(socket: BorrowedFd<'_>, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::other("no room for a descriptor"));
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

type Received = Option<(Vec<u8>, Option<OwnedFd>)>;

fn receive_once(socket: BorrowedFd<'_>) -> io::Result<Received> {
    let mut bytes = vec![0; PACKET_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => received,
            Err(Errno::INTR) => return Err(io::ErrorKind::WouldBlock.into()),
            Err(error) => return Err(error.into()),
        };
    let mut fd = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            fd = fds.last();
        }
    }
    if received.bytes == 0 && fd.is_none() {
        return Ok(None);
    }
    bytes.truncate(received.bytes);
    Ok(Some((bytes, fd)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[tokio::test]
    async fn a_descriptor_arrives_with_its_message() {
        let (a, b) = PacketSocket::pair().unwrap();
        let b = PacketSocket::new(b).unwrap();
        let file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut &file, b"hello").unwrap();
        std::io::Seek::rewind(&mut &file).unwrap();
        a.send(&"first", None).await.unwrap();
        a.send(&"second", Some(file.as_fd())).await.unwrap();
        let first = b.receive::<String>().await.unwrap().unwrap();
        assert!(first.message == "first" && first.fd.is_none());
        let second = b.receive::<String>().await.unwrap().unwrap();
        let mut text = String::new();
        std::fs::File::from(second.fd.unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!((second.message.as_str(), text.as_str()), ("second", "hello"));
        drop(a);
        assert!(b.receive::<String>().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn an_oversized_message_is_refused_by_the_sender() {
        let (a, _b) = PacketSocket::pair().unwrap();
        assert!(a.send(&"x".repeat(PACKET_BYTES), None).await.is_err());
    }
}
