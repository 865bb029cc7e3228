use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::*;

/// Leads to whoever receives the other ends.
struct Ends(mpsc::UnboundedSender<UnixStream>);

impl Connect for Ends {
    type Stream = UnixStream;

    async fn connect(&self) -> io::Result<UnixStream> {
        let (near, far) = UnixStream::pair()?;
        self.0.send(far).map_err(io::Error::other)?;
        Ok(near)
    }
}

/// Leads nowhere.
struct Nowhere;

impl Connect for Nowhere {
    type Stream = UnixStream;

    async fn connect(&self) -> io::Result<UnixStream> {
        Err(io::ErrorKind::ConnectionRefused.into())
    }
}

fn publish(limits: Limits) -> (PublishedPort, mpsc::UnboundedReceiver<UnixStream>) {
    let (sender, ends) = mpsc::unbounded_channel();
    (Listener::bind(None).unwrap().serve(Ends(sender), limits), ends)
}

/// The other ends, each echoing until its end.
fn echo(mut ends: mpsc::UnboundedReceiver<UnixStream>) {
    tokio::spawn(async move {
        while let Some(mut end) = ends.recv().await {
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                end.read_to_end(&mut bytes).await.unwrap();
                end.write_all(&bytes).await.unwrap();
            });
        }
    });
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[tokio::test]
async fn each_direction_ends_by_itself() {
    let (port, ends) = publish(Limits::default());
    echo(ends);
    let mut stream = TcpStream::connect(port.address()).await.unwrap();
    stream.write_all(b"there and back").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut got = String::new();
    stream.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "there and back");
}

#[tokio::test]
async fn a_slow_reader_gets_everything_and_nothing_piles_up() {
    let (port, mut ends) = publish(Limits::default());
    let mut slow = TcpStream::connect(port.address()).await.unwrap();
    let mut end = ends.recv().await.unwrap();
    let sent = pattern(32 << 20);
    let to_send = sent.clone();
    let (progress, mut written) = tokio::sync::watch::channel(0);
    let sender = tokio::spawn(async move {
        for chunk in to_send.chunks(64 << 10) {
            end.write_all(chunk).await.unwrap();
            progress.send_modify(|bytes| *bytes += chunk.len());
        }
    });
    // What the kernel and one buffer hold goes ahead, the rest waits for the reader.
    written.wait_for(|bytes| *bytes > 0).await.unwrap();
    let mut got = vec![0; 1000];
    slow.read_exact(&mut got).await.unwrap();
    assert!(!sender.is_finished());
    slow.read_to_end(&mut got).await.unwrap();
    sender.await.unwrap();
    assert!(got == sent, "{} bytes", got.len());
}

#[tokio::test]
async fn a_port_is_free_again_when_it_is_let_go_and_its_connections_are_closed() {
    let (port, mut ends) = publish(Limits::default());
    let address = port.address();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut end = ends.recv().await.unwrap();
    let taken = Listener::bind(Some(address.port())).unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    port.close().await;
    assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
    assert_eq!(end.read(&mut [0]).await.unwrap_or(0), 0);
    assert_eq!(TcpStream::connect(address).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    let again = Listener::bind(Some(address.port())).unwrap();
    assert_eq!(again.address(), address);
}

#[tokio::test]
async fn a_connection_that_leads_nowhere_is_closed_and_the_port_goes_on() {
    let port = Listener::bind(None).unwrap().serve(Nowhere, Limits::default());
    for _ in 0..3 {
        let mut stream = TcpStream::connect(port.address()).await.unwrap();
        assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
    }
}

#[tokio::test]
async fn more_connections_than_allowed_wait_for_room() {
    let (port, mut ends) = publish(Limits { connections: 2, ..Limits::default() });
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(TcpStream::connect(port.address()).await.unwrap());
    }
    let (_first, _second) = (ends.recv().await.unwrap(), ends.recv().await.unwrap());
    assert!(ends.try_recv().is_err());
    drop(streams.remove(0));
    drop(_first);
    ends.recv().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_nothing_moves_is_closed() {
    let minute = Duration::from_secs(60);
    let (near, mut far) = tokio::io::duplex(100);
    let (mut near, _other) = Watched::pair(near, ());
    let activity = near.activity();
    for _ in 0..3 {
        tokio::time::advance(minute / 2).await;
        far.write_all(b"x").await.unwrap();
        near.read_exact(&mut [0]).await.unwrap();
    }
    let moved = tokio::time::Instant::now();
    activity.ceased(Some(minute)).await;
    assert_eq!(moved.elapsed(), minute);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_connections_are_carried_at_once() {
    let (port, ends) = publish(Limits::default());
    echo(ends);
    let mut streams = Vec::new();
    for number in 0..1000u32 {
        let mut stream = TcpStream::connect(port.address()).await.unwrap();
        stream.write_all(&number.to_le_bytes()).await.unwrap();
        streams.push(stream);
    }
    for (number, mut stream) in streams.into_iter().enumerate() {
        stream.shutdown().await.unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, u32::try_from(number).unwrap().to_le_bytes());
    }
}
