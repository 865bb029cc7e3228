//! What a machine's guest may reach: as callers say it, as records keep it, as its network enforces it.
//!
//! A kind of policy says what needs no rule, rules refine it. What was denied is told with the rule that decided
//! and the smallest one that would have allowed it, see [`NetworkDenial`].

mod check;
mod denial;
mod proxy;
#[cfg(test)]
mod tests;

use crate::limits::NETWORK_RULES_BYTES;
use crate::problem::{Blame, Explain, Problem};
use crate::store::NetworkPolicy;
use pyro_net::policy::{PolicyError, PolicyFile, RuleError};
use serde::{Deserialize, Serialize};

pub use check::{CheckError, CheckedAddress, NetworkCheck, check};
pub(crate) use denial::Memory;
pub use denial::{NetworkContacts, NetworkDenial, NetworkDenials};
pub use proxy::{HostProxy, HostProxyError};
pub use pyro_net::guest::{GATEWAY_V4, GUEST_V4};
pub use pyro_net::policy::{Limits, Mode, Policy, Protocol, Rule};
pub use pyro_net::{End, FlowEvent, FlowState, OpenFlow, OpenFlows, Proxy};

/// Rules that refine a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkRules {
    /// What is opened beside what the policy opens.
    pub allow: Vec<Rule>,
    /// What is opened, and nothing without a rule: any of these closes the public internet.
    pub allow_only: Vec<Rule>,
    /// What is closed.
    pub deny: Vec<Rule>,
    /// How many bytes may pass, in both directions together, until nothing does any more: payload of flows and of
    /// questions for names, counted from each start of the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_limit_bytes: Option<u64>,
}

/// Rules that cannot be meant.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A text is no rule.
    #[error("invalid network rule '{text}' for {option}")]
    Rule {
        /// The text.
        text: String,
        /// Where it was given.
        option: &'static str,
        /// What is wrong with it.
        source: RuleError,
    },
    /// A file of rules is none.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// They do not fit into a packet.
    #[error("the network rules have {0} bytes, at most {NETWORK_RULES_BYTES} are allowed")]
    TooLong(usize),
    /// Without an interface nothing can be opened.
    #[error("network rules that allow something need a network policy other than off")]
    Off,
    /// Without an interface nothing passes anyway.
    #[error("an egress limit needs a network policy other than off")]
    LimitWithoutNetwork,
    /// A rule to be removed is not there.
    #[error("network rule '{0}' is not one of the workspace's")]
    NoRule(Rule),
}

impl Explain for NetworkError {
    fn explain(&self) -> Problem {
        let problem = Problem::new("invalid_network_rule", Blame::Caller, self);
        match self {
            Self::Rule { .. } => problem.with_hint(
                "a rule is DOMAIN, *.DOMAIN, ADDRESS or RANGE, with :PORTS behind it and tcp://, udp:// or icmp:// \
                 before it where that matters: --allow api.example.com:443",
            ),
            Self::Policy(PolicyError::File(_)) => problem.with_hint(
                "a file of rules has lists of texts: allow = [\"10.0.0.5:5432\"], allow-only = [...], deny = [...]",
            ),
            Self::Policy(
                PolicyError::TooManyRules(_)
                | PolicyError::FileTooLong(_)
                | PolicyError::RulesWithoutNetwork,
            )
            | Self::TooLong(_) => problem.with_hint("ranges and *.DOMAIN open many at once"),
            Self::Off | Self::LimitWithoutNetwork => problem.with_hint("add --network-policy egress (`pyro run --network`)"),
            Self::NoRule(_) => problem.with_hint("`pyro workspace status` shows them"),
        }
    }
}

/// `text` as a rule; `option` is where it was given.
pub fn parse_rule(option: &'static str, text: &str) -> Result<Rule, NetworkError> {
    text.parse().map_err(|source| NetworkError::Rule { text: text.to_owned(), option, source })
}

