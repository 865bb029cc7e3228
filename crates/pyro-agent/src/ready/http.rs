//! One GET, of whose answer only the status counts.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::limits::PROBE_ANSWER_BYTES;

/// Whether the answer's status is from 200 to 399; otherwise what is wrong.
pub(super) fn get(
    mut stream: TcpStream,
    host: &str,
    port: u16,
    target: &str,
    deadline: Instant,
) -> Result<(), String> {
    let line = exchange(&mut stream, &request(host, port, target), deadline)
        .map_err(|error| format!("no HTTP answer: {error}"))?;
    match status(&line) {
        Some(200..=399) => Ok(()),
        Some(status) => Err(format!("HTTP status {status}")),
        None => Err("the answer is not HTTP".to_owned()),
    }
}

fn request(host: &str, port: u16, target: &str) -> String {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    format!(
        "GET {target} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: pyro\r\nAccept: */*\r\n\
         Connection: close\r\n\r\n"
    )
}

/// Sends the request; gives the answer's first line, without its end.
fn exchange(stream: &mut TcpStream, request: &str, deadline: Instant) -> io::Result<Vec<u8>> {
    let left = || {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::Error::from(io::ErrorKind::TimedOut)) } else { Ok(left) }
    };
    stream.set_write_timeout(Some(left()?))?;
    stream.write_all(request.as_bytes())?;
    let mut line = Vec::new();
    let mut chunk = [0; 512];
    loop {
        if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            line.truncate(end);
            return Ok(line);
        }
        if line.len() >= PROBE_ANSWER_BYTES {
            return Ok(line);
        }
        stream.set_read_timeout(Some(left()?.max(Duration::from_millis(1))))?;
        match stream.read(&mut chunk) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => line.extend_from_slice(&chunk[..len]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        }
    }
}

/// The status of a first line such as `HTTP/1.1 200 OK`.
pub(super) fn status(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let [b'0'..=b'9', b' ', a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', rest @ ..] = rest else {
        return None;
    };
    let is_whole = matches!(rest.first(), None | Some(b' ' | b'\r'));
    let digit = |byte: &u8| u16::from(byte - b'0');
    is_whole.then(|| digit(a) * 100 + digit(b) * 10 + digit(c))
}
