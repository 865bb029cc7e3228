//! What tells that a service is ready.

use super::ServiceSyntaxError;
use crate::limits::READINESS_BYTES;
use pyro_agent::wire::{GuestPath, Probe};
use serde::{Deserialize, Serialize};

/// What tells that a service is ready, as callers say it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Readiness {
    /// A file is there.
    File {
        /// Where, at or below `/workspace`.
        path: String,
    },
    /// A port of the guest takes connections.
    Tcp {
        /// `HOST:PORT`.
        address: String,
    },
    /// A GET in the guest is answered with a status from 200 to 399.
    Http {
        /// `http://HOST[:PORT][/PATH]`.
        url: String,
    },
    /// A command exits with 0.
    Command {
        /// As a shell takes it.
        command: String,
    },
}

/// How readiness is found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// The agent does it by itself.
    Probe(Probe),
    /// This text is run by a shell.
    Command(String),
}

impl Readiness {
    /// Its kind, as it is shown.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File { .. } => "file",
            Self::Tcp { .. } => "tcp",
            Self::Http { .. } => "http",
            Self::Command { .. } => "command",
        }
    }

    /// What it is about: a path, an address, a URL, a command.
    pub fn target(&self) -> &str {
        match self {
            Self::File { path } => path,
            Self::Tcp { address } => address,
            Self::Http { url } => url,
            Self::Command { command } => command,
        }
    }

    /// Checks what was said.
    pub fn check(&self) -> Result<(), ServiceSyntaxError> {
        self.parse().map(|_| ())
    }

    pub(crate) fn parse(&self) -> Result<Check, ServiceSyntaxError> {
        let what = match self {
            Self::File { .. } => "path",
            Self::Tcp { .. } => "address",
            Self::Http { .. } => "url",
            Self::Command { .. } => "command",
        };
        let text = self.target();
        if text.trim().is_empty() {
            return Err(ServiceSyntaxError::Empty(what));
        }
        if text.len() > READINESS_BYTES {
            return Err(ServiceSyntaxError::TooLong { what, bytes: text.len() });
        }
        Ok(match self {
            Self::File { path } => Check::Probe(Probe::File { path: GuestPath::from(path.as_str()) }),
            Self::Tcp { address } => {
                let bad = || ServiceSyntaxError::Address(address.escape_debug().to_string());
                let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
                let (host, port) = (host_name(host).ok_or_else(bad)?, port_number(port).ok_or_else(bad)?);
                Check::Probe(Probe::Tcp { host, port })
            }
            Self::Http { url } => Check::Probe(http(url)?),
            Self::Command { command } => Check::Command(command.clone()),
        })
    }
}

fn http(url: &str) -> Result<Probe, ServiceSyntaxError> {
    let bad = || ServiceSyntaxError::Url(url.escape_debug().to_string());
    let scheme = |name: &str| url.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    if scheme("https://") {
        return Err(ServiceSyntaxError::Https(url.escape_debug().to_string()));
    }
    if !scheme("http://") || !url.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(bad());
    }
    let rest = &url["http://".len()..];
    // A fragment is the reader's own.
    let rest = rest.split('#').next().unwrap_or_default();
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(at);
    let is_bracketed = authority.ends_with(']');
    let (host, port) = match authority.rsplit_once(':').filter(|_| !is_bracketed) {
        Some((host, port)) => (host, port_number(port).ok_or_else(bad)?),
        None => (authority, 80),
    };
    let target = match target.starts_with('/') {
        true => target.to_owned(),
        false => format!("/{target}"),
    };
    Ok(Probe::Http { host: host_name(host).ok_or_else(bad)?, port, target })
}

/// A host without the brackets that an IPv6 address has beside a port.
fn host_name(text: &str) -> Option<String> {
    if let Some(address) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().ok().map(|address| address.to_string());
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    (!text.is_empty() && text.len() <= 253 && text.chars().all(is_name)).then(|| text.to_owned())
}

fn port_number(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| is_number && *port != 0)
}
