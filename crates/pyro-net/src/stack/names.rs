//! The gateway's name server, and the names of flows.

mod reverse;

use std::collections::HashMap;
use std::net::IpAddr;

use super::connection::Upstream;
use super::record::Record;
use super::table::FlowId;
use super::timers::Timer;
use super::{FlowKey, Stack};
use crate::dns::{self, Answer, Found, Malformed, Question, RecordKind, ResolveError, Ticket, Wanted};
use crate::event::{End, Subject};
use crate::limits;
use crate::packet::emit;
use crate::policy::{Decision, Flow as PolicyFlow, Mode, Name, Protocol};

/// Who asked a question.
#[derive(Clone, Copy, Debug)]
enum Client {
    Datagram(FlowKey),
    Stream(FlowId, FlowKey),
}

impl Client {
    fn key(&self) -> &FlowKey {
        match self {
            Self::Datagram(key) | Self::Stream(_, key) => key,
        }
    }
}

/// Who waits for a name's addresses.
enum Waiter {
    Client(Client, Question),
    Flow(FlowId),
    /// The proxy's, for this flow.
    Proxy(FlowId),
}

/// Names whose addresses are being looked for. One question to the host's resolver serves all who wait.
#[derive(Default)]
pub(super) struct Lookups {
    by_ticket: HashMap<Ticket, (Name, Wanted, Vec<Waiter>)>,
    by_question: HashMap<(Name, Wanted), Ticket>,
    last: Ticket,
    waiters: usize,
}

impl Stack {
    /// Takes a question that came in a datagram.
    pub(super) fn take_question(&mut self, key: FlowKey, message: &[u8]) {
        self.counters.passed_bytes += message.len() as u64;
        self.take_question_of(Client::Datagram(key), message);
    }

    /// Asks what a stream has asked for completely.
    pub(super) fn ask_for_stream(&mut self, id: FlowId) {
        loop {
            let Some(flow) = self.flows.get_mut(id) else { return };
            let key = flow.key;
            let Some(connection) = self.connection(id) else { return };
            let Upstream::Names(stream) = &mut connection.upstream else { return };
            let Some(message) = stream.next_question() else { return };
            self.take_question_of(Client::Stream(id, key), &message);
        }
    }

    fn take_question_of(&mut self, client: Client, message: &[u8]) {
        let question = match Question::parse(message) {
            Ok(question) => question,
            Err(Malformed::Ignore) => return self.deliver(client, None),
            Err(Malformed::Reply(reply)) => return self.deliver(client, Some(reply)),
        };
        let Some(name) = question.name.clone() else {
            return self.answer(client, &question, &Answer::NoSuchName);
        };
        if self.is_used_up() {
            self.record_denied_name(&client, name, None, None, End::BytesUsedUp);
            return self.answer(client, &question, &Answer::Failed);
        }
        let decision = self.policy.decide_name(&name);
        if !decision.is_allowed() {
            self.record_denied_name(&client, name, None, Some(decision), End::Denied);
            return self.answer(client, &question, &Answer::NoSuchName);
        }
        if let RecordKind::Other(kind) = question.kind {
            if !dns::is_known(kind) {
                return self.answer(client, &question, &Answer::Records(Vec::new()));
            }
            if reverse::is_kept_back(&name) {
                return self.answer(client, &question, &Answer::NoSuchName);
            }
            return self.look_up(name, Wanted::Records(kind), Waiter::Client(client, question));
        }
        match self.policy.mode {
            Mode::Egress if !self.proxy.as_ref().is_some_and(|proxy| proxy.knows(&name)) => {
                self.look_up(name, Wanted::Addresses, Waiter::Client(client, question));
            }
            // Where a proxy finds the address, this host need not know any.
            Mode::Egress | Mode::AllowList | Mode::Off => {
                let answer = match self.synthetic.addresses(&name) {
                    Some(addresses) => Answer::Addresses(addresses.to_vec()),
                    None => Answer::Failed,
                };
                self.answer(client, &question, &answer);
            }
        }
    }

    fn answer(&mut self, client: Client, question: &Question, answer: &Answer) {
        let most = match client {
            Client::Datagram(_) => question.udp_bytes,
            Client::Stream(..) => limits::MAX_STREAM_ANSWER_BYTES,
        };
        self.deliver(client, Some(question.answer(answer, most)));
    }

    fn deliver(&mut self, client: Client, message: Option<Vec<u8>>) {
        match client {
            Client::Datagram(key) => {
                let Some(message) = message else { return };
                self.counters.passed_bytes += message.len() as u64;
                let identification = self.next_identification();
                for frame in emit::datagram(key.destination, key.source, &message, identification) {
                    self.link.send(frame);
                }
            }
            Client::Stream(id, _) => {
                if let Some(connection) = self.connection(id)
                    && let Upstream::Names(stream) = &mut connection.upstream
                {
                    stream.answer(message.as_deref());
                }
                self.mark_dirty(id);
            }
        }
    }

    /// A name that is not told has a record, as a flow that is denied.
    fn record_denied_name(
        &mut self,
        client: &Client,
        name: Name,
        at: Option<IpAddr>,
        decision: Option<Decision>,
        end: End,
    ) {
        let mut record = Record { subject: Subject::Name, ..Record::new(self.now) };
        record.names = vec![name];
        record.dialled = at.map(|address| (address, 0).into());
        record.decision = decision;
        self.recorder.flow_ended(client.key(), record, end, self.now);
    }

