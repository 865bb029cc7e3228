//! Ports of a guest that are to be published on the host's loopback.

use super::ServiceSyntaxError;
use crate::limits::{
    self, GUEST_PORT, HOST_PORT, OutOfRange, PUBLISH_IDLE_SECONDS, PUBLISH_MAX_CONNECTIONS, PUBLISHED_PORTS,
};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A port of the guest, and the host's port that leads there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRequest {
    /// `None` is one that is free.
    pub host_port: Option<u16>,
    /// The guest's.
    pub guest_port: u16,
}

/// Bounds of each port that a service publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortLimits {
    /// Connections at a time; more wait.
    pub max_connections: u64,
    /// How long nothing may move on one; 0 is for ever.
    pub idle_seconds: u64,
}

impl Default for PortLimits {
    fn default() -> Self {
        let pyro_proxy::Limits { connections, idle, .. } = pyro_proxy::Limits::default();
        Self { max_connections: connections as u64, idle_seconds: idle.map_or(0, |idle| idle.as_secs()) }
    }
}

impl PortLimits {
    /// Refuses numbers that are out of bounds.
    pub fn check(&self) -> Result<(), OutOfRange> {
        limits::check("publish_max_connections", self.max_connections, &PUBLISH_MAX_CONNECTIONS)?;
        if self.idle_seconds > 0 {
            limits::check("publish_idle_seconds", self.idle_seconds, &PUBLISH_IDLE_SECONDS)?;
        }
        Ok(())
    }

    /// As the proxy takes them.
    pub(crate) fn of_proxy(self) -> pyro_proxy::Limits {
        pyro_proxy::Limits {
            connections: usize::try_from(self.max_connections).unwrap_or(usize::MAX),
            idle: (self.idle_seconds > 0).then(|| Duration::from_secs(self.idle_seconds)),
            ..pyro_proxy::Limits::default()
        }
    }
}

/// A port of the host that leads to a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// `127.0.0.1`.
    pub host: String,
    /// The host's port.
    pub host_port: u16,
    /// The guest's.
    pub guest_port: u16,
    /// `tcp`.
    pub protocol: String,
}

impl fmt::Display for PublishedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}->{}/{}", self.host, self.host_port, self.guest_port, self.protocol)
    }
}

impl FromStr for PortRequest {
    type Err = ServiceSyntaxError;

    fn from_str(text: &str) -> Result<Self, ServiceSyntaxError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(ServiceSyntaxError::EmptyPort);
        }
        let unknown = || ServiceSyntaxError::Port(text.escape_debug().to_string());
        // `parse` takes a sign, which no port has.
        let number = |part: &str| match part.bytes().all(|byte| byte.is_ascii_digit()) {
            true => part.parse::<u64>().map_err(|_| unknown()),
            false => Err(unknown()),
        };
        let port = |name, part: &str, range| {
            let number = limits::check(name, number(part)?, range)?;
            Ok::<_, ServiceSyntaxError>(u16::try_from(number).expect("ports are checked to have 16 bits"))
        };
        let (host, guest) = match text.split_once(':') {
            Some((host, guest)) => (Some(host), guest),
            None => (None, text),
        };
        Ok(Self {
            guest_port: port("published guest_port", guest, &GUEST_PORT)?,
            host_port: host.map(|host| port("published host_port", host, &HOST_PORT)).transpose()?,
        })
    }
}

impl fmt::Display for PortRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_port {
            Some(host) => write!(f, "{host}:{}", self.guest_port),
            None => write!(f, "{}", self.guest_port),
        }
    }
}

/// Refuses ports that cannot be published together.
pub fn distinct_ports(ports: &[PortRequest]) -> Result<(), ServiceSyntaxError> {
    if ports.len() > PUBLISHED_PORTS {
        return Err(ServiceSyntaxError::TooManyPorts(ports.len()));
    }
    for (at, port) in ports.iter().enumerate() {
        for other in &ports[..at] {
            match (port == other, port.host_port) {
                (true, _) => return Err(ServiceSyntaxError::PortTwice(port.to_string())),
                (false, Some(host)) if other.host_port == Some(host) => {
                    return Err(ServiceSyntaxError::HostPortTwice(host));
                }
                (false, _) => {}
            }
        }
    }
    Ok(())
}