impl NetworkRules {
    /// What a file of rules says.
    pub fn parse_file(text: &str) -> Result<Self, NetworkError> {
        let PolicyFile { allow, allow_only, deny } = PolicyFile::parse(text)?;
        Ok(Self { allow, allow_only, deny, egress_limit_bytes: None })
    }

    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.allow_only.is_empty() && self.deny.is_empty()
    }

    /// Adds others that are not there yet; another limit takes the place of the one that is.
    pub fn extend(&mut self, more: Self) {
        self.egress_limit_bytes = more.egress_limit_bytes.or(self.egress_limit_bytes);
        for (rules, more) in [
            (&mut self.allow, more.allow),
            (&mut self.allow_only, more.allow_only),
            (&mut self.deny, more.deny),
        ] {
            for rule in more {
                if !rules.contains(&rule) {
                    rules.push(rule);
                }
            }
        }
    }

    fn remove(&mut self, rule: &Rule) -> Result<(), NetworkError> {
        let before = self.count();
        for rules in [&mut self.allow, &mut self.allow_only, &mut self.deny] {
            rules.retain(|one| one != rule);
        }
        if self.count() == before { Err(NetworkError::NoRule(rule.clone())) } else { Ok(()) }
    }

    fn count(&self) -> usize {
        self.allow.len() + self.allow_only.len() + self.deny.len()
    }

    /// Checks that they can be had together, and are not meant for a machine without a network.
    pub fn check(&self, policy: NetworkPolicy) -> Result<(), NetworkError> {
        if policy == NetworkPolicy::Off && !(self.allow.is_empty() && self.allow_only.is_empty()) {
            return Err(NetworkError::Off);
        }
        if policy == NetworkPolicy::Off && self.egress_limit_bytes.is_some() {
            return Err(NetworkError::LimitWithoutNetwork);
        }
        self.check_size()
    }

    fn check_size(&self) -> Result<(), NetworkError> {
        enforced(NetworkPolicy::Egress, self).check()?;
        match serde_json::to_string(self).map_or(usize::MAX, |text| text.len()) {
            len if len > NETWORK_RULES_BYTES => Err(NetworkError::TooLong(len)),
            _ => Ok(()),
        }
    }
}

/// What a machine's network enforces. Under `off` rules are kept for another time and open nothing.
pub fn enforced(policy: NetworkPolicy, rules: &NetworkRules) -> Policy {
    match policy {
        NetworkPolicy::Off => Policy::of(Mode::Off),
        NetworkPolicy::Egress | NetworkPolicy::EgressAndPublishedPorts => Policy {
            mode: if rules.allow_only.is_empty() { Mode::Egress } else { Mode::AllowList },
            allow: rules.allow.iter().chain(&rules.allow_only).cloned().collect(),
            deny: rules.deny.clone(),
            limits: Limits { total_bytes: rules.egress_limit_bytes, ..Limits::default() },
        },
    }
}

/// Which rules stay before others are added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RuleRemoval {
    /// All do.
    #[default]
    Keep,
    /// All but these, each of which must be there.
    Some(Vec<Rule>),
    /// None.
    All,
}

/// A change of what a guest may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkUpdate {
    /// Another policy.
    pub policy: Option<NetworkPolicy>,
    /// What becomes of the rules that there are.
    pub removal: RuleRemoval,
    /// Whether the limit of bytes goes.
    #[serde(default)]
    pub clear_egress_limit: bool,
    /// Rules to add, and another limit of bytes.
    pub add: NetworkRules,
}

impl NetworkUpdate {
    /// Whether nothing is to be changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What comes of it.
    pub fn apply(
        &self,
        policy: NetworkPolicy,
        rules: &NetworkRules,
    ) -> Result<(NetworkPolicy, NetworkRules), NetworkError> {
        let policy = self.policy.unwrap_or(policy);
        self.add.check(policy)?;
        let mut rules = rules.clone();
        match &self.removal {
            RuleRemoval::Keep => {}
            RuleRemoval::Some(gone) => gone.iter().try_for_each(|rule| rules.remove(rule))?,
            RuleRemoval::All => {
                let egress_limit_bytes = rules.egress_limit_bytes;
                rules = NetworkRules { egress_limit_bytes, ..NetworkRules::default() };
            }
        }
        if self.clear_egress_limit {
            rules.egress_limit_bytes = None;
        }
        rules.extend(self.add.clone());
        rules.check_size()?;
        Ok((policy, rules))
    }
}
