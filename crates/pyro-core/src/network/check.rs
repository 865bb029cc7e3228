//! What a policy says of a destination, before anything is opened.

use crate::limits::CHECKED_ADDRESSES;
use crate::problem::{Blame, Explain, Problem};
use pyro_net::policy::{Decision, Flow, Name, NameError, Policy, Protocol, Rule};
use pyro_net::{Dialer, HostDialer, Proxy};
use serde::Serialize;
use std::net::{IpAddr, ToSocketAddrs};

/// What cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// No port is said or known.
    #[error("'{0}' names no port: use HOST:PORT, or a URL of http, https, ssh, git, ftp, ws or wss")]
    NoPort(String),
    /// The port is none.
    #[error("'{0}' has no port from 1 to 65535")]
    Port(String),
    /// The host is none.
    #[error("'{text}' names no host")]
    Host {
        /// What was given.
        text: String,
        /// Why its host is none.
        source: NameError,
    },
}

impl Explain for CheckError {
    fn explain(&self) -> Problem {
        Problem::new("invalid_destination", Blame::Caller, self)
            .with_hint("for example https://api.example.com/, or 10.0.0.5:5432, or udp://[fd00::1]:123")
    }
}

/// What a policy says of a destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NetworkCheck {
    /// As it was understood: `PROTOCOL://HOST:PORT`.
    pub destination: String,
    /// Whether it may be reached: a name, at one of its addresses at least.
    pub allowed: bool,
    /// Why, in words.
    pub reason: String,
    /// The rule that decided; `None` where the policy did without one.
    pub rule: Option<Rule>,
    /// The smallest rule that would allow it.
    pub allow_with: Option<Rule>,
    /// The name's addresses as this host resolves it now, each with its own decision.
    pub addresses: Vec<CheckedAddress>,
    /// The host's proxy, where the connection would go through it, which finds the address then.
    pub proxy: Option<String>,
}

/// What a policy says of one address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckedAddress {
    /// The address.
    pub address: IpAddr,
    /// Whether it may be reached.
    pub allowed: bool,
    /// Why, in words.
    pub reason: String,
    /// The rule that decided.
    pub rule: Option<Rule>,
    /// The smallest rule that would allow it.
    pub allow_with: Option<Rule>,
}

struct Destination {
    protocol: Protocol,
    host: String,
    port: u16,
}

/// Decides on `text`, `HOST:PORT` or a URL. A name that may be asked for is looked up as the host does, but not one
/// that goes through `proxy`; nothing else is sent.
///
/// ```
/// use pyro_core::network::{NetworkRules, check, enforced, parse_rule};
/// use pyro_core::store::NetworkPolicy;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let rules = NetworkRules { allow: vec![parse_rule("allow", "10.0.0.5:5432")?], ..NetworkRules::default() };
/// let policy = enforced(NetworkPolicy::Egress, &rules);
/// assert!(check(&policy, None, "10.0.0.5:5432")?.allowed);
/// assert!(!check(&policy, None, "10.0.0.5:22")?.allowed);
/// # Ok(())
/// # }
/// ```
pub fn check(policy: &Policy, proxy: Option<&Proxy>, text: &str) -> Result<NetworkCheck, CheckError> {
    check_with(policy, proxy, text, &mut HostDialer, &look_up)
}

