//! One client of a supervisor: its requests in, answers out.

use super::detached::Later;
use super::protocol::{Answer, Ended, Request};
use crate::packet::{Packet, PacketSocket};
use crate::store::CommandKey;
use rustix::fd::AsFd;
use std::io;
use std::os::unix::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};

/// A request on its way to the event loop.
pub(super) struct Order {
    pub(super) request: Request,
    pub(super) reply: oneshot::Sender<Reply>,
}

/// What the event loop makes of it.
pub(super) enum Reply {
    Answer(Answer),
    /// [`Answer::Connected`] with its stream.
    Stream(UnixStream),
    /// One that may take as long as it likes; a client that leaves meanwhile is let go.
    Later(Later),
    /// Nothing that this machine does: a bug of the client, which is cut off like one that sends garbage.
    Refused,
}

/// Serves a client until it leaves, breaks the protocol, or the machine ends, which it is told. Returns the
/// commands that it began.
pub(super) async fn serve(
    socket: PacketSocket,
    orders: mpsc::Sender<Order>,
    mut ended: watch::Receiver<Option<Ended>>,
) -> Vec<CommandKey> {
    let mut begun = Vec::new();
    let told = tokio::select! {
        () = serve_requests(&socket, &orders, &mut begun) => None,
        ended = ended.wait_for(Option::is_some) => ended.ok().and_then(|ended| ended.clone()),
    };
    if let Some(ended) = told {
        // It may have left at the same moment.
        let _ = socket.send(&Answer::Ended(ended), None).await;
    }
    begun
}

async fn serve_requests(socket: &PacketSocket, orders: &mpsc::Sender<Order>, begun: &mut Vec<CommandKey>) {
    while let Ok(Some(Packet { message, .. })) = socket.receive().await {
        let (reply, answer) = oneshot::channel();
        if orders.send(Order { request: message, reply }).await.is_err() {
            return;
        }
        // Without a reply the machine is ending; how it ended is the answer.
        let Ok(reply) = answer.await else { return std::future::pending().await };
        if let Reply::Answer(Answer::Begun { command }) = &reply {
            begun.push(*command);
        }
        let reply = match reply {
            Reply::Later(answer) => tokio::select! {
                answer = answer => Reply::Answer(answer),
                // It has left, or asks out of turn.
                _ = socket.receive::<Request>() => return,
            },
            known => known,
        };
        if send(socket, reply).await.is_err() {
            return;
        }
    }
}

async fn send(socket: &PacketSocket, reply: Reply) -> io::Result<()> {
    match reply {
        Reply::Answer(answer) => socket.send(&answer, None).await,
        Reply::Stream(stream) => socket.send(&Answer::Connected, Some(stream.as_fd())).await,
        Reply::Later(_) | Reply::Refused => Err(io::ErrorKind::InvalidInput.into()),
    }
}
