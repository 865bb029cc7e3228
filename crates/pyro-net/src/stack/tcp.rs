//! TCP: segments to their connections, new connections, and what dialling comes to.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use rustix::io::Errno;

use super::connection::{Connection, Moved, NameStream, Phase, Pumped, Upstream};
use super::plan::Plan;
use super::record::Record;
use super::table::FlowId;
use super::{Carrier, FlowKey, Stack};
use crate::event::{End, Proxied};
use crate::limits;
use crate::packet::{Dropped, Packet, TcpHead, emit};
use crate::policy::{Decision, Name, Protocol};

impl Stack {
    pub(super) fn take_segment(
        &mut self,
        packet: &Packet<'_>,
        head: &TcpHead,
        key: FlowKey,
    ) -> Result<(), Dropped> {
        if let Some(id) = self.keys.get(&key).copied() {
            if let Some(flow) = self.flows.get_mut(id)
                && let Carrier::Tcp(connection) = &mut flow.carrier
            {
                connection.feed(packet.bytes, head.is_set(TcpHead::RST), &mut self.link, self.now);
            }
            self.mark_dirty(id);
            self.count_rings(id);
            return Ok(());
        }
        if head.is_set(TcpHead::RST) {
            return Ok(());
        }
        if !head.is_set(TcpHead::SYN)
            || head.is_set(TcpHead::ACK)
            || head.destination_port == 0
            || head.source_port == 0
        {
            return self.reply(|| emit::reset(packet, head));
        }
        match self.open_connection(packet, head, key) {
            Ok(()) => Ok(()),
            // Refused at once, as a closed port is.
            Err(()) => self.reply(|| emit::reset(packet, head)),
        }
    }

    fn too_many(&mut self) -> Option<End> {
        let limits = self.policy.limits;
        if !self.new_flows.take(self.now) {
            Some(End::TooFast)
        } else if self.tcp_flows >= limits.flows {
            Some(End::TooManyFlows)
        } else if self.half_open >= limits.half_open {
            Some(End::TooManyHalfOpen)
        } else {
            None
        }
    }

    fn open_connection(&mut self, packet: &Packet<'_>, head: &TcpHead, key: FlowKey) -> Result<(), ()> {
        let mut record = Record::new(self.now);
        if let Some(end) = self.too_many() {
            self.recorder.flow_ended(&key, record, end, self.now);
            return Err(());
        }
        match self.plan(Protocol::Tcp, key.destination) {
            Plan::Names => {
                record.is_silent = true;
                let id = self.add_connection(packet, head, key, record)?;
                if let Some(connection) = self.connection(id) {
                    connection.upstream = Upstream::Names(NameStream::default());
                }
                self.accept(id);
            }
            Plan::Resolve(name) => {
                record.names = vec![name.clone()];
                let id = self.add_connection(packet, head, key, record)?;
                self.look_up_for_flow(name, id);
            }
            Plan::Dial(to, decision, names) => {
                record.names = names;
                let id = self.add_connection(packet, head, key, record)?;
                self.dial(id, VecDeque::from([to]), decision);
            }
            Plan::Proxy(name, decision) => {
                record.names = vec![name];
                (record.proxied, record.decision) = (Some(Proxied::default()), Some(decision));
                let id = self.add_connection(packet, head, key, record)?;
                self.find_proxy(id);
            }
            Plan::DenyNamed(name, decision) => {
                record.names = vec![name];
                (record.proxied, record.decision) = (Some(Proxied::default()), Some(decision));
                self.recorder.flow_ended(&key, record, End::Denied, self.now);
                return Err(());
            }
            Plan::Deny(to, decision, names) => {
                (record.dialled, record.decision, record.names) = (Some(to), Some(decision), names);
                self.recorder.flow_ended(&key, record, End::Denied, self.now);
                return Err(());
            }
            Plan::Refuse(end, to, names) => {
                (record.dialled, record.names) = (to, names);
                self.recorder.flow_ended(&key, record, end, self.now);
                return Err(());
            }
        }
        Ok(())
    }