pub(super) fn check_with(
    policy: &Policy,
    proxy: Option<&Proxy>,
    text: &str,
    dialer: &mut dyn Dialer,
    look_up: &dyn Fn(&str) -> Vec<IpAddr>,
) -> Result<NetworkCheck, CheckError> {
    let to = parse(text)?;
    let mut decide = |address: IpAddr, names: Vec<Name>| {
        let is_hosts = dialer.is_hosts(address);
        policy.decide(&Flow { protocol: to.protocol, address, port: to.port, names, is_hosts })
    };
    if let Ok(address) = to.host.parse::<IpAddr>() {
        return Ok(told(&to, &decide(address, Vec::new()), Vec::new()));
    }
    let name: Name = to.host.parse().map_err(|source| CheckError::Host { text: text.to_owned(), source })?;
    let known = policy.decide_name(&name);
    if !known.is_allowed() {
        return Ok(NetworkCheck { allow_with: smallest(&to, &known), ..told(&to, &known, Vec::new()) });
    }
    if let Some(proxy) = proxy.filter(|proxy| to.protocol == Protocol::Tcp && proxy.carries(&name, to.port)) {
        let decision = policy.decide_named(to.protocol, &name, to.port);
        return Ok(NetworkCheck { proxy: Some(proxy.to_string()), ..told(&to, &decision, Vec::new()) });
    }
    let decisions: Vec<(IpAddr, Decision)> = look_up(name.as_str())
        .into_iter()
        .take(CHECKED_ADDRESSES)
        .map(|address| (address, decide(address, vec![name.clone()])))
        .collect();
    let addresses = decisions.iter().map(|(address, decision)| CheckedAddress {
        address: *address,
        allowed: decision.is_allowed(),
        reason: decision.to_string(),
        rule: decision.rule.clone(),
        allow_with: decision.smallest_rule_that_would_allow.clone(),
    });
    let addresses: Vec<CheckedAddress> = addresses.collect();
    // Guests are told only addresses that they may reach, so one of these is enough.
    let first = decisions.iter().find(|(_, decision)| decision.is_allowed()).or(decisions.first());
    Ok(match first {
        Some((_, decision)) if decision.is_allowed() && addresses.iter().any(|one| !one.allowed) => {
            NetworkCheck {
                reason: format!("{decision}, but not at each of its addresses"),
                ..told(&to, decision, addresses)
            }
        }
        Some((_, decision)) => told(&to, decision, addresses),
        None => NetworkCheck {
            reason: format!("{known}, but this host finds no address for it"),
            ..told(&to, &known, addresses)
        },
    })
}

/// A name's denial is about all of it; what was asked for is one port.
fn smallest(to: &Destination, decision: &Decision) -> Option<Rule> {
    let whole = decision.smallest_rule_that_would_allow.as_ref()?;
    let narrow = format!("{}://{}:{}", to.protocol, whole.target, to.port);
    Some(narrow.parse().unwrap_or_else(|_| whole.clone()))
}

fn told(to: &Destination, decision: &Decision, addresses: Vec<CheckedAddress>) -> NetworkCheck {
    let host = if to.host.contains(':') { format!("[{}]", to.host) } else { to.host.clone() };
    NetworkCheck {
        destination: format!("{}://{host}:{}", to.protocol, to.port),
        allowed: decision.is_allowed(),
        reason: decision.to_string(),
        rule: decision.rule.clone(),
        allow_with: decision.smallest_rule_that_would_allow.clone(),
        addresses,
        proxy: None,
    }
}

fn parse(text: &str) -> Result<Destination, CheckError> {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
        None => (None, text),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (host, port) = match authority.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':')),
        // More than one colon is an IPv6 address by itself.
        None if authority.matches(':').count() > 1 => (authority, None),
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let protocol = if scheme.as_deref() == Some("udp") { Protocol::Udp } else { Protocol::Tcp };
    let known = match scheme.as_deref() {
        Some("http" | "ws") => Some(80),
        Some("https" | "wss") => Some(443),
        Some("ssh" | "sftp") => Some(22),
        Some("git") => Some(9418),
        Some("ftp") => Some(21),
        Some(_) | None => None,
    };
    let port = match (port, known) {
        (Some(port), _) => port.parse().ok().filter(|port| *port > 0),
        (None, Some(port)) => Some(port),
        (None, None) => return Err(CheckError::NoPort(text.to_owned())),
    };
    let port = port.ok_or_else(|| CheckError::Port(text.to_owned()))?;
    Ok(Destination { protocol, host: host.to_owned(), port })
}

fn look_up(name: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for address in (name, 0).to_socket_addrs().into_iter().flatten().map(|at| at.ip().to_canonical()) {
        if !found.contains(&address) {
            found.push(address);
        }
    }
    found
}
