//! What is remembered of a flow for its record, and the records themselves.

use std::net::SocketAddr;
use std::time::Duration;

use super::FlowKey;
use super::bucket::Bucket;
use crate::event::{End, EventSink, FlowEvent, FlowState, OpenFlow, Proxied, Subject};
use crate::limits;
use crate::policy::{Decision, Name, Reason, Verdict};

/// What a flow's record will say.
#[derive(Clone, Debug, Default)]
pub(super) struct Record {
    pub(super) subject: Subject,
    pub(super) started: Duration,
    pub(super) names: Vec<Name>,
    pub(super) dialled: Option<SocketAddr>,
    pub(super) proxied: Option<Proxied>,
    pub(super) decision: Option<Decision>,
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
    pub(super) last_active: Duration,
    /// Whether its first bytes are held against its name.
    pub(super) has_checked_opening: bool,
    /// Questions to the gateway's name server have records of their own.
    pub(super) is_silent: bool,
}

impl Record {
    pub(super) fn new(now: Duration) -> Self {
        Self { started: now, last_active: now, ..Self::default() }
    }
}

/// Writes records, and counts what it leaves out when they come too fast.
pub(super) struct Recorder {
    sink: Box<dyn EventSink>,
    epoch: Duration,
    bucket: Bucket,
    left_out: u64,
}

impl Recorder {
    pub(super) fn new(sink: Box<dyn EventSink>, epoch: Duration) -> Self {
        Self { sink, epoch, bucket: Bucket::new(limits::EVENTS_PER_SECOND), left_out: 0 }
    }

    pub(super) fn flow_ended(&mut self, key: &FlowKey, record: Record, end: End, now: Duration) {
        if !self.bucket.take(now) {
            self.left_out += 1;
            return;
        }
        let text = sentence(key, &record, end);
        let verdict = verdict(end);
        let (reason, rule, smallest) = match record.decision {
            Some(decision) => (Some(decision.reason), decision.rule, decision.smallest_rule_that_would_allow),
            None => (None, None, None),
        };
        self.sink.record(FlowEvent {
            subject: record.subject,
            started_ms: self.unix_ms(record.started),
            ended_ms: self.unix_ms(now),
            protocol: key.protocol,
            source: key.source,
            destination: key.destination,
            dialled: record.dialled,
            proxied: record.proxied,
            names: record.names,
            verdict,
            reason,
            rule,
            smallest_rule_that_would_allow: smallest,
            sent_bytes: record.sent_bytes,
            received_bytes: record.received_bytes,
            end,
            text,
            left_out: std::mem::take(&mut self.left_out),
        });
    }

    /// What `record` will be about, as long as it goes on.
    pub(super) fn open(&self, key: &FlowKey, record: &Record, state: FlowState) -> OpenFlow {
        OpenFlow {
            state,
            started_ms: self.unix_ms(record.started),
            protocol: key.protocol,
            source: key.source,
            destination: key.destination,
            dialled: record.dialled,
            name: record.names.first().cloned(),
            rule: record.decision.as_ref().and_then(|decision| decision.rule.clone()),
            sent_bytes: record.sent_bytes,
            received_bytes: record.received_bytes,
            text: format!("{}: {state}", whom(key, record)),
        }
    }

    fn unix_ms(&self, at: Duration) -> u64 {
        u64::try_from((self.epoch + at).as_millis()).unwrap_or(u64::MAX)
    }
}

fn verdict(end: End) -> Verdict {
    match end {
        End::Denied
        | End::OtherName
        | End::UncheckedName
        | End::TooManyFlows
        | End::TooManyHalfOpen
        | End::TooFast
        | End::TooManyNames
        | End::BytesUsedUp
        | End::RefusedByProxy
        | End::PolicyChanged => Verdict::Deny,
        End::Finished
        | End::ResetByGuest
        | End::ResetByServer
        | End::Refused
        | End::ProxyFailed
        | End::Unreachable
        | End::NoSuchName
        | End::TimedOut
        | End::Idle
        | End::Crowded
        | End::Unsupported
        | End::MachineEnded => Verdict::Allow,
    }
}

fn whom(key: &FlowKey, record: &Record) -> String {
    let at = record.dialled.unwrap_or(key.destination);
    // Neither a question nor echo has a port.
    let place = if at.port() == 0 { at.ip().to_string() } else { at.to_string() };
    match (record.subject, record.names.first()) {
        (Subject::Flow, Some(name)) if record.proxied.is_some() => {
            format!("{} to {name}:{} through the host's proxy", key.protocol, at.port())
        }
        (Subject::Name, Some(name)) if record.dialled.is_none() => format!("the name {name}"),
        (Subject::Name, Some(name)) => format!("the name {name} ({place})"),
        (Subject::Flow, Some(name)) => format!("{} to {name} ({place})", key.protocol),
        (Subject::Flow | Subject::Name, None) => format!("{} to {place}", key.protocol),
    }
}

fn sentence(key: &FlowKey, record: &Record, end: End) -> String {
    let what = match (&record.decision, record.proxied, end) {
        (Some(decision), _, End::Denied) => decision.to_string(),
        (_, Some(proxied), End::RefusedByProxy) => proxied.refusal(),
        (Some(_) | None, _, _) => end.to_string(),
    };
    let hint = match &record.decision {
        Some(Decision { smallest_rule_that_would_allow: Some(rule), .. }) if end == End::Denied => {
            format!("; the smallest rule that would allow it is {rule}")
        }
        Some(Decision { reason: Reason::Off, .. }) if end == End::Denied => {
            "; only another network policy would allow it".to_owned()
        }
        _ if end == End::BytesUsedUp => "; a higher egress limit would allow it".to_owned(),
        Some(_) | None => String::new(),
    };
    format!("{}: {what}{hint}", whom(key, record))
}
