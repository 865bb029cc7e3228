//! The host's HTTP proxy, through which connections to names can go: who it is, whom it is not for, and what is said
//! to it and by it.
//!
//! The proxy resolves the names. The policy decides on a name alone then; addresses that a guest dials go past the
//! proxy and are decided on as ever. No error and no debug text of this module holds credentials.

use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use crate::limits;
use crate::policy::{Name, NameError};

#[cfg(test)]
mod tests;

/// A proxy that takes `CONNECT`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxy {
    host: ProxyHost,
    port: u16,
    credentials: Option<Credentials>,
    exempt: Vec<Exempt>,
}

/// Where a proxy is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyHost {
    /// At an address.
    Address(IpAddr),
    /// Where the host's resolver says.
    Name(Name),
}

/// `USER:PASSWORD` in base64, as it is sent.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Credentials(String);

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Whom a proxy is not for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Exempt {
    /// Nobody goes through it.
    All,
    /// A name and those under it, at one port or all.
    Name(Name, Option<u16>),
}

/// A text that names no proxy. None of these holds any of it: there may be a password in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// Over TLS, or another protocol.
    #[error("only proxies with http:// URLs can be used, and this one is of another kind")]
    Scheme,
    /// The host.
    #[error("the proxy's URL names no host")]
    Host(#[source] NameError),
    /// The port.
    #[error("the proxy's URL has no port from 1 to 65535")]
    Port,
    /// A bracket, a character or a percent sign that has no business there.
    #[error("the proxy's URL is not http://[USER:PASSWORD@]HOST[:PORT]")]
    Form,
    /// More than anybody means.
    #[error("the proxy's URL has more than {} bytes", limits::MAX_PROXY_URL_BYTES)]
    Length,
    /// More than anybody means.
    #[error(
        "the list of hosts without the proxy has more than {} entries or {} bytes",
        limits::MAX_PROXY_EXEMPT,
        limits::MAX_PROXY_EXEMPT_BYTES
    )]
    Exempt,
}

impl Proxy {
    /// The proxy at `url`, `http://[USER:PASSWORD@]HOST[:PORT]`, but for the names in `exempt`: commas or spaces
    /// between domains, each with all under it, perhaps with `:PORT`; `*` is all. Addresses in it mean nothing here.
    pub fn parse(url: &str, exempt: &str) -> Result<Self, ProxyError> {
        const HTTP_PORT: u16 = 80;
        if url.len() > limits::MAX_PROXY_URL_BYTES {
            return Err(ProxyError::Length);
        }
        let rest = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err(ProxyError::Scheme),
            None => url,
        };
        // A slash in a password is written %2F.
        let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        let (credentials, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(Credentials::parse(user)?), place),
            None => (None, authority),
        };
        let (host, port) = match place.strip_prefix('[') {
            Some(inner) => {
                let (host, rest) = inner.split_once(']').ok_or(ProxyError::Form)?;
                let port = if rest.is_empty() {
                    None
                } else {
                    Some(rest.strip_prefix(':').ok_or(ProxyError::Form)?)
                };
                (host, port)
            }
            None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
        };
        let host = match host.parse() {
            Ok(address) => ProxyHost::Address(address),
            Err(_) => ProxyHost::Name(host.parse().map_err(ProxyError::Host)?),
        };
        let port = match port {
            None => HTTP_PORT,
            Some(text) => text.parse().ok().filter(|port| *port > 0).ok_or(ProxyError::Port)?,
        };
        Ok(Self { host, port, credentials, exempt: parse_exempt(exempt)? })
    }

    /// Where it is.
    #[must_use]
    pub fn host(&self) -> &ProxyHost {
        &self.host
    }

    /// At which port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether connections to `port` of `name` go through it. What a name of the loopback means to the proxy is not
    /// what it means here.
    #[must_use]
    pub fn carries(&self, name: &Name, port: u16) -> bool {
        !is_local(name) && !self.exempt.iter().any(|exempt| exempt.holds(name, Some(port)))
    }

    /// Whether connections to any port of `name` go through it.
    #[must_use]
    pub fn knows(&self, name: &Name) -> bool {
        !is_local(name) && !self.exempt.iter().any(|exempt| exempt.holds(name, None))
    }

    /// What asks it for a connection.
    #[must_use]
    pub fn request(&self, name: &Name, port: u16) -> Vec<u8> {
        let mut text = format!("CONNECT {name}:{port} HTTP/1.1\r\nHost: {name}:{port}\r\n");
        if let Some(Credentials(credentials)) = &self.credentials {
            text.push_str(&format!("Proxy-Authorization: Basic {credentials}\r\n"));
        }
        text.push_str("\r\n");
        text.into_bytes()
    }
}

