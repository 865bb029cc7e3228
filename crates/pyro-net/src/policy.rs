//! What a guest may reach, as values: modes, rules, limits, and the decision on one flow.
//!
//! A decision is made on the address that is dialled, with the names under which the guest asked for it; it is pure.
//! The order is in [`Policy::decide`].

mod decide;
mod encrypted_dns;
mod name;
mod named;
mod ports;
mod rule;

use serde::{Deserialize, Serialize};

use crate::limits;

pub use decide::{Decision, Flow, Reason, Verdict};
pub use name::{Name, NameError};
pub use ports::{Ports, PortsError};
pub use rule::{Protocol, Rule, RuleError, Target};

/// What is reachable without any rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Nothing, and no rule changes that.
    #[default]
    Off,
    /// The public internet.
    Egress,
    /// Nothing; rules open what is needed.
    AllowList,
}

/// What one machine may use at once, and in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Limits {
    /// TCP connections at once.
    pub flows: u32,
    /// Connections of these that are not established yet.
    pub half_open: u32,
    /// New TCP connections a second, in bursts of as many.
    pub syn_per_second: u32,
    /// UDP and echo flows at once.
    pub udp_flows: u32,
    /// Name questions whose answer is outstanding.
    pub dns_in_flight: u32,
    /// Bytes of payload in both directions together, of flows and of questions to the gateway's name server: when as
    /// many have passed since the machine's start, nothing passes any more.
    pub total_bytes: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flows: limits::FLOWS,
            half_open: limits::HALF_OPEN,
            syn_per_second: limits::SYN_PER_SECOND,
            udp_flows: limits::UDP_FLOWS,
            dns_in_flight: limits::DNS_IN_FLIGHT,
            total_bytes: None,
        }
    }
}

impl Limits {
    /// The same with each bound at most what the stack itself stands.
    #[must_use]
    pub fn clamped(self) -> Self {
        Self {
            flows: self.flows.min(limits::MOST_FLOWS),
            half_open: self.half_open.min(self.flows).min(limits::MOST_FLOWS),
            syn_per_second: self.syn_per_second,
            udp_flows: self.udp_flows.min(limits::MOST_FLOWS),
            dns_in_flight: self.dns_in_flight.min(limits::MOST_DNS_IN_FLIGHT),
            total_bytes: self.total_bytes,
        }
    }
}

/// Everything that decides on a machine's flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// What needs no rule.
    pub mode: Mode,
    /// What is opened.
    pub allow: Vec<Rule>,
    /// What is closed; wins over rules of the other kind that are not more specific.
    pub deny: Vec<Rule>,
    /// How much of it.
    pub limits: Limits,
}

impl Policy {
    /// The policy of `mode` without rules.
    #[must_use]
    pub fn of(mode: Mode) -> Self {
        Self { mode, ..Self::default() }
    }

    /// Refuses more rules than a decision can look at for each flow.
    pub fn check(&self) -> Result<(), PolicyError> {
        for rules in [&self.allow, &self.deny] {
            if rules.len() > limits::MAX_RULES {
                return Err(PolicyError::TooManyRules(rules.len()));
            }
        }
        if self.mode == Mode::Off && !self.allow.is_empty() {
            return Err(PolicyError::RulesWithoutNetwork);
        }
        Ok(())
    }
}

/// A policy that cannot be meant.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// Each flow is held against each rule.
    #[error("{0} network rules are too many, at most {most} are allowed", most = limits::MAX_RULES)]
    TooManyRules(usize),
    /// Without a network nothing can be opened.
    #[error("a rule that allows something needs a network policy other than off")]
    RulesWithoutNetwork,
    /// A file of more than its rules can need.
    #[error("the policy file has {0} bytes, at most {most} are allowed", most = limits::MAX_POLICY_FILE_BYTES)]
    FileTooLong(usize),
    /// Not a policy file.
    #[error("the policy file is not valid")]
    File(#[from] toml::de::Error),
}

/// The rules of a policy file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct PolicyFile {
    /// What is opened.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Rule>,
    /// What is opened, and nothing else: any of these makes the policy a list.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_only: Vec<Rule>,
    /// What is closed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<Rule>,
}

impl PolicyFile {
    /// Reads `allow = [...]`, `allow-only = [...]` and `deny = [...]`.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > limits::MAX_POLICY_FILE_BYTES {
            return Err(PolicyError::FileTooLong(text.len()));
        }
        let file: Self = toml::from_str(text)?;
        for rules in [&file.allow, &file.allow_only, &file.deny] {
            if rules.len() > limits::MAX_RULES {
                return Err(PolicyError::TooManyRules(rules.len()));
            }
        }
        Ok(file)
    }

    /// The file's text.
    #[must_use]
    pub fn emit(&self) -> String {
        toml::to_string_pretty(self).expect("lists of text are TOML")
    }
}

#[cfg(test)]
mod tests;
