use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use rustix::process::{Resource, Rlimit};

use super::*;

/// A forwarder behind a Unix socket instead of vsock. Its thread ends with the test's process.
struct Fixture {
    directory: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        // Client, server and forwarder are one process here: four descriptors a stream.
        let limit = rustix::process::getrlimit(Resource::Nofile);
        rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let accepting = listener.try_clone().unwrap();
        let accept = move || match accepting.accept() {
            Ok((stream, _)) => Ok(Some(stream.into())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        };
        thread::spawn(move || Forwarder::new().unwrap().serve(&listener.into(), &accept));
        Self { directory }
    }

    fn ask(&self, port: u16) -> (UnixStream, Option<Forwarded>) {
        let mut stream = UnixStream::connect(self.directory.path().join("socket")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(&port.to_le_bytes()).unwrap();
        let mut answer = [0];
        let answer = stream.read_exact(&mut answer).ok().and_then(|()| Forwarded::parse(answer[0]));
        (stream, answer)
    }

    fn connect(&self, port: u16) -> UnixStream {
        let (stream, answer) = self.ask(port);
        assert_eq!(answer, Some(Forwarded::Connected));
        stream
    }
}

/// A server that does `each` with every connection; its port.
fn server(address: IpAddr, each: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let each = std::sync::Arc::new(each);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let each = std::sync::Arc::clone(&each);
            thread::spawn(move || each(stream.unwrap()));
        }
    });
    port
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn echo_until_the_end(mut stream: TcpStream) {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    stream.write_all(&bytes).unwrap();
}

#[test]
fn each_direction_ends_by_itself_and_everything_arrives() {
    let fixture = Fixture::new();
    for address in ADDRESSES {
        if address == IpAddr::V6(Ipv6Addr::LOCALHOST) && TcpListener::bind((address, 0)).is_err() {
            println!("skipped (this machine has no IPv6)");
            continue;
        }
        let mut stream = fixture.connect(server(address, echo_until_the_end));
        let sent = pattern(3 << 20);
        let mut writer = stream.try_clone().unwrap();
        let to_send = sent.clone();
        let sender = thread::spawn(move || {
            writer.write_all(&to_send).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        sender.join().unwrap();
        assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    }
}

#[test]
fn a_port_that_nobody_listens_on_is_refused() {
    let fixture = Fixture::new();
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let (mut stream, answer) = fixture.ask(port);
    assert_eq!(answer, Some(Forwarded::Refused));
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn what_a_server_sends_before_it_hangs_up_arrives_though_it_reads_nothing() {
    let fixture = Fixture::new();
    let port = server(ADDRESSES[0], |mut stream| {
        let mut first = [0; 4];
        stream.read_exact(&mut first).unwrap();
        stream.write_all(b"enough").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    });
    let mut stream = fixture.connect(port);
    stream.write_all(&pattern(4)).unwrap();
    let mut got = String::new();
    stream.read_to_string(&mut got).unwrap();
    assert_eq!(got, "enough");
}

#[test]
fn a_slow_reader_holds_back_its_own_stream_alone() {
    let fixture = Fixture::new();
    let total = 32 << 20;
    let port = server(ADDRESSES[0], move |mut stream| {
        let mut one = [0];
        stream.read_exact(&mut one).unwrap();
        match one[0] {
            b'b' => stream.write_all(&pattern(total)).unwrap(),
            _ => stream.write_all(b"here").unwrap(),
        }
    });
    let mut slow = fixture.connect(port);
    slow.write_all(b"b").unwrap();
    let mut first = [0; 1000];
    slow.read_exact(&mut first).unwrap();
    // It reads no more for now; the others go on.
    for _ in 0..20 {
        let mut other = fixture.connect(port);
        other.write_all(b"x").unwrap();
        let mut got = String::new();
        other.read_to_string(&mut got).unwrap();
        assert_eq!(got, "here");
    }
    let mut got = first.to_vec();
    slow.read_to_end(&mut got).unwrap();
    assert!(got == pattern(total), "{} bytes", got.len());
}

#[test]
fn a_thousand_streams_are_served_at_once() {
    let fixture = Fixture::new();
    let port = server(ADDRESSES[0], echo_until_the_end);
    let mut streams: Vec<UnixStream> = (0..1000).map(|_| fixture.connect(port)).collect();
    for (number, stream) in streams.iter_mut().enumerate() {
        stream.write_all(number.to_string().as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    }
    for (number, stream) in streams.iter_mut().enumerate() {
        let mut got = String::new();
        stream.read_to_string(&mut got).unwrap();
        assert_eq!(got, number.to_string());
    }
}

#[test]
fn too_many_streams_are_refused_and_there_is_room_again_when_some_have_left() {
    let fixture = Fixture::new();
    let port = server(ADDRESSES[0], echo_until_the_end);
    let streams: Vec<UnixStream> = (0..MAX_FORWARDS).map(|_| fixture.connect(port)).collect();
    assert_eq!(fixture.ask(port).1, Some(Forwarded::TooMany));
    for stream in streams {
        stream.shutdown(Shutdown::Both).unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    while fixture.ask(port).1 != Some(Forwarded::Connected) {
        assert!(Instant::now() < deadline, "no stream ended");
    }
}
