//! The requests of one HTTP/1 connection, as far as it takes to see where each of them ends and whom it is for.
//!
//! ```text
//! head --its name agrees--> passing head and body --> head ...
//!                                |-- chunked --> chunk's size -> chunk -> its end -> ... -> trailers -> head
//!                                `-- WebSocket --> the server's answer --101--> all of the rest
//! ```
//!
//! What two readers could understand differently is refused, as in RFC 9112, 6.3 and 11.2.

use crate::limits;
use crate::policy::Name;

/// Neither a request nor a part of one, or one that is for another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unclear;

/// A request's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Whom it is for.
    pub(crate) name: Name,
    body: Body,
}

/// What comes behind a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    /// So many bytes.
    Length(u64),
    Chunked,
    /// Another protocol, where the server agrees.
    WebSocket,
}

/// What has to be read before more may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Head,
    ChunkSize,
    ChunkEnd,
    Trailers,
    /// The first bytes of the server's answer.
    Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Reading(Part),
    /// So many bytes may pass, and then this is read.
    Passing(u64, Part),
    /// Whatever comes.
    All,
}

/// The requests of one connection.
#[derive(Debug)]
pub(crate) struct Requests {
    name: Name,
    state: State,
    /// Only the first request has an answer that is certainly its own.
    is_first: bool,
    answer: Vec<u8>,
}

const SWITCHING: &[u8] = b"HTTP/1.1 101 ";

impl Requests {
    /// Those of a connection that may be for `name` alone.
    pub(crate) fn new(name: Name) -> Self {
        Self { name, state: State::Reading(Part::Head), is_first: true, answer: Vec::new() }
    }

    /// How many of the bytes that wait, which begin with `bytes`, may pass now. None says that more must come
    /// first.
    pub(crate) fn room(&mut self, bytes: &[u8]) -> Result<usize, Unclear> {
        if let State::Reading(part) = self.state {
            match self.read(part, bytes)? {
                Some((length, next)) => self.state = State::Passing(length, next),
                None if part != Part::Answer && bytes.len() >= limits::MAX_OPENING_BYTES => {
                    return Err(Unclear);
                }
                None => return Ok(0),
            }
        }
        Ok(match self.state {
            State::Passing(left, _) => usize::try_from(left).unwrap_or(usize::MAX),
            State::All => usize::MAX,
            State::Reading(_) => 0,
        })
    }

    /// So many bytes have passed.
    pub(crate) fn passed(&mut self, count: usize) {
        if let State::Passing(left, next) = self.state {
            let left = left.saturating_sub(count as u64);
            self.state = if left == 0 { State::Reading(next) } else { State::Passing(left, next) };
        }
    }

    /// Whether it depends on the server what may pass.
    pub(crate) fn awaits_answer(&self) -> bool {
        self.state == State::Reading(Part::Answer)
    }

    /// What the server said.
    pub(crate) fn answered(&mut self, bytes: &[u8]) {
        if !self.awaits_answer() {
            return;
        }
        self.answer.extend(bytes.iter().take(SWITCHING.len() - self.answer.len()));
        if self.answer == SWITCHING {
            self.state = State::All;
        } else if !SWITCHING.starts_with(&self.answer) {
            self.state = State::Reading(Part::Head);
        }
    }

    /// Reads `part`: how long it is, with what may pass behind it, and what is read then.
    fn read(&mut self, part: Part, bytes: &[u8]) -> Result<Option<(u64, Part)>, Unclear> {
        match part {
            Part::Head => {
                let Some((length, head)) = read_head(bytes)? else { return Ok(None) };
                if head.name != self.name {
                    return Err(Unclear);
                }
                let is_first = std::mem::replace(&mut self.is_first, false);
                let length = length as u64;
                Ok(Some(match head.body {
                    Body::Length(body) => (length.saturating_add(body), Part::Head),
                    Body::Chunked => (length, Part::ChunkSize),
                    Body::WebSocket if is_first => (length, Part::Answer),
                    Body::WebSocket => (length, Part::Head),
                }))
            }
            Part::ChunkSize => {
                let Some(line) = line(bytes) else { return Ok(None) };
                let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
                let size = hexadecimal(digits).ok_or(Unclear)?;
                if line.iter().any(u8::is_ascii_control) {
                    return Err(Unclear);
                }
                let length = line.len() as u64 + 2;
                Ok(Some(match size {
                    0 => (length, Part::Trailers),
                    size => (length.saturating_add(size), Part::ChunkEnd),
                }))
            }
            Part::ChunkEnd => match bytes {
                [b'\r', b'\n', ..] => Ok(Some((2, Part::ChunkSize))),
                [] | [b'\r'] => Ok(None),
                _ => Err(Unclear),
            },
            Part::Trailers => {
                let Some(line) = line(bytes) else { return Ok(None) };
                if !line.is_empty() && field(line).is_none() {
                    return Err(Unclear);
                }
                Ok(Some((line.len() as u64 + 2, if line.is_empty() { Part::Head } else { Part::Trailers })))
            }
            Part::Answer => Ok(None),
        }
    }
}

