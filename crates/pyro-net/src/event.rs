//! What is told of flows: one record when one is denied, one when one ends.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::policy::{Name, Protocol, Reason, Rule, Verdict};

/// How a flow ended, or why it never began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// The policy denied it.
    Denied,
    /// Its first bytes, or a later request, were for another name than the one allowed.
    OtherName,
    /// UDP to a name's port 443: its name cannot be checked, TCP's can.
    UncheckedName,
    /// More flows at once than the policy allows.
    TooManyFlows,
    /// More connections without an answer than the policy allows.
    TooManyHalfOpen,
    /// New connections faster than the policy allows.
    TooFast,
    /// More questions at once than the policy allows, or more names in all.
    TooManyNames,
    /// As many bytes as the policy allows have passed.
    BytesUsedUp,
    /// Both ends said their last.
    Finished,
    /// The guest broke it off.
    ResetByGuest,
    /// The server broke it off.
    ResetByServer,
    /// The server refused it.
    Refused,
    /// The host's proxy refused it.
    RefusedByProxy,
    /// The host's proxy cannot be reached, or does not speak as a proxy.
    ProxyFailed,
    /// No way leads to the server.
    Unreachable,
    /// The name has no address.
    NoSuchName,
    /// No answer in time.
    TimedOut,
    /// Silent for too long.
    Idle,
    /// Others needed its memory, and it was silent for longest.
    Crowded,
    /// The host cannot carry it.
    Unsupported,
    /// A narrower policy came into force.
    PolicyChanged,
    /// The machine ended.
    MachineEnded,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Denied => "denied",
            Self::OtherName => "denied: what it says is not for the allowed name",
            Self::UncheckedName => "denied: over UDP the name cannot be checked, use TCP",
            Self::TooManyFlows => "denied: too many flows at once",
            Self::TooManyHalfOpen => "denied: too many unanswered connections at once",
            Self::TooFast => "denied: too many new connections a second",
            Self::TooManyNames => "denied: too many names at once",
            Self::BytesUsedUp => "denied: the egress limit is used up",
            Self::Finished => "finished",
            Self::ResetByGuest => "reset by the guest",
            Self::ResetByServer => "reset by the server",
            Self::Refused => "refused by the server",
            Self::RefusedByProxy => "denied by the host's proxy",
            Self::ProxyFailed => "the host's proxy cannot be reached, or is none",
            Self::Unreachable => "unreachable",
            Self::NoSuchName => "the name has no address",
            Self::TimedOut => "timed out",
            Self::Idle => "idle for too long",
            Self::Crowded => "ended to make room for other connections",
            Self::Unsupported => "not supported by the host",
            Self::PolicyChanged => "ended by a changed policy",
            Self::MachineEnded => "ended with the machine",
        })
    }
}

/// What a record is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// A flow.
    #[default]
    Flow,
    /// A question for a name that was not answered.
    Name,
}

/// What a proxy said to a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Proxied {
    /// The HTTP status with which it refused.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub status: Option<u16>,
}

impl Proxied {
    /// What a refusal of it means, in words.
    #[must_use]
    pub fn refusal(self) -> String {
        match self.status {
            Some(407) => "denied by the host's proxy: it wants other credentials (407)".to_owned(),
            Some(status @ 500..) => {
                format!("denied by the host's proxy: it could not reach the server ({status})")
            }
            Some(status) => format!("denied by the host's proxy: it does not connect there ({status})"),
            None => End::RefusedByProxy.to_string(),
        }
    }
}

/// The record of one flow, or of a name that was not told: one line of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowEvent {
    /// What it is about.
    pub subject: Subject,
    /// When it began, in milliseconds of Unix time.
    pub started_ms: u64,
    /// When it ended.
    pub ended_ms: u64,
    /// What carried it.
    pub protocol: Protocol,
    /// The guest's end.
    pub source: SocketAddr,
    /// The other end, as the guest addressed it.
    pub destination: SocketAddr,
    /// The address that was dialled or decided on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub dialled: Option<SocketAddr>,
    /// That it went by its name through the host's proxy, and what that said; then there is no address.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub proxied: Option<Proxied>,
    /// Under which names the guest got the address; a question's own.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub names: Vec<Name>,
    /// Whether the flow was allowed.
    pub verdict: Verdict,
    /// What decided.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<Reason>,
    /// The rule that decided.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rule: Option<Rule>,
    /// The narrowest rule that would have allowed it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub smallest_rule_that_would_allow: Option<Rule>,
    /// Payload that left the guest.
    pub sent_bytes: u64,
    /// Payload that reached the guest.
    pub received_bytes: u64,
    /// How it ended.
    pub end: End,
    /// All this in one sentence.
    pub text: String,
    /// Records before this one that were left out because they came too fast.
    pub left_out: u64,
}

impl FlowEvent {
    /// The record as a line of JSON, without its end.
    #[must_use]
    pub fn to_json_line(&self) -> String {
        serde_json::to_string(self).expect("the record has only texts and numbers")
    }
}

/// How far an open flow is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlowState {
    /// The addresses of its name are being looked for.
    Resolving,
    /// The server, or the guest, has yet to answer.
    Connecting,
    /// Bytes may pass.
    Open,
}

impl fmt::Display for FlowState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolving => "resolving",
            Self::Connecting => "connecting",
            Self::Open => "open",
        })
    }
}

/// A flow that goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenFlow {
    /// How far it is.
    pub state: FlowState,
    /// When it began, in milliseconds of Unix time.
    pub started_ms: u64,
    /// What carries it.
    pub protocol: Protocol,
    /// The guest's end.
    pub source: SocketAddr,
    /// The other end, as the guest addressed it.
    pub destination: SocketAddr,
    /// The address that was dialled.
    pub dialled: Option<SocketAddr>,
    /// Under which name the guest got the address.
    pub name: Option<Name>,
    /// The rule that allowed it, if one did.
    pub rule: Option<Rule>,
    /// Payload that has left the guest so far.
    pub sent_bytes: u64,
    /// Payload that has reached the guest so far.
    pub received_bytes: u64,
    /// What it is, in words.
    pub text: String,
}

/// The flows that go on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenFlows {
    /// The oldest first.
    pub flows: Vec<OpenFlow>,
    /// Whether there are older ones, which are left out.
    pub truncated: bool,
}

/// Takes records. It is called by the thread that moves packets and must not wait.
pub trait EventSink: Send {
    /// Takes one record.
    fn record(&mut self, event: FlowEvent);
}

impl<F: FnMut(FlowEvent) + Send> EventSink for F {
    fn record(&mut self, event: FlowEvent) {
        self(event);
    }
}
