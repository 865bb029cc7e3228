//! Ports of this machine's loopback that lead somewhere else, for as long as somebody holds them.
//!
//! A [`Listener`] has its port from [`Listener::bind`] on; nobody is let in before [`Listener::serve`]. The
//! [`PublishedPort`] that this gives owns everything: dropped, it closes the port and every connection. Each
//! direction of a connection ends by itself, and neither is read faster than the other end takes it.
//!
//! This crate knows neither guests nor policies: what a port leads to is a [`Connect`] of the caller's.

mod idle;
mod limits;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinHandle, JoinSet};

use idle::Watched;
use limits::{ACCEPT_RETRY, BACKLOG, COPY_BYTES};

/// Where connections lead.
pub trait Connect: Send + Sync + 'static {
    /// A stream to there.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Opens one; a connection for which this fails is closed at once.
    fn connect(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// Bounds of one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time; more wait in the kernel's backlog.
    pub connections: usize,
    /// A connection on which nothing moves for this long is closed; `None` is never.
    pub idle: Option<Duration>,
    /// How long [`Connect::connect`] may take.
    pub connect: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: limits::CONNECTIONS, idle: Some(limits::IDLE), connect: limits::CONNECT_DEADLINE }
    }
}

/// A port of the loopback that is taken and lets nobody in yet.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Takes a port of `127.0.0.1`; without a number one that is free. Must be called in a tokio runtime.
    pub fn bind(port: Option<u16>) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        // A port whose last connections have just been closed is free again.
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port.unwrap_or(0))))?;
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// The address that it has.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets connections in.
    pub fn serve<C: Connect>(self, connect: C, limits: Limits) -> PublishedPort {
        let address = self.address;
        let task = tokio::spawn(accept_all(self.listener, Arc::new(connect), limits));
        PublishedPort { address, task }
    }
}

/// A port that serves. Dropped, it is free again and its connections are closed.
#[derive(Debug)]
pub struct PublishedPort {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl PublishedPort {
    /// The address that it has.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the port and its connections, and returns when they are.
    pub async fn close(mut self) {
        self.task.abort();
        // It was cancelled, which is what was asked for.
        let _ = (&mut self.task).await;
    }
}

impl Drop for PublishedPort {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The connections are this task's, and end with it.
async fn accept_all<C: Connect>(listener: TcpListener, connect: Arc<C>, limits: Limits) {
    let room = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(carry(stream, Arc::clone(&connect), limits, permit));
            }
            // Out of descriptors, or a client that left at once: connections that end free some.
            Err(_) => tokio::time::sleep(ACCEPT_RETRY).await,
        }
    }
}

async fn carry<C: Connect>(near: TcpStream, connect: Arc<C>, limits: Limits, _permit: OwnedSemaphorePermit) {
    // Small answers shall not wait for each other; fails for a client that is gone.
    let _ = near.set_nodelay(true);
    let Ok(Ok(far)) = tokio::time::timeout(limits.connect, connect.connect()).await else { return };
    let (mut near, mut far) = Watched::pair(near, far);
    let activity = near.activity();
    tokio::select! {
        // An end that resets the connection ends both ways.
        _ = copy_bidirectional_with_sizes(&mut near, &mut far, COPY_BYTES, COPY_BYTES) => {}
        () = activity.ceased(limits.idle) => {}
    }
}