    /// Looks for the addresses of a flow's name.
    pub(super) fn look_up_for_flow(&mut self, name: Name, id: FlowId) {
        self.look_up(name, Wanted::Addresses, Waiter::Flow(id));
    }

    /// Looks for the addresses of the proxy, for a flow that is to go through it.
    pub(super) fn look_up_proxy(&mut self, name: Name, id: FlowId) {
        self.look_up(name, Wanted::Addresses, Waiter::Proxy(id));
    }

    fn look_up(&mut self, name: Name, wanted: Wanted, waiter: Waiter) {
        if self.lookups.waiters >= self.policy.limits.dns_in_flight as usize {
            return self.refuse(name, waiter);
        }
        self.lookups.waiters += 1;
        if let Some(ticket) = self.lookups.by_question.get(&(name.clone(), wanted))
            && let Some((_, _, waiters)) = self.lookups.by_ticket.get_mut(ticket)
        {
            waiters.push(waiter);
            return;
        }
        self.lookups.last += 1;
        let ticket = self.lookups.last;
        self.lookups.by_question.insert((name.clone(), wanted), ticket);
        self.lookups.by_ticket.insert(ticket, (name.clone(), wanted, vec![waiter]));
        self.timers.insert(self.now + limits::RESOLVE, Timer::Lookup(ticket));
        self.resolver.ask(ticket, &name, wanted);
    }

    fn refuse(&mut self, name: Name, waiter: Waiter) {
        match waiter {
            Waiter::Client(client, question) => {
                let mut record = Record { subject: Subject::Name, ..Record::new(self.now) };
                record.names = vec![name];
                self.recorder.flow_ended(client.key(), record, End::TooManyNames, self.now);
                self.answer(client, &question, &Answer::Failed);
            }
            Waiter::Flow(id) | Waiter::Proxy(id) => self.turn_away(id, End::TooManyNames),
        }
    }

    /// Takes what the resolver has found.
    pub(super) fn take_answers(&mut self) {
        while let Some((ticket, result)) = self.resolver.finished() {
            self.settle_lookup(ticket, result);
        }
    }

    pub(super) fn give_up_lookup(&mut self, ticket: Ticket) {
        self.settle_lookup(ticket, Err(ResolveError::Failed));
    }

    fn settle_lookup(&mut self, ticket: Ticket, result: Result<Found, ResolveError>) {
        // An answer that comes after it was given up has nobody who waits.
        let Some((name, wanted, waiters)) = self.lookups.by_ticket.remove(&ticket) else { return };
        self.lookups.by_question.remove(&(name.clone(), wanted));
        self.lookups.waiters -= waiters.len();
        for waiter in waiters {
            match (waiter, &result) {
                (Waiter::Client(client, question), Ok(Found::Addresses(addresses))) => {
                    self.answer_found(client, &question, &name, addresses);
                }
                (Waiter::Client(client, question), Ok(Found::Records(records))) => {
                    self.answer(client, &question, &Answer::Records(records.clone()));
                }
                (Waiter::Client(client, question), Err(ResolveError::NoSuchName)) => {
                    self.answer(client, &question, &Answer::NoSuchName);
                }
                (Waiter::Client(client, question), Err(ResolveError::Failed)) => {
                    self.answer(client, &question, &Answer::Failed);
                }
                (Waiter::Proxy(id), Ok(Found::Addresses(addresses))) => self.dial_proxy(id, addresses),
                (Waiter::Proxy(id), Ok(Found::Records(_)) | Err(_)) => self.turn_away(id, End::ProxyFailed),
                (Waiter::Flow(id), Ok(Found::Addresses(addresses))) => self.dial_resolved(id, addresses),
                // Flows ask for addresses alone.
                (Waiter::Flow(id), Ok(Found::Records(_))) => self.turn_away(id, End::NoSuchName),
                (Waiter::Flow(id), Err(ResolveError::NoSuchName)) => self.turn_away(id, End::NoSuchName),
                (Waiter::Flow(id), Err(ResolveError::Failed)) => self.turn_away(id, End::TimedOut),
            }
        }
    }

    /// Answers with the addresses that something of may be reached, and remembers for what name they were told.
    fn answer_found(&mut self, client: Client, question: &Question, name: &Name, found: &[IpAddr]) {
        let mut told = Vec::new();
        let mut withheld = None;
        for address in found {
            let is_hosts = self.is_hosts(*address);
            if self.policy.may_answer(name, *address, is_hosts) {
                told.push(*address);
            } else {
                withheld = withheld.or(Some((*address, is_hosts)));
            }
        }
        for address in told.iter().take(2 * limits::MAX_ANSWER_ADDRESSES) {
            self.pinned.pin(*address, name);
        }
        if told.is_empty()
            && let Some((address, is_hosts)) = withheld
        {
            // No port is known yet; echo has none, and its rule without the protocol opens the whole host.
            let mut decision = self.policy.decide(&PolicyFlow {
                protocol: Protocol::Icmp,
                address,
                port: 0,
                names: vec![name.clone()],
                is_hosts,
            });
            if let Some(rule) = &mut decision.smallest_rule_that_would_allow {
                rule.protocol = None;
            }
            self.record_denied_name(&client, name.clone(), Some(address), Some(decision), End::Denied);
            return self.answer(client, question, &Answer::NoSuchName);
        }
        self.answer(client, question, &Answer::Addresses(told));
    }
}
