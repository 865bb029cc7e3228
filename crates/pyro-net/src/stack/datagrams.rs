//! UDP and echo: one host socket for each pair of ends.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::connection::end_of;
use super::plan::Plan;
use super::record::Record;
use super::table::FlowId;
use super::{Carrier, FlowKey, Stack};
use crate::event::{End, FlowState};
use crate::limits;
use crate::packet::emit::{self, Unreachable};
use crate::packet::{Dropped, Packet};
use crate::policy::{Decision, Protocol};
use crate::poller::Ready;

/// The host's end of a flow of datagrams.
#[derive(Default)]
pub(super) struct Datagrams {
    socket: Option<OwnedFd>,
    is_readable: bool,
    /// What the guest sent while the name was being resolved.
    waiting: VecDeque<Vec<u8>>,
}

impl Datagrams {
    pub(super) fn state(&self) -> FlowState {
        if self.socket.is_some() { FlowState::Open } else { FlowState::Resolving }
    }

    pub(super) fn note_ready(&mut self, ready: Ready) {
        self.is_readable |= ready.readable;
    }
}

/// An echo request as the host's ping sockets want it, from the sequence number on.
fn echo_request(is_v4: bool, rest: &[u8]) -> Vec<u8> {
    let mut message = vec![if is_v4 { 8 } else { 128 }, 0, 0, 0, 0, 0];
    message.extend(rest);
    message
}

impl Stack {
    /// Takes a datagram, or an echo request from its sequence number on.
    pub(super) fn take_datagram(
        &mut self,
        packet: &Packet<'_>,
        payload: &[u8],
        key: FlowKey,
    ) -> Result<(), Dropped> {
        if let Some(id) = self.keys.get(&key).copied() {
            if self.is_used_up() {
                self.end_all(End::BytesUsedUp);
                return self.reply(|| emit::unreachable(packet, Unreachable::Prohibited));
            }
            self.send_datagram(id, payload);
            return Ok(());
        }
        if key.protocol == Protocol::Udp && (key.destination.port() == 0 || key.source.port() == 0) {
            return Err(Dropped::Malformed);
        }
        let mut record = Record::new(self.now);
        let plan = self.plan(key.protocol, key.destination);
        if let Plan::Names = plan {
            self.take_question(key, payload);
            return Ok(());
        }
        let flows = self.flows.len() as u32 - self.tcp_flows;
        if flows >= self.policy.limits.udp_flows {
            self.recorder.flow_ended(&key, record, End::TooManyFlows, self.now);
            return self.reply(|| emit::unreachable(packet, Unreachable::Prohibited));
        }
        match plan {
            // Questions were taken above, and a proxy carries TCP alone.
            Plan::Names | Plan::Proxy(..) | Plan::DenyNamed(..) => {}
            Plan::Resolve(name) => {
                record.names = vec![name.clone()];
                let id = self.add_flow(key, record, Carrier::Datagrams(Datagrams::default()));
                self.touch(id);
                self.send_datagram(id, payload);
                self.look_up_for_flow(name, id);
            }
            Plan::Dial(to, decision, names) => {
                record.names = names;
                let id = self.add_flow(key, record, Carrier::Datagrams(Datagrams::default()));
                self.send_datagram(id, payload);
                self.connect_datagrams(id, to, decision);
            }
            Plan::Deny(to, decision, names) => {
                (record.dialled, record.decision, record.names) = (Some(to), Some(decision), names);
                self.recorder.flow_ended(&key, record, End::Denied, self.now);
                return self.reply(|| emit::unreachable(packet, Unreachable::Prohibited));
            }
            Plan::Refuse(end, to, names) => {
                (record.dialled, record.names) = (to, names);
                self.recorder.flow_ended(&key, record, end, self.now);
                return self.reply(|| emit::unreachable(packet, Unreachable::Port));
            }
        }
        Ok(())
    }