/// A line without its end.
fn line(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    bytes.get(..end)
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    const MOST_DIGITS: usize = 15;
    if digits.is_empty() || digits.len() > MOST_DIGITS || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// A header's name and value. Spaces before the colon and lone line ends make servers disagree on what a header is.
fn field(line: &[u8]) -> Option<(&str, &str)> {
    let (name, value) = std::str::from_utf8(line).ok()?.split_once(':')?;
    // The characters of a token (RFC 9110, 5.6.2).
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let is_plain = !name.is_empty()
        && name.bytes().all(is_token)
        && !value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t');
    is_plain.then_some((name, value.trim_matches([' ', '\t'])))
}

/// Reads a request's line and headers: the host they name, once, a target that names no other, and where the request
/// ends. `None` where it is not all there.
pub(crate) fn read_head(bytes: &[u8]) -> Result<Option<(usize, Head)>, Unclear> {
    const END: &[u8] = b"\r\n\r\n";
    let method_bytes = bytes.iter().take_while(|byte| byte.is_ascii_alphabetic()).count();
    let is_request = match bytes.get(method_bytes) {
        Some(b' ') => (1..=20).contains(&method_bytes),
        Some(_) => false,
        None => method_bytes <= 20,
    };
    if !is_request {
        return Err(Unclear);
    }
    let Some(end) = bytes.windows(END.len()).position(|window| window == END) else { return Ok(None) };
    let head = parse_head(&bytes[..end]).ok_or(Unclear)?;
    Ok(Some((end + END.len(), head)))
}

fn parse_head(head: &[u8]) -> Option<Head> {
    let text = std::str::from_utf8(head).ok()?;
    let mut lines = text.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (_, target, version) = (words.next()?, words.next()?, words.next()?);
    if words.next().is_some() || !matches!(version, "HTTP/1.1" | "HTTP/1.0") {
        return None;
    }
    let (mut host, mut length, mut coding, mut upgrade) = (None, None, None, None);
    for line in lines {
        let (name, value) = field(line.as_bytes())?;
        let slot = match name.to_ascii_lowercase().as_str() {
            "host" => &mut host,
            "content-length" => &mut length,
            "transfer-encoding" => &mut coding,
            "upgrade" => &mut upgrade,
            _ => continue,
        };
        // Twice would let two readers see two requests.
        if slot.replace(value).is_some() {
            return None;
        }
    }
    let body = match (length, coding, upgrade) {
        (Some(_), Some(_), _) => return None,
        (None, Some(coding), None) if coding.eq_ignore_ascii_case("chunked") && version == "HTTP/1.1" => {
            Body::Chunked
        }
        (None, Some(_), _) => return None,
        (Some(length), None, _) => Body::Length(decimal(length)?),
        (None, None, Some(protocol)) if protocol.eq_ignore_ascii_case("websocket") => Body::WebSocket,
        (None, None, _) => Body::Length(0),
    };
    Some(Head { name: name_of(target, host?)?, body })
}

fn decimal(digits: &str) -> Option<u64> {
    const MOST_DIGITS: usize = 18;
    let is_number =
        (1..=MOST_DIGITS).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { digits.parse().ok() } else { None }
}

fn name_of(target: &str, host: &str) -> Option<Name> {
    let host = authority_name(host)?;
    if target.starts_with('/') || target == "*" {
        return Some(host);
    }
    let authority = target.strip_prefix("http://")?.split(['/', '?', '#']).next()?;
    (authority_name(authority)? == host).then_some(host)
}

fn authority_name(authority: &str) -> Option<Name> {
    let name = match authority.split_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) => return None,
        None => authority,
    };
    name.parse().ok()
}

#[cfg(test)]
mod tests;
