//! Published ports: what connections to this machine's loopback lead to.

use crate::sys;
use pyro_agent::wire::{FORWARD_PORT, Forwarded};
use pyro_vmm::HostChannel;
use rustix::fd::{AsFd, OwnedFd};
use std::io;
use std::sync::Arc;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

/// Streams to the guest, for whoever outlives a borrow of its machine.
#[derive(Clone)]
pub(super) struct GuestStreams(Arc<Streams>);

struct Streams {
    channel: HostChannel,
    /// Writable when the channel takes one more.
    room: AsyncFd<OwnedFd>,
}

impl GuestStreams {
    pub(super) fn new(channel: &HostChannel) -> io::Result<Self> {
        let room = sys::watch(channel.as_fd().try_clone_to_owned()?, Interest::WRITABLE)?;
        Ok(Self(Arc::new(Streams { channel: channel.try_clone()?, room })))
    }

    /// A stream to a vsock port of the guest, when the machine takes one more.
    async fn connect(&self, port: u32) -> io::Result<UnixStream> {
        loop {
            let mut room = self.0.room.writable().await?;
            if let Ok(stream) = room.try_io(|_| self.0.channel.connect(port)) {
                let stream = stream?;
                stream.set_nonblocking(true)?;
                return UnixStream::from_std(stream);
            }
        }
    }
}

/// A TCP port of the guest, on its own loopback.
pub(super) struct GuestPort {
    pub(super) streams: GuestStreams,
    pub(super) port: u16,
}

impl pyro_proxy::Connect for GuestPort {
    type Stream = UnixStream;

    async fn connect(&self) -> io::Result<UnixStream> {
        let mut stream = self.streams.connect(FORWARD_PORT).await?;
        stream.write_all(&self.port.to_le_bytes()).await?;
        let answer = stream.read_u8().await?;
        match Forwarded::parse(answer) {
            Some(Forwarded::Connected) => Ok(stream),
            Some(Forwarded::Refused) => Err(io::ErrorKind::ConnectionRefused.into()),
            Some(Forwarded::TimedOut) => Err(io::ErrorKind::TimedOut.into()),
            Some(Forwarded::TooMany) => Err(io::Error::other("the guest has too many streams to its ports")),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "the guest's answer is none")),
        }
    }
}
