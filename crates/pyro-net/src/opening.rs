//! For whom a connection says it is: the server name of a TLS hello, the host of an HTTP request.
//!
//! Nothing passes before it agrees with the name that was allowed: of TLS the first bytes, of HTTP the head of each
//! request of the connection, see `Requests`.

mod requests;

use crate::limits;
use crate::packet::u16_at;
use crate::policy::Name;
pub(crate) use requests::Requests;

/// What the first bytes must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// A TLS hello.
    Tls,
    /// An HTTP/1 request.
    Http,
}

impl Expected {
    /// What is spoken at `port`, where that is certain.
    #[must_use]
    pub fn at(port: u16) -> Option<Self> {
        match port {
            443 => Some(Self::Tls),
            80 => Some(Self::Http),
            _ => None,
        }
    }
}

/// What the first bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// Not enough of them yet.
    Unfinished,
    /// They are for this name.
    For(Name),
    /// They name nobody, or are not what was expected.
    Other,
}

/// Looks at the first bytes of a connection.
#[must_use]
pub fn inspect(expected: Expected, bytes: &[u8]) -> Opening {
    let opening = match expected {
        Expected::Tls => inspect_tls(bytes),
        Expected::Http => inspect_http(bytes),
    };
    match opening {
        Opening::Unfinished if bytes.len() >= limits::MAX_OPENING_BYTES => Opening::Other,
        Opening::Unfinished | Opening::For(_) | Opening::Other => opening,
    }
}

/// Puts the handshake together out of its records, then reads the hello.
fn inspect_tls(bytes: &[u8]) -> Opening {
    const HANDSHAKE: u8 = 22;
    const MAX_RECORD_BYTES: usize = 1 << 14;
    let mut hello = Vec::new();
    let mut at = 0;
    loop {
        if let Some(length) = hello_bytes(&hello) {
            let Some(length) = length else { return Opening::Other };
            if let Some(body) = hello.get(4..4 + length) {
                return server_name(body).map_or(Opening::Other, Opening::For);
            }
        }
        if bytes.get(at).is_some_and(|kind| *kind != HANDSHAKE)
            || bytes.get(at + 1).is_some_and(|major| *major != 3)
        {
            return Opening::Other;
        }
        let Some(length) = u16_at(bytes, at + 3).map(usize::from) else { return Opening::Unfinished };
        if length == 0 || length > MAX_RECORD_BYTES {
            return Opening::Other;
        }
        let end = (at + 5 + length).min(bytes.len());
        hello.extend(bytes.get(at + 5..end).unwrap_or_default());
        if end < at + 5 + length {
            let is_hello = hello.first().is_none_or(|kind| *kind == 1);
            return if is_hello { Opening::Unfinished } else { Opening::Other };
        }
        at = end;
    }
}

/// The length that a hello says it has; inside, `None` for what is no hello.
fn hello_bytes(handshake: &[u8]) -> Option<Option<usize>> {
    let head = handshake.get(..4)?;
    let length = usize::from(head[1]) << 16 | usize::from(head[2]) << 8 | usize::from(head[3]);
    Some((head[0] == 1 && length <= limits::MAX_OPENING_BYTES).then_some(length))
}

/// Takes a piece that its length stands before.
fn take<'a>(bytes: &mut &'a [u8], length_bytes: usize) -> Option<&'a [u8]> {
    let mut length = 0;
    for byte in bytes.get(..length_bytes)? {
        length = length << 8 | usize::from(*byte);
    }
    let piece = bytes.get(length_bytes..length_bytes + length)?;
    *bytes = &bytes[length_bytes + length..];
    Some(piece)
}

fn server_name(hello: &[u8]) -> Option<Name> {
    const VERSION_AND_RANDOM_BYTES: usize = 34;
    const SERVER_NAME: u16 = 0;
    let mut rest = hello.get(VERSION_AND_RANDOM_BYTES..)?;
    take(&mut rest, 1)?;
    take(&mut rest, 2)?;
    take(&mut rest, 1)?;
    let mut extensions = take(&mut rest, 2)?;
    let mut found = None;
    while !extensions.is_empty() {
        let kind = u16_at(extensions, 0)?;
        extensions = &extensions[2..];
        let mut body = take(&mut extensions, 2)?;
        if kind != SERVER_NAME {
            continue;
        }
        // Twice would let two readers see two names.
        if found.is_some() {
            return None;
        }
        let mut list = take(&mut body, 2)?;
        if *list.first()? != 0 {
            return None;
        }
        list = &list[1..];
        let name = take(&mut list, 2)?;
        if !list.is_empty() || !body.is_empty() {
            return None;
        }
        found = Some(std::str::from_utf8(name).ok()?.parse().ok()?);
    }
    found
}

fn inspect_http(bytes: &[u8]) -> Opening {
    match requests::read_head(bytes) {
        Ok(Some((_, head))) => Opening::For(head.name),
        Ok(None) => Opening::Unfinished,
        Err(requests::Unclear) => Opening::Other,
    }
}

#[cfg(test)]
mod tests;
