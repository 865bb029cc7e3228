//! What was denied, told to whoever's command did it, and what was reached.

use crate::limits::{REMEMBERED_CONTACTS, REMEMBERED_DENIALS, TOLD_DENIALS};
use pyro_net::event::Subject;
use pyro_net::policy::{Decision, Protocol, Reason, Rule, Verdict};
use pyro_net::{End, FlowEvent};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Something that a guest wanted to reach and may not, however often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkDenial {
    /// `tcp`, `udp` or `icmp`; `dns` where only a name was asked for.
    pub protocol: String,
    /// `HOST:PORT`, by name where the guest knew one; a name alone where only that was asked for.
    pub destination: String,
    /// The address that was decided on.
    pub address: Option<SocketAddr>,
    /// What decided, in words.
    pub reason: String,
    /// The rule that decided; `None` where the policy did without one.
    pub rule: Option<Rule>,
    /// The smallest rule that would have allowed it, if any can.
    pub allow_with: Option<Rule>,
    /// What would have allowed it, in words, where no rule would.
    #[serde(default)]
    pub hint: Option<String>,
    /// How often, as far as it is remembered.
    pub count: u64,
}

impl NetworkDenial {
    /// What `event` tells, if it was denied.
    pub fn of(event: &FlowEvent) -> Option<Self> {
        if event.verdict == Verdict::Allow {
            return None;
        }
        let at = event.dialled.unwrap_or(event.destination);
        let is_question = event.subject == Subject::Name;
        let (protocol, destination) = match (event.names.first(), event.protocol) {
            (Some(name), _) if is_question => ("dns".to_owned(), name.to_string()),
            (Some(name), Protocol::Icmp) => (event.protocol.to_string(), name.to_string()),
            (None, Protocol::Icmp) => (event.protocol.to_string(), at.ip().to_string()),
            (Some(name), Protocol::Tcp | Protocol::Udp) => {
                (event.protocol.to_string(), format!("{name}:{}", at.port()))
            }
            (None, Protocol::Tcp | Protocol::Udp) => (event.protocol.to_string(), at.to_string()),
        };
        Some(Self {
            protocol,
            destination,
            address: (!is_question && event.proxied.is_none()).then_some(at),
            reason: reason(event),
            rule: event.rule.clone(),
            allow_with: event.smallest_rule_that_would_allow.clone(),
            hint: hint(event).map(str::to_owned),
            count: 1,
        })
    }

    fn is_like(&self, other: &Self) -> bool {
        (&self.protocol, &self.destination, self.address, &self.reason)
            == (&other.protocol, &other.destination, other.address, &other.reason)
    }
}

fn reason(event: &FlowEvent) -> String {
    let text = match (event.end, event.reason) {
        (End::Denied, Some(reason)) => decision_text(reason, event.rule.clone()),
        (End::RefusedByProxy, _) => event.proxied.unwrap_or_default().refusal(),
        (end, _) => end.to_string(),
    };
    let plain = text.strip_prefix("denied").map(|rest| rest.trim_start_matches([':', ' ']).to_owned());
    match plain {
        Some(plain) if !plain.is_empty() => plain,
        Some(_) | None => text,
    }
}

/// What to do about it where no rule helps.
fn hint(event: &FlowEvent) -> Option<&'static str> {
    match (event.end, event.reason) {
        (End::BytesUsedUp, _) => Some("a higher --egress-limit"),
        (End::Denied, Some(Reason::Off)) => Some("another --network-policy"),
        _ => None,
    }
}

fn decision_text(reason: Reason, rule: Option<Rule>) -> String {
    Decision { verdict: Verdict::Deny, reason, rule, smallest_rule_that_would_allow: None }.to_string()
}

impl fmt::Display for NetworkDenial {
    /// One line: what, why, by which rule, and what to do about it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "denied {} {}", self.protocol, self.destination)?;
        if let Some(address) = self.address.filter(|at| !self.destination.contains(&at.ip().to_string())) {
            write!(f, " ({})", address.ip())?;
        }
        write!(f, ": {}", self.reason)?;
        if self.count > 1 {
            write!(f, " ({} times)", self.count)?;
        }
        match &self.rule {
            Some(rule) => write!(f, " rule={rule}")?,
            None => f.write_str(" rule=none")?,
        }
        match (&self.allow_with, &self.hint) {
            (Some(rule), _) => write!(f, " allow with: --allow {rule}"),
            (None, Some(hint)) => write!(f, " allow with: {hint}"),
            (None, None) => Ok(()),
        }
    }
}