impl fmt::Display for Proxy {
    /// Where it is, without credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            ProxyHost::Name(name) => write!(f, "{name}:{}", self.port),
            ProxyHost::Address(IpAddr::V4(address)) => write!(f, "{address}:{}", self.port),
            ProxyHost::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
        }
    }
}

impl Credentials {
    fn parse(user: &str) -> Result<Self, ProxyError> {
        let mut plain = Vec::with_capacity(user.len());
        let mut rest = user.as_bytes();
        while let Some((byte, after)) = rest.split_first() {
            rest = after;
            if *byte != b'%' {
                plain.push(*byte);
                continue;
            }
            let digits = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
            let byte =
                digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).ok_or(ProxyError::Form)?;
            plain.push(byte);
            rest = &rest[2..];
        }
        if !plain.contains(&b':') {
            plain.push(b':');
        }
        Ok(Self(BASE64_STANDARD.encode(plain)))
    }
}

fn is_local(name: &Name) -> bool {
    name.as_str().rsplit('.').next() == Some("localhost")
}

fn parse_exempt(list: &str) -> Result<Vec<Exempt>, ProxyError> {
    if list.len() > limits::MAX_PROXY_EXEMPT_BYTES {
        return Err(ProxyError::Exempt);
    }
    let mut exempt = Vec::new();
    for entry in list.split([',', ' ', '\t']).filter(|entry| !entry.is_empty()) {
        if exempt.len() >= limits::MAX_PROXY_EXEMPT {
            return Err(ProxyError::Exempt);
        }
        if entry == "*" {
            exempt.push(Exempt::All);
            continue;
        }
        let (name, port) = match entry.split_once(':') {
            Some((name, port)) => match port.parse() {
                Ok(port) => (name, Some(port)),
                Err(_) => continue,
            },
            None => (entry, None),
        };
        let name = name.strip_prefix("*.").or_else(|| name.strip_prefix('.')).unwrap_or(name);
        // Addresses and ranges: nobody who dials one goes through the proxy.
        exempt.extend(name.parse().ok().map(|name| Exempt::Name(name, port)));
    }
    Ok(exempt)
}

impl Exempt {
    /// Whether it is about `name`, at `port`; without a port, at all of them.
    fn holds(&self, name: &Name, port: Option<u16>) -> bool {
        match self {
            Self::All => true,
            Self::Name(own, at) => (own == name || name.is_under(own)) && (at.is_none() || *at == port),
        }
    }
}

/// What a proxy has said to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyAnswer {
    /// Not enough yet.
    Unfinished,
    /// The connection is there, and its bytes begin after so many.
    Opened(usize),
    /// It will not; with its status.
    Refused(u16),
    /// It is no HTTP, or has no end.
    Other,
}

/// Looks at the first bytes that a proxy sent.
#[must_use]
pub fn inspect(bytes: &[u8]) -> ProxyAnswer {
    const VERSION: &[u8] = b"HTTP/1.";
    const END: &[u8] = b"\r\n\r\n";
    let compared = bytes.len().min(VERSION.len());
    if bytes[..compared] != VERSION[..compared] {
        return ProxyAnswer::Other;
    }
    let is_full = bytes.len() >= limits::MAX_PROXY_HEAD_BYTES;
    let unfinished = if is_full { ProxyAnswer::Other } else { ProxyAnswer::Unfinished };
    let Some(line_end) = bytes.iter().position(|byte| *byte == b'\n') else { return unfinished };
    let line = bytes[..line_end].strip_suffix(b"\r").unwrap_or(&bytes[..line_end]);
    let Some(status) = status_of(line) else { return ProxyAnswer::Other };
    match status {
        // What else of a refusal there is, nobody reads.
        300.. => ProxyAnswer::Refused(status),
        200..300 => match bytes.windows(END.len()).position(|window| window == END) {
            Some(at) => ProxyAnswer::Opened(at + END.len()),
            None => unfinished,
        },
        // Nothing was asked for that has an interim answer.
        _ => ProxyAnswer::Other,
    }
}

/// The status of a line like `HTTP/1.1 200 OK`.
fn status_of(line: &[u8]) -> Option<u16> {
    let rest = line.get("HTTP/1.x".len()..)?.strip_prefix(b" ")?;
    let (digits, after) = rest.split_at_checked(3)?;
    if !digits.iter().all(u8::is_ascii_digit) || after.first().is_some_and(|byte| *byte != b' ') {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}