    /// Gives a flow its socket, and what waited for it.
    pub(super) fn connect_datagrams(&mut self, id: FlowId, to: SocketAddr, decision: Decision) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        (flow.record.dialled, flow.record.decision) = (Some(to), Some(decision));
        let socket = match flow.key.protocol {
            Protocol::Udp => self.dialer.udp(to),
            Protocol::Icmp | Protocol::Tcp => self.dialer.ping(to.ip()),
        };
        let socket = match socket {
            Ok(socket) => socket,
            Err(error) => {
                let error = Errno::from_io_error(&error).unwrap_or(Errno::HOSTUNREACH);
                self.turn_away(id, end_of(error));
                return;
            }
        };
        if self.poller.watch_changes(socket.as_fd(), id.token()).is_err() {
            self.turn_away(id, End::Unsupported);
            return;
        }
        let Some(Carrier::Datagrams(datagrams)) = self.flows.get_mut(id).map(|flow| &mut flow.carrier) else {
            return;
        };
        datagrams.socket = Some(socket);
        for payload in std::mem::take(&mut datagrams.waiting) {
            self.send_datagram(id, &payload);
        }
        self.touch(id);
    }

    fn send_datagram(&mut self, id: FlowId, payload: &[u8]) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        let key = flow.key;
        let Carrier::Datagrams(datagrams) = &mut flow.carrier else { return };
        let Some(socket) = &datagrams.socket else {
            if datagrams.waiting.len() < limits::UDP_WAITING {
                datagrams.waiting.push_back(payload.to_vec());
            }
            return;
        };
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let result = match key.protocol {
            Protocol::Udp | Protocol::Tcp => send(socket, payload, flags),
            Protocol::Icmp => send(socket, &echo_request(key.destination.is_ipv4(), payload), flags),
        };
        match result {
            Ok(_) => {
                flow.record.sent_bytes += payload.len() as u64;
                self.counters.passed_bytes += payload.len() as u64;
            }
            Err(error) => self.tell_error(&key, error),
        }
        self.touch(id);
    }

    /// Passes on what the host's kernel knows of the server.
    fn tell_error(&mut self, key: &FlowKey, error: Errno) {
        let why = match error {
            Errno::CONNREFUSED => Unreachable::Port,
            Errno::NETUNREACH | Errno::HOSTUNREACH => Unreachable::Host,
            Errno::PERM | Errno::ACCESS => Unreachable::Prohibited,
            // Full buffers lose datagrams, as any router does.
            _ => return,
        };
        if key.protocol == Protocol::Udp {
            let _ = self.reply(|| emit::unreachable_datagram(key.source, key.destination, why));
        }
    }

    fn touch(&mut self, id: FlowId) {
        let now = self.now;
        let Some(flow) = self.flows.get_mut(id) else { return };
        flow.record.last_active = now;
        let idle = idle_limit(flow.key.protocol);
        // Exact enough: the timer looks again when it comes.
        if flow.deadline.is_none() {
            self.set_deadline(id, Some(now + idle));
        }
    }

    pub(super) fn pump_datagrams(&mut self, id: FlowId) {
        let mut buffer = std::mem::take(&mut self.buffer);
        for round in 0.. {
            // What the link does not take waits in the socket, whose buffer is the kernel's.
            if !self.link.is_clear() {
                self.blocked.insert(id);
                break;
            }
            if round >= limits::UDP_BURST {
                self.mark_dirty(id);
                break;
            }
            // The last datagram may go beyond what is allowed: half of one is none.
            if self.is_used_up() || self.receive_datagram(id, &mut buffer) {
                break;
            }
        }
        self.buffer = buffer;
        let now = self.now;
        let Some(flow) = self.flows.get_mut(id) else { return };
        let idle_at = flow.record.last_active + idle_limit(flow.key.protocol);
        if now >= idle_at {
            self.remove_flow(id, End::Finished);
        } else {
            self.set_deadline(id, Some(idle_at));
        }
    }

    /// Passes on one datagram; `true` when there are no more.
    fn receive_datagram(&mut self, id: FlowId, buffer: &mut [u8]) -> bool {
        let Some(flow) = self.flows.get_mut(id) else { return true };
        let key = flow.key;
        let Carrier::Datagrams(datagrams) = &mut flow.carrier else { return true };
        let (Some(socket), true) = (&datagrams.socket, datagrams.is_readable) else { return true };
        let length = match recv(socket, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((_, length)) => length,
            Err(Errno::AGAIN) => {
                datagrams.is_readable = false;
                return true;
            }
            Err(Errno::INTR) => return false,
            // An error is told once and taken by telling it; the next call reads on.
            Err(error) => {
                self.tell_error(&key, error);
                return false;
            }
        };
        let payload = &buffer[..length];
        let identification = self.identification.wrapping_add(1);
        self.identification = identification;
        let frames = match key.protocol {
            Protocol::Udp | Protocol::Tcp => {
                emit::datagram(key.destination, key.source, payload, identification)
            }
            // Type, code, sum and the kernel's identifier stand before the sequence number.
            Protocol::Icmp => match payload.get(6..) {
                Some(rest) if matches!(payload[0], 0 | 129) => emit::echo_reply(
                    key.destination.ip(),
                    key.source.ip(),
                    key.source.port(),
                    rest,
                    identification,
                ),
                Some(_) | None => return false,
            },
        };
        flow.record.received_bytes += length as u64;
        flow.record.last_active = self.now;
        self.counters.passed_bytes += length as u64;
        for frame in frames {
            self.link.send(frame);
        }
        false
    }
}

fn idle_limit(protocol: Protocol) -> Duration {
    match protocol {
        Protocol::Udp | Protocol::Tcp => limits::UDP_IDLE,
        Protocol::Icmp => limits::PING_IDLE,
    }
}