/// What was denied in a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkDenials {
    /// Each once, the first first.
    pub denials: Vec<NetworkDenial>,
    /// Whether there were more than are remembered or told.
    pub truncated: bool,
    /// What comes later has this number or a higher one.
    pub(crate) next: u64,
}

impl NetworkDenials {
    /// These as an event's detail about command `sequence`, as many as `most_bytes` have room for; `None` where
    /// nothing was denied.
    pub(crate) fn detail(&self, sequence: u64, most_bytes: usize) -> Option<Value> {
        if self.denials.is_empty() && !self.truncated {
            return None;
        }
        let mut count = self.denials.len();
        loop {
            let denials = &self.denials[..count];
            let destinations: Vec<&String> = denials.iter().map(|denial| &denial.destination).collect();
            let truncated = self.truncated || count < self.denials.len();
            let detail = json!({
                "sequence": sequence,
                "destinations": destinations,
                "denials": denials,
                "truncated": truncated,
            });
            if count == 0 || detail.to_string().len() <= most_bytes {
                return Some(detail);
            }
            count -= 1;
        }
    }

    /// The command that an event's detail is about, and what was denied meanwhile. Events of before it was kept
    /// with them have the destinations alone.
    pub(crate) fn of_detail(detail: &Value) -> Option<(u64, Self)> {
        let sequence = detail.get("sequence")?.as_u64()?;
        let denials: Option<Vec<NetworkDenial>> =
            detail.get("denials").and_then(|denials| serde_json::from_value(denials.clone()).ok());
        let truncated = detail.get("truncated").and_then(Value::as_bool).unwrap_or(true);
        Some((
            sequence,
            Self { truncated: truncated || denials.is_none(), denials: denials.unwrap_or_default(), next: 0 },
        ))
    }
}

/// What a guest has reached, or has tried to without being denied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkContacts {
    /// The rules that open it and nothing else.
    pub rules: Vec<Rule>,
    /// Whether there was more.
    pub truncated: bool,
}

impl NetworkContacts {
    fn note(&mut self, event: &FlowEvent) {
        self.truncated |= event.left_out > 0;
        // What went through a proxy has a name, and its port is the guest's.
        let at = event.dialled.or(event.proxied.map(|_| event.destination));
        let Some(at) = at.filter(|_| event.verdict == Verdict::Allow) else { return };
        let host = match (event.names.first(), at.ip()) {
            (Some(name), _) => name.to_string(),
            (None, IpAddr::V4(address)) => address.to_string(),
            (None, IpAddr::V6(address)) => format!("[{address}]"),
        };
        let text = match event.protocol {
            Protocol::Tcp | Protocol::Udp => format!("{}://{host}:{}", event.protocol, at.port()),
            Protocol::Icmp => format!("{}://{host}", event.protocol),
        };
        match text.parse() {
            Ok(rule) if self.rules.contains(&rule) => {}
            Ok(rule) if self.rules.len() < REMEMBERED_CONTACTS => self.rules.push(rule),
            Ok(_) | Err(_) => self.truncated = true,
        }
    }
}

/// What a machine's network remembers of what it denied, and of what it carried.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// With the number of its last time, which grows.
    denials: VecDeque<(u64, NetworkDenial)>,
    next: u64,
    /// What has this number or a higher one is remembered.
    complete_from: u64,
    contacts: NetworkContacts,
}

impl Memory {
    /// Takes note of `event`, if it was denied.
    pub(crate) fn note(&mut self, event: &FlowEvent) {
        self.contacts.note(event);
        if event.left_out > 0 {
            // Among them may have been denials.
            self.next += 1;
            self.complete_from = self.next;
        }
        let Some(mut denial) = NetworkDenial::of(event) else { return };
        if let Some(at) = self.denials.iter().position(|(_, known)| known.is_like(&denial))
            && let Some((_, known)) = self.denials.remove(at)
        {
            denial.count += known.count;
        }
        if self.denials.len() >= REMEMBERED_DENIALS
            && let Some((number, _)) = self.denials.pop_front()
        {
            self.complete_from = self.complete_from.max(number + 1);
        }
        self.denials.push_back((self.next, denial));
        self.next += 1;
    }

    /// What was reached, as far as it has ended.
    pub(crate) fn contacts(&self) -> NetworkContacts {
        self.contacts.clone()
    }

    /// What was denied since number `from`.
    pub(crate) fn since(&self, from: u64) -> NetworkDenials {
        let mut found = self.denials.iter().filter(|(number, _)| *number >= from).map(|(_, one)| one.clone());
        let denials = found.by_ref().take(TOLD_DENIALS).collect();
        let truncated = found.next().is_some() || self.complete_from > from;
        NetworkDenials { denials, truncated, next: self.next }
    }
}
