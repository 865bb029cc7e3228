//! JSON messages with at most one descriptor each over a `SOCK_SEQPACKET` socket.
//!
//! A packet socket keeps message boundaries, so a descriptor can never be attached to the wrong message,
//! and needs no length prefix.

use crate::limits::PACKET_BYTES;
use crate::sys;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Serialize, de::DeserializeOwned};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::path::Path;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// One end of a packet connection.
pub(crate) struct PacketSocket {
    fd: AsyncFd<OwnedFd>,
}

/// A socket that clients connect to.
pub(crate) struct PacketListener {
    fd: AsyncFd<OwnedFd>,
}

impl PacketListener {
    /// Listens as `name` in `directory`, in the place of a socket that a process before left there.
    pub(crate) fn bind(directory: &Path, name: &str) -> io::Result<Self> {
        let Some((_directory, address)) = address(directory, name)? else {
            return Err(io::ErrorKind::NotFound.into());
        };
        match std::fs::remove_file(directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = packet_socket()?;
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, BACKLOG)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self { fd: sys::watch(socket, Interest::READABLE)? })
    }

    /// The next client. Cancel safe.
    pub(crate) async fn accept(&self) -> io::Result<PacketSocket> {
        loop {
            let mut guard = self.fd.readable().await?;
            let accepted = guard.try_io(|socket| Ok(rustix::net::accept_with(socket, SocketFlags::CLOEXEC)?));
            if let Ok(accepted) = accepted {
                return PacketSocket::new(accepted?);
            }
        }
    }
}

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 128;

fn packet_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// The address of `name` in `directory`, good while the descriptor beside it is open. A socket's address
/// holds 107 bytes, which paths of state directories do not keep to.
fn address(directory: &Path, name: &str) -> io::Result<Option<(OwnedFd, SocketAddrUnix)>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = match rustix::fs::open(directory, flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let path = format!("/proc/self/fd/{}/{name}", std::os::fd::AsRawFd::as_raw_fd(&directory));
    Ok(Some((directory, SocketAddrUnix::new(path)?)))
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

    /// Connects to the socket `name` in `directory`; `None` where nobody listens. The path may be of any
    /// length: the directory is opened and named by its descriptor.
    pub(crate) fn connect(directory: &Path, name: &str) -> io::Result<Option<Self>> {
        let Some((_directory, address)) = address(directory, name)? else { return Ok(None) };
        let socket = packet_socket()?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => Ok(Some(Self::new(socket)?)),
            Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(None),
            Err(error) => Err(error.into()),
        }
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