    fn add_connection(
        &mut self,
        packet: &Packet<'_>,
        head: &TcpHead,
        key: FlowKey,
        record: Record,
    ) -> Result<FlowId, ()> {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let connection = Connection::new(
            &key,
            head.segment_bytes,
            limits::RING_BYTES,
            self.seed,
            &mut self.link,
            self.now,
        );
        let Ok(mut connection) = connection else {
            self.recorder.flow_ended(&key, record, End::Unsupported, self.now);
            return Err(());
        };
        connection.feed(packet.bytes, false, &mut self.link, self.now);
        self.half_open += 1;
        let id = self.add_flow(key, record, Carrier::Tcp(Box::new(connection)));
        self.mark_dirty(id);
        Ok(id)
    }

    pub(super) fn connection(&mut self, id: FlowId) -> Option<&mut Connection> {
        match &mut self.flows.get_mut(id)?.carrier {
            Carrier::Tcp(connection) => Some(connection),
            Carrier::Datagrams(_) => None,
        }
    }

    pub(super) fn accept(&mut self, id: FlowId) {
        let now = self.now;
        if let Some(connection) = self.connection(id) {
            connection.accept(now);
        }
        self.mark_dirty(id);
    }

    /// Begins with the first of the addresses that were allowed.
    pub(super) fn dial(&mut self, id: FlowId, mut addresses: VecDeque<SocketAddr>, decision: Decision) {
        let now = self.now;
        let Some(flow) = self.flows.get_mut(id) else { return };
        let names: Vec<Name> = flow.record.names.clone();
        let port = flow.key.destination.port();
        let mut result = Err(io::Error::from(Errno::HOSTUNREACH));
        while let Some(to) = addresses.pop_front() {
            // The proxy's address is not where the flow goes.
            if !self.is_proxied(id)
                && let Some(flow) = self.flows.get_mut(id)
            {
                flow.record.dialled = Some(to);
            }
            result = self.dialer.tcp(to);
            if result.is_ok() {
                break;
            }
        }
        let opening = self.expected_opening(&decision, port, &names);
        if let Some(flow) = self.flows.get_mut(id) {
            flow.record.has_checked_opening = opening.is_some();
            flow.record.decision = Some(decision);
        }
        let socket = match result {
            Ok(socket) => socket,
            Err(error) => {
                let error = Errno::from_io_error(&error).unwrap_or(Errno::HOSTUNREACH);
                self.end_dialling(id, super::connection::end_of(error));
                return;
            }
        };
        if self.poller.watch_changes(std::os::fd::AsFd::as_fd(&socket), id.token()).is_err() {
            self.break_off(id, End::Unsupported);
            return;
        }
        if let Some(connection) = self.connection(id) {
            connection.set_socket(socket);
            connection.expect(opening);
            connection.phase = Phase::Dialling { others: addresses, since: now };
        }
        self.mark_dirty(id);
    }

