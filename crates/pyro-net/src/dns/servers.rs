//! The host's name servers, asked for records that its resolver has no call for.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use rustix::rand::{GetRandomFlags, getrandom};

use super::records::{self, Record, Response};
use super::resolver::ResolveError;
use super::wire::{Question, RecordKind};
use crate::limits;
use crate::policy::Name;

const CONFIGURATION: &str = "/etc/resolv.conf";
const PORT: u16 = 53;

/// The servers that the host is configured with; its own where it names none, as its resolver has it.
pub(super) fn configured() -> Vec<SocketAddr> {
    let mut text = Vec::new();
    if let Ok(file) = File::open(CONFIGURATION) {
        // What was read so far says enough.
        let _ = file.take(limits::MAX_RESOLVER_FILE_BYTES).read_to_end(&mut text);
    }
    parse(&String::from_utf8_lossy(&text))
}

fn parse(text: &str) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if words.next() == Some("nameserver")
            && let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok())
            && servers.len() < limits::MAX_NAME_SERVERS
        {
            servers.push(SocketAddr::new(address, PORT));
        }
    }
    if servers.is_empty() {
        servers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT));
    }
    servers
}

/// Asks one server after the other for records of `kind` of `name`, and all once more.
pub(super) fn ask(servers: &[SocketAddr], name: &Name, kind: u16) -> Result<Vec<Record>, ResolveError> {
    const ROUNDS: usize = 2;
    let end = Instant::now() + limits::RESOLVE;
    for server in servers.iter().cycle().take(ROUNDS * servers.len()) {
        let deadline = (Instant::now() + limits::NAME_SERVER).min(end);
        let response = match ask_by_datagram(*server, name, kind, deadline) {
            Ok(Response::Truncated) => {
                let deadline = (Instant::now() + limits::NAME_SERVER).min(end);
                ask_by_stream(*server, name, kind, deadline)
            }
            other => other,
        };
        match response {
            Ok(Response::Records(records)) => return Ok(records),
            Ok(Response::NoSuchName) => return Err(ResolveError::NoSuchName),
            Ok(Response::Truncated | Response::Failed | Response::Other) | Err(_) => {}
        }
    }
    Err(ResolveError::Failed)
}

/// The question, its number so that nobody guesses it.
fn question(name: &Name, kind: u16) -> io::Result<(u16, Vec<u8>)> {
    let mut id = [0; 2];
    getrandom(&mut id, GetRandomFlags::empty())?;
    let id = u16::from_be_bytes(id);
    Ok((id, Question::emit(id, name, RecordKind::Other(kind))))
}

/// How long there is yet.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn ask_by_datagram(server: SocketAddr, name: &Name, kind: u16, deadline: Instant) -> io::Result<Response> {
    let own: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(own, 0))?;
    // From then on only the server is heard.
    socket.connect(server)?;
    let (id, message) = question(name, kind)?;
    socket.send(&message)?;
    let mut buffer = [0; limits::MAX_ANSWER_BYTES];
    loop {
        socket.set_read_timeout(Some(left(deadline)?))?;
        let length = socket.recv(&mut buffer)?;
        match records::parse_response(&buffer[..length], id, name, kind) {
            Response::Other => {}
            response => return Ok(response),
        }
    }
}

fn ask_by_stream(server: SocketAddr, name: &Name, kind: u16, deadline: Instant) -> io::Result<Response> {
    let mut stream = TcpStream::connect_timeout(&server, left(deadline)?)?;
    let (id, message) = question(name, kind)?;
    stream.set_write_timeout(Some(left(deadline)?))?;
    let mut framed = (message.len() as u16).to_be_bytes().to_vec();
    framed.extend(message);
    stream.write_all(&framed)?;
    let mut length = [0; 2];
    read_exactly(&mut stream, &mut length, deadline)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    read_exactly(&mut stream, &mut answer, deadline)?;
    Ok(records::parse_response(&answer, id, name, kind))
}

fn read_exactly(stream: &mut TcpStream, mut buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
    while !buffer.is_empty() {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => buffer = &mut buffer[count..],
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn servers_are_read_as_resolvers_do() {
        let text = "# nameserver 1.1.1.1\nsearch a.example\nnameserver 9.9.9.9\nnameserver\t::1 # x\n\
                    nameserver fe80::1%eth0\nnameserver 10.0.0.1\nnameserver 10.0.0.2\n";
        assert_eq!(parse(text), [at("9.9.9.9:53"), at("[::1]:53"), at("10.0.0.1:53")]);
        assert_eq!(parse(""), [at("127.0.0.1:53")]);
    }

    const TXT: u16 = 16;

    /// The answer to `question` with one text of `text`.
    fn answer(question: &[u8], flags: [u8; 2], text: &[u8]) -> Vec<u8> {
        let mut message = question.to_vec();
        message[2..4].copy_from_slice(&flags);
        message[7] = 1;
        message.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 9]);
        message.extend((text.len() as u16 + 1).to_be_bytes());
        message.push(text.len() as u8);
        message.extend(text);
        message
    }

    #[test]
    fn what_a_datagram_does_not_hold_comes_in_a_stream_and_forgeries_are_passed_over() {
        let stream = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = stream.local_addr().unwrap();
        let datagrams = UdpSocket::bind(server).unwrap();
        let serving = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            let (length, client) = datagrams.recv_from(&mut buffer).unwrap();
            let question = buffer[..length].to_vec();
            let mut forged = answer(&question, [0x81, 0x80], b"forged");
            forged[0] ^= 1;
            datagrams.send_to(&forged, client).unwrap();
            datagrams.send_to(&answer(&question, [0x83, 0x80], b"cut"), client).unwrap();
            let (mut stream, _) = stream.accept().unwrap();
            let mut question = vec![0; 2 + length];
            stream.read_exact(&mut question).unwrap();
            let answer = answer(&question[2..], [0x81, 0x80], b"whole");
            stream.write_all(&(answer.len() as u16).to_be_bytes()).unwrap();
            stream.write_all(&answer).unwrap();
        });
        let records = ask(&[server], &"a.example".parse().unwrap(), TXT).unwrap();
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].data, b"\x05whole");
        serving.join().unwrap();
    }

    #[test]
    fn the_next_server_is_asked_where_one_refuses() {
        let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let open = UdpSocket::bind("127.0.0.1:0").unwrap();
        let servers = [closed, open.local_addr().unwrap()];
        let serving = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            let (length, client) = open.recv_from(&mut buffer).unwrap();
            let message = answer(&buffer[..length], [0x81, 0x83], b"");
            open.send_to(&message, client).unwrap();
        });
        let asked = ask(&servers, &"a.example".parse().unwrap(), TXT);
        assert_eq!(asked.unwrap_err(), ResolveError::NoSuchName);
        serving.join().unwrap();
    }
}
