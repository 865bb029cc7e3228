//! The decision on one flow.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Mode, Name, Policy, Ports, Protocol, Rule, Target, encrypted_dns};
use crate::address::{self, Cidr, Kind};

/// Whether a flow may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It may.
    Allow,
    /// It may not.
    Deny,
}

/// A flow as a decision sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// What carries it.
    pub protocol: Protocol,
    /// The address that is dialled.
    pub address: IpAddr,
    /// The port; 0 for echo.
    pub port: u16,
    /// Under which names the guest got this address.
    pub names: Vec<Name>,
    /// Whether the address is one of the host's own.
    pub is_hosts: bool,
}

/// What decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "cause", content = "kind")]
pub enum Reason {
    /// A rule names it.
    Rule,
    /// The policy is `egress` and the address public.
    Public,
    /// The policy is `off`.
    Off,
    /// The address is not public, and no rule opens it.
    NotPublic(Kind),
    /// The address is the host's own, and no rule opens it.
    Host,
    /// The policy is a list, and it is not on it.
    NotListed,
    /// Names are asked for where nobody can read it, and no rule opens that.
    EncryptedDns,
}

/// The decision on one flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether it may be.
    pub verdict: Verdict,
    /// What decided.
    pub reason: Reason,
    /// The rule that decided, if one did.
    pub rule: Option<Rule>,
    /// For a denied flow, the narrowest rule that would allow it, if any can.
    pub smallest_rule_that_would_allow: Option<Rule>,
}

impl Decision {
    /// Whether the flow may be.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.verdict == Verdict::Allow
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.is_allowed() { "allowed" } else { "denied" };
        match (self.reason, &self.rule) {
            (Reason::Rule, Some(rule)) => write!(f, "{verb} by the rule {rule}"),
            (Reason::Rule, None) => write!(f, "{verb} by a rule"),
            (Reason::Public, _) => write!(f, "{verb} by the policy egress"),
            (Reason::Off, _) => write!(f, "{verb}: the network policy is off"),
            (Reason::NotPublic(kind), _) => write!(f, "{verb}: its address is not public ({kind})"),
            (Reason::Host, _) => write!(f, "{verb}: its address is one of the host's own"),
            (Reason::NotListed, _) => write!(f, "{verb}: no rule allows it"),
            (Reason::EncryptedDns, _) => {
                write!(
                    f,
                    "{verb}: encrypted DNS needs a rule of its own; the gateway answers questions for names"
                )
            }
        }
    }
}

/// How narrow a rule's target is. Names and ranges cannot be compared but for one of each.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Width {
    /// One name or one address.
    One,
    /// Names under one of so many parts.
    Under(usize),
    /// Addresses with so many bits in common.
    Range(u8),
}

impl Width {
    fn of(target: &Target) -> Self {
        match target {
            Target::Name(_) => Self::One,
            Target::Under(name) => Self::Under(name.labels()),
            Target::Range(range) if range.is_host() => Self::One,
            Target::Range(range) => Self::Range(range.prefix_bits()),
        }
    }

    fn is_narrower_than(self, other: Self) -> bool {
        match (self, other) {
            (Self::One, Self::Under(_) | Self::Range(_)) => true,
            (Self::Under(own), Self::Under(theirs)) => own > theirs,
            (Self::Range(own), Self::Range(theirs)) => own > theirs,
            (Self::One | Self::Under(_) | Self::Range(_), _) => false,
        }
    }
}

impl Rule {
    /// Whether it is strictly more specific than `other`: by its target, then its ports, then its protocol.
    pub(super) fn outranks(&self, other: &Self) -> bool {
        let (own, theirs) = (Width::of(&self.target), Width::of(&other.target));
        if own.is_narrower_than(theirs) {
            return true;
        }
        if own != theirs {
            return false;
        }
        let (own, theirs) = (self.ports.count(), other.ports.count());
        own < theirs || (own == theirs && self.protocol.is_some() && other.protocol.is_none())
    }