    /// The addresses of a flow's name are known: goes on with those that are allowed.
    pub(super) fn dial_resolved(&mut self, id: FlowId, addresses: &[std::net::IpAddr]) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        let (protocol, port) = (flow.key.protocol, flow.key.destination.port());
        let names = flow.record.names.clone();
        let mut allowed = VecDeque::new();
        let mut decisions = (None, None);
        for address in addresses {
            let to = SocketAddr::new(*address, port);
            let decision = self.decide(protocol, to, &names);
            if !decision.is_allowed() {
                decisions.1.get_or_insert((to, decision));
            } else if allowed.len() < limits::MAX_DIAL_ATTEMPTS {
                allowed.push_back(to);
                decisions.0.get_or_insert(decision);
            }
        }
        match decisions {
            (Some(decision), _) if protocol == Protocol::Tcp => self.dial(id, allowed, decision),
            (Some(decision), _) => self.connect_datagrams(id, allowed[0], decision),
            (None, Some((to, decision))) => {
                if let Some(flow) = self.flows.get_mut(id) {
                    (flow.record.dialled, flow.record.decision) = (Some(to), Some(decision));
                }
                self.turn_away(id, End::Denied);
            }
            (None, None) => self.turn_away(id, End::NoSuchName),
        }
    }

    pub(super) fn pump_tcp(&mut self, id: FlowId) {
        if !self.settle_dialling(id) || !self.settle_tunnel(id) {
            return;
        }
        let mut moved = Moved::within(usize::try_from(self.room()).unwrap_or(usize::MAX));
        let (now, idle) = (self.now, limits::TCP_IDLE);
        let Some(flow) = self.flows.get_mut(id) else { return };
        let Carrier::Tcp(connection) = &mut flow.carrier else { return };
        let was_half_open = connection.is_half_open();
        let pumped = connection.pump(&mut self.link, now, &mut moved);
        self.half_open -= u32::from(was_half_open && !connection.is_half_open());
        let record = &mut flow.record;
        record.sent_bytes += moved.from_guest as u64;
        record.received_bytes += moved.to_guest as u64;
        self.counters.passed_bytes += moved.bytes() as u64;
        if moved.bytes() > 0 {
            record.last_active = now;
        }
        let idle_at = record.last_active + idle;
        self.ask_for_stream(id);
        self.count_rings(id);
        match pumped {
            Pumped::Over(end) => self.remove_flow(id, end),
            _ if now >= idle_at => self.break_off(id, End::Idle),
            Pumped::Again => self.mark_dirty(id),
            Pumped::Blocked => {
                self.blocked.insert(id);
                self.set_deadline(id, Some(idle_at));
            }
            Pumped::Until(at) => self.set_deadline(id, Some(at.map_or(idle_at, |at| at.min(idle_at)))),
        }
    }

    /// Counts what the rings of a connection may have taken, and makes room where all together have too much: those
    /// that were silent for longest go, as idle connections do on any crowded router.
    fn count_rings(&mut self, id: FlowId) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        let Carrier::Tcp(connection) = &flow.carrier else { return };
        let touched = connection.touched_bytes();
        self.rings_bytes += touched - flow.touched_bytes;
        flow.touched_bytes = touched;
        while self.rings_bytes > limits::RINGS_BYTES {
            let mut oldest = None;
            for other in self.flows.ids() {
                let Some(flow) = self.flows.get_mut(other) else { continue };
                let age = (flow.record.last_active, other);
                if other != id
                    && flow.touched_bytes >= limits::CROWDING_BYTES
                    && oldest.is_none_or(|oldest| age < oldest)
                {
                    oldest = Some(age);
                }
            }
            let Some((_, oldest)) = oldest else { return };
            self.break_off(oldest, End::Crowded);
        }
    }

    /// Looks whether a connection that is being dialled is decided. `false` when it is gone.
    fn settle_dialling(&mut self, id: FlowId) -> bool {
        let now = self.now;
        let is_proxied = self.is_proxied(id);
        let Some(connection) = self.connection(id) else { return false };
        let Phase::Dialling { others, since } = &mut connection.phase else { return true };
        let (others, since) = (std::mem::take(others), *since);
        let Upstream::Socket(socket) = &connection.upstream else { return true };
        match socket.connected() {
            Some(Ok(())) if is_proxied => self.ask_proxy(id),
            Some(Ok(())) => self.accept(id),
            Some(Err(_)) if !others.is_empty() => {
                let decision = self.flows.get_mut(id).and_then(|flow| flow.record.decision.clone());
                if let Some(decision) = decision {
                    self.dial(id, others, decision);
                }
                return self.flows.get_mut(id).is_some();
            }
            Some(Err(end)) => {
                self.end_dialling(id, end);
                return false;
            }
            None if now >= since + limits::DIAL => {
                self.end_dialling(id, End::TimedOut);
                return false;
            }
            None => connection.phase = Phase::Dialling { others, since },
        }
        true
    }
}
