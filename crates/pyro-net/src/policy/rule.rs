//! One rule: `[PROTOCOL://](DOMAIN | *.DOMAIN | RANGE | ADDRESS)[:PORTS]`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Name, NameError, Ports, PortsError};
use crate::address::{Cidr, CidrError};
use crate::limits;

/// What carries a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP echo, of either family.
    Icmp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        })
    }
}

/// Whom a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// One name.
    Name(Name),
    /// The names under one: `*.example.com`, not `example.com`.
    Under(Name),
    /// Addresses; one address is the range of itself.
    Range(Cidr),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "{name}"),
            Self::Under(name) => write!(f, "*.{name}"),
            Self::Range(range) if range.is_host() => write!(f, "{}", range.network()),
            Self::Range(range) => write!(f, "{range}"),
        }
    }
}

/// A rule that allows or denies, depending on the list it stands in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rule {
    /// What carries the flow; `None` is anything.
    pub protocol: Option<Protocol>,
    /// Whom it goes to.
    pub target: Target,
    /// At which ports.
    pub ports: Ports,
}

/// A text that is no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Nothing, or more than a rule can be.
    #[error("a network rule has 1 to {most} characters", most = limits::MAX_RULE_BYTES)]
    Length,
    /// `scheme://` of something that is not carried.
    #[error("\"{0}\" is not a protocol of network rules: tcp, udp or icmp")]
    Protocol(String),
    /// A path or user behind or before the host.
    #[error("\"{0}\" is a URL: a network rule is DOMAIN, *.DOMAIN, ADDRESS or RANGE, with :PORTS behind it")]
    Url(String),
    /// A star that is not the whole first part.
    #[error("\"{0}\" has a star that is not its first part: only *.DOMAIN is a pattern")]
    Star(String),
    /// A bracket without its other.
    #[error("\"{0}\" is not an IPv6 address or range in brackets with :PORTS behind it")]
    Brackets(String),
    /// Echo has no ports.
    #[error("icmp has no ports")]
    IcmpPorts,
    /// The name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The range.
    #[error(transparent)]
    Range(#[from] CidrError),
    /// The ports.
    #[error(transparent)]
    Ports(#[from] PortsError),
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let text = text.trim();
        if text.is_empty() || text.len() > limits::MAX_RULE_BYTES {
            return Err(RuleError::Length);
        }
        let (protocol, rest) = match text.split_once("://") {
            Some(("tcp", rest)) => (Some(Protocol::Tcp), rest),
            Some(("udp", rest)) => (Some(Protocol::Udp), rest),
            Some(("icmp", rest)) => (Some(Protocol::Icmp), rest),
            Some(("http" | "https" | "ssh" | "git" | "ws" | "wss", _)) => {
                return Err(RuleError::Url(text.to_owned()));
            }
            Some((other, _)) => return Err(RuleError::Protocol(other.to_owned())),
            None => (None, text),
        };
        let (host, ports) = split_ports(rest)?;
        let target = parse_target(host, text)?;
        let ports = ports.map_or(Ok(Ports::all()), str::parse)?;
        if protocol == Some(Protocol::Icmp) && !ports.is_all() {
            return Err(RuleError::IcmpPorts);
        }
        Ok(Self { protocol, target, ports })
    }
}

/// Parts the host from its ports. An IPv6 address has colons of its own: with ports it stands in brackets.
fn split_ports(text: &str) -> Result<(&str, Option<&str>), RuleError> {
    let brackets = || RuleError::Brackets(text.to_owned());
    if let Some(inner) = text.strip_prefix('[') {
        let (host, rest) = inner.split_once(']').ok_or_else(brackets)?;
        let address = host.split_once('/').map_or(host, |(address, _)| address);
        if address.parse::<Ipv6Addr>().is_err() {
            return Err(brackets());
        }
        return match rest.strip_prefix(':') {
            Some(ports) => Ok((host, Some(ports))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(brackets()),
        };
    }
    if text.matches(':').count() > 1 {
        return Ok((text, None));
    }
    Ok(text.split_once(':').map_or((text, None), |(host, ports)| (host, Some(ports))))
}

fn parse_target(host: &str, text: &str) -> Result<Target, RuleError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(Target::Range(Cidr::host(address)));
    }
    if let Some((address, bits)) = host.split_once('/') {
        // A path behind a name is a URL; a slash behind anything like an address is a range.
        let is_range = address.parse::<IpAddr>().is_ok() || bits.bytes().all(|byte| byte.is_ascii_digit());
        return if is_range {
            Ok(Target::Range(host.parse()?))
        } else {
            Err(RuleError::Url(text.to_owned()))
        };
    }
    if host.contains('@') {
        return Err(RuleError::Url(text.to_owned()));
    }
    if let Some(under) = host.strip_prefix("*.") {
        if under.contains('*') {
            return Err(RuleError::Star(text.to_owned()));
        }
        return Ok(Target::Under(under.parse()?));
    }
    if host.contains('*') {
        return Err(RuleError::Star(text.to_owned()));
    }
    Ok(Target::Name(host.parse()?))
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(protocol) = self.protocol {
            write!(f, "{protocol}://")?;
        }
        if self.ports.is_all() {
            return write!(f, "{}", self.target);
        }
        match &self.target {
            Target::Range(range) if range.network().is_ipv6() => {
                write!(f, "[{}]:{}", self.target, self.ports)
            }
            Target::Range(_) | Target::Name(_) | Target::Under(_) => {
                write!(f, "{}:{}", self.target, self.ports)
            }
        }
    }
}

impl TryFrom<String> for Rule {
    type Error = RuleError;

    fn try_from(text: String) -> Result<Self, RuleError> {
        text.parse()
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> Self {
        rule.to_string()
    }
}