    pub(super) fn carries(&self, protocol: Protocol, port: u16) -> bool {
        self.protocol.is_none_or(|own| own == protocol)
            && match protocol {
                Protocol::Tcp | Protocol::Udp => self.ports.contains(port),
                Protocol::Icmp => self.ports.is_all(),
            }
    }

    /// Whether it closes `flow`: what it names is closed, whatever address or form of it is used.
    fn closes(&self, flow: &Flow) -> bool {
        let names = match &self.target {
            Target::Name(name) => flow.names.contains(name),
            Target::Under(parent) => flow.names.iter().any(|name| name.is_under(parent)),
            Target::Range(range) => {
                range.contains(flow.address)
                    || address::embedded_v4(flow.address).is_some_and(|inner| range.contains(inner.into()))
            }
        };
        names && self.carries(flow.protocol, flow.port)
    }

    /// Whether it opens `flow`. Addresses that are not public are opened only by those who can mean them: a range
    /// that lies wholly in their block, or, for the kinds that names may lead to, exactly their name. The host's own
    /// addresses are opened one by one, but for its loopback.
    fn opens(&self, flow: &Flow) -> bool {
        self.reaches(flow.address, &flow.names, flow.is_hosts) && self.carries(flow.protocol, flow.port)
    }

    fn reaches(&self, address: IpAddr, names: &[Name], is_hosts: bool) -> bool {
        let block = address::block_of(address);
        match &self.target {
            Target::Name(name) => {
                names.contains(name) && !is_hosts && block.is_none_or(|block| block.kind.is_open_to_names())
            }
            Target::Under(parent) => {
                names.iter().any(|name| name.is_under(parent)) && !is_hosts && block.is_none()
            }
            Target::Range(range) => {
                range.contains(address)
                    && (!is_hosts
                        || range.is_host()
                        || block.is_some_and(|block| block.kind == Kind::Loopback))
                    && block.is_none_or(|block| block.range.covers(*range) || range.is_host())
            }
        }
    }
}

impl Policy {
    /// Decides on `flow`, in this order:
    ///
    /// 1. Under `off` nothing may be.
    /// 2. A rule that denies counts unless a rule that allows is strictly more specific: one name or address before
    ///    a pattern or range, a longer one before a shorter, then fewer ports, then a named protocol. Where neither
    ///    is more specific, as between a pattern and a range, denial wins.
    /// 3. A rule that allows and is not beaten counts.
    /// 4. Without rules, `egress` allows public addresses that are not the host's own, except for encrypted DNS. A
    ///    list allows nothing.
    #[must_use]
    pub fn decide(&self, flow: &Flow) -> Decision {
        if self.mode == Mode::Off {
            return denied(Reason::Off, None, None);
        }
        let closing: Vec<&Rule> = self.deny.iter().filter(|rule| rule.closes(flow)).collect();
        let opening = self.allow.iter().filter(|rule| rule.opens(flow));
        let wins = |rule: &&Rule| closing.iter().all(|closing| rule.outranks(closing));
        if let Some(rule) = narrowest(opening.filter(wins)) {
            return Decision {
                verdict: Verdict::Allow,
                reason: Reason::Rule,
                rule: Some(rule.clone()),
                smallest_rule_that_would_allow: None,
            };
        }
        let smallest =
            smallest_rule(flow).filter(|rule| closing.iter().all(|closing| rule.outranks(closing)));
        if let Some(rule) = narrowest(closing.iter().copied()) {
            return denied(Reason::Rule, Some(rule.clone()), smallest);
        }
        let reason = match (address::block_of(flow.address), flow.is_hosts, self.mode) {
            (Some(block), _, _) => Reason::NotPublic(block.kind),
            (None, true, _) => Reason::Host,
            (None, false, Mode::AllowList | Mode::Off) => Reason::NotListed,
            (None, false, Mode::Egress) if encrypted_dns::is_it(flow.protocol, flow.port, &flow.names) => {
                Reason::EncryptedDns
            }
            (None, false, Mode::Egress) => {
                return Decision {
                    verdict: Verdict::Allow,
                    reason: Reason::Public,
                    rule: None,
                    smallest_rule_that_would_allow: None,
                };
            }
        };
        denied(reason, None, smallest)
    }

