//! Connections through the host's proxy: found, dialled, asked, and believed only when it has agreed.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use super::connection::{Phase, Upstream};
use super::table::FlowId;
use super::{Carrier, Stack};
use crate::event::{End, Proxied};
use crate::limits;
use crate::policy::{Name, Protocol};
use crate::proxy::{ProxyAnswer, ProxyHost};

impl Stack {
    /// Whether a flow to a name goes through the proxy, which carries TCP alone.
    pub(super) fn goes_by_proxy(&self, protocol: Protocol, name: &Name, port: u16) -> bool {
        protocol == Protocol::Tcp && self.proxy.as_ref().is_some_and(|proxy| proxy.carries(name, port))
    }

    /// Goes on with a flow that the policy allows: to the proxy, wherever that is.
    pub(super) fn find_proxy(&mut self, id: FlowId) {
        match self.proxy.as_ref().map(|proxy| proxy.host().clone()) {
            Some(ProxyHost::Address(address)) => self.dial_proxy(id, &[address]),
            Some(ProxyHost::Name(name)) => self.look_up_proxy(name, id),
            None => self.turn_away(id, End::ProxyFailed),
        }
    }

    /// The proxy is at one of `addresses`. No policy is asked: the host's owner has named it, not the guest.
    pub(super) fn dial_proxy(&mut self, id: FlowId, addresses: &[IpAddr]) {
        let decision = self.flows.get_mut(id).and_then(|flow| flow.record.decision.clone());
        let (Some(proxy), Some(decision)) = (&self.proxy, decision) else {
            return self.turn_away(id, End::ProxyFailed);
        };
        let places = addresses.iter().map(|address| SocketAddr::new(*address, proxy.port()));
        let places: VecDeque<SocketAddr> = places.take(limits::MAX_DIAL_ATTEMPTS).collect();
        self.dial(id, places, decision);
    }

    /// Ends a connection whose dialling failed; with the proxy it was the proxy that could not be reached.
    pub(super) fn end_dialling(&mut self, id: FlowId, end: End) {
        let end = if self.is_proxied(id) { End::ProxyFailed } else { end };
        self.break_off(id, end);
    }

    /// Whether a flow goes through the proxy.
    pub(super) fn is_proxied(&mut self, id: FlowId) -> bool {
        self.flows.get_mut(id).is_some_and(|flow| flow.record.proxied.is_some())
    }

    /// The proxy has answered the call; now it is to be asked for the server.
    pub(super) fn ask_proxy(&mut self, id: FlowId) {
        let now = self.now;
        if let Some(connection) = self.connection(id) {
            connection.phase = Phase::Tunnelling { sent: 0, since: now };
        }
    }

    /// Looks what the proxy says. `false` when the flow is gone.
    pub(super) fn settle_tunnel(&mut self, id: FlowId) -> bool {
        let now = self.now;
        let Some(flow) = self.flows.get_mut(id) else { return false };
        let Carrier::Tcp(connection) = &mut flow.carrier else { return true };
        let Phase::Tunnelling { sent, since } = &mut connection.phase else { return true };
        let name = flow.record.names.first();
        let (Some(name), Some(proxy), Upstream::Socket(socket)) =
            (name, &self.proxy, &mut connection.upstream)
        else {
            return true;
        };
        let request = proxy.request(name, flow.key.destination.port());
        let is_late = now >= *since + limits::PROXY;
        let asked = match request.get(*sent..) {
            Some(rest) if !rest.is_empty() => socket.write(rest).map(|count| *sent += count),
            Some(_) | None => Ok(()),
        };
        match asked.and_then(|()| socket.hear_proxy()) {
            Ok(ProxyAnswer::Opened(_)) => {
                self.accept(id);
                return true;
            }
            Ok(ProxyAnswer::Unfinished) if !is_late => return true,
            Ok(ProxyAnswer::Refused(status)) => {
                if let Some(flow) = self.flows.get_mut(id) {
                    flow.record.proxied = Some(Proxied { status: Some(status) });
                }
                self.break_off(id, End::RefusedByProxy);
            }
            Ok(ProxyAnswer::Unfinished) => self.break_off(id, End::TimedOut),
            Ok(ProxyAnswer::Other) | Err(_) => self.break_off(id, End::ProxyFailed),
        }
        false
    }
}