    /// Whether `name` may be asked for. A denial without ports is one of the name itself; in a list, a name is
    /// known when a rule opens anything of it, and so is always the name of a server of encrypted DNS.
    #[must_use]
    pub fn decide_name(&self, name: &Name) -> Decision {
        let about = |rule: &&Rule| match &rule.target {
            Target::Name(own) => own == name,
            Target::Under(parent) => name.is_under(parent),
            Target::Range(_) => false,
        };
        let closing: Vec<&Rule> = self
            .deny
            .iter()
            .filter(about)
            .filter(|rule| rule.ports.is_all() && rule.protocol.is_none())
            .collect();
        let opening = self.allow.iter().filter(about);
        let wins = |rule: &&Rule| closing.iter().all(|closing| rule.outranks(closing));
        if self.mode != Mode::Off
            && let Some(rule) = narrowest(opening.filter(wins))
        {
            return Decision {
                verdict: Verdict::Allow,
                reason: Reason::Rule,
                rule: Some(rule.clone()),
                smallest_rule_that_would_allow: None,
            };
        }
        let own = Rule { protocol: None, target: Target::Name(name.clone()), ports: Ports::all() };
        let smallest = closing.iter().all(|closing| own.outranks(closing)).then_some(own);
        match (self.mode, narrowest(closing.iter().copied())) {
            (Mode::Off, _) => denied(Reason::Off, None, None),
            (Mode::Egress | Mode::AllowList, Some(rule)) => {
                denied(Reason::Rule, Some(rule.clone()), smallest)
            }
            (Mode::Egress, None) if encrypted_dns::is_server(name) => {
                denied(Reason::EncryptedDns, None, smallest)
            }
            (Mode::Egress, None) => Decision {
                verdict: Verdict::Allow,
                reason: Reason::Public,
                rule: None,
                smallest_rule_that_would_allow: None,
            },
            (Mode::AllowList, None) => denied(Reason::NotListed, None, smallest),
        }
    }

    /// Whether an answer may tell that `name` is at `address`: nothing that no port of is open.
    #[must_use]
    pub fn may_answer(&self, name: &Name, address: IpAddr, is_hosts: bool) -> bool {
        let names = std::slice::from_ref(name);
        self.mode == Mode::Egress && address::is_public(address) && !is_hosts
            || self.mode != Mode::Off && self.allow.iter().any(|rule| rule.reaches(address, names, is_hosts))
    }
}

pub(super) fn denied(reason: Reason, rule: Option<Rule>, smallest: Option<Rule>) -> Decision {
    Decision { verdict: Verdict::Deny, reason, rule, smallest_rule_that_would_allow: smallest }
}

/// A rule that no other outranks; the first of several.
pub(super) fn narrowest<'a>(rules: impl Iterator<Item = &'a Rule>) -> Option<&'a Rule> {
    rules.fold(None, |best, rule| match best {
        Some(best) if !rule.outranks(best) => Some(best),
        Some(_) | None => Some(rule),
    })
}

/// The rule that opens `flow` and as little else as a rule can.
fn smallest_rule(flow: &Flow) -> Option<Rule> {
    let has_port = flow.port != 0 || flow.protocol == Protocol::Icmp;
    if !address::is_unicast(flow.address) || !has_port {
        return None;
    }
    let named = address::block_of(flow.address).is_none_or(|block| block.kind.is_open_to_names());
    let target = match flow.names.first() {
        Some(name) if named && !flow.is_hosts => Target::Name(name.clone()),
        Some(_) | None => Target::Range(Cidr::host(flow.address)),
    };
    let ports = match flow.protocol {
        Protocol::Tcp | Protocol::Udp => Ports::one(flow.port),
        Protocol::Icmp => Ports::all(),
    };
    Some(Rule { protocol: Some(flow.protocol), target, ports })
}
