//! What to do with a new flow: decided on the address that is to be dialled.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Carrier, FlowId, FlowKey, Stack};
use crate::address;
use crate::dns::Synthetic;
use crate::event::End;
use crate::guest;
use crate::opening::Expected;
use crate::policy::{Decision, Flow as PolicyFlow, Mode, Name, Protocol, Target};

/// Where names are asked for.
pub(super) const NAME_PORT: u16 = 53;
const HTTPS_PORT: u16 = 443;

/// What becomes of a new flow.
pub(super) enum Plan {
    /// It speaks with the gateway's name server.
    Names,
    /// Its address stands for a name, whose addresses are to be found first.
    Resolve(Name),
    /// The host's proxy finds the address of its name.
    Proxy(Name, Decision),
    /// It may go there.
    Dial(SocketAddr, Decision, Vec<Name>),
    /// It may not.
    Deny(SocketAddr, Decision, Vec<Name>),
    /// Its name alone was decided on, and it may not.
    DenyNamed(Name, Decision),
    /// It cannot be; where it would have gone, if that is known.
    Refuse(End, Option<SocketAddr>, Vec<Name>),
}

impl Stack {
    pub(super) fn plan(&mut self, protocol: Protocol, destination: SocketAddr) -> Plan {
        let address = destination.ip();
        if destination.port() == NAME_PORT && protocol != Protocol::Icmp {
            // A datagram's question names what the guest wants, and is refused by that.
            return if protocol == Protocol::Tcp && self.is_used_up() {
                Plan::Refuse(End::BytesUsedUp, None, Vec::new())
            } else {
                Plan::Names
            };
        }
        if self.is_used_up() {
            let to = SocketAddr::new(dialled(address), destination.port());
            let to = (!Synthetic::holds(address)).then_some(to);
            return Plan::Refuse(End::BytesUsedUp, to, self.names_of(address));
        }
        if Synthetic::holds(address)
            && let Some(name) = self.synthetic.name(address).cloned()
        {
            if self.goes_by_proxy(protocol, &name, destination.port()) {
                let decision = self.policy.decide_named(protocol, &name, destination.port());
                return if decision.is_allowed() {
                    Plan::Proxy(name, decision)
                } else {
                    Plan::DenyNamed(name, decision)
                };
            }
            let is_quic = protocol == Protocol::Udp && destination.port() == HTTPS_PORT;
            return match self.policy.mode {
                Mode::AllowList if is_quic => Plan::Refuse(End::UncheckedName, None, vec![name]),
                Mode::Off | Mode::Egress | Mode::AllowList => Plan::Resolve(name),
            };
        }
        let to = SocketAddr::new(dialled(address), destination.port());
        let names = self.names_of(address);
        let decision = self.decide(protocol, to, &names);
        if decision.is_allowed() { Plan::Dial(to, decision, names) } else { Plan::Deny(to, decision, names) }
    }

    /// The names under which the guest was told `address`.
    fn names_of(&self, address: IpAddr) -> Vec<Name> {
        match self.synthetic.name(address) {
            Some(name) => vec![name.clone()],
            None => self.pinned.names(address).to_vec(),
        }
    }

    pub(super) fn decide(&mut self, protocol: Protocol, to: SocketAddr, names: &[Name]) -> Decision {
        let is_hosts = self.is_hosts(to.ip());
        self.policy.decide(&PolicyFlow {
            protocol,
            address: to.ip(),
            port: to.port(),
            names: names.to_vec(),
            is_hosts,
        })
    }

    /// Whether `address`, or the address inside it, is one of the host's own.
    pub(super) fn is_hosts(&mut self, address: IpAddr) -> bool {
        self.dialer.is_hosts(address)
            || address::embedded_v4(address).is_some_and(|inner| self.dialer.is_hosts(inner.into()))
    }

    /// What the first bytes of a connection must be, if its name is all that opened it.
    pub(super) fn expected_opening(
        &self,
        decision: &Decision,
        port: u16,
        names: &[Name],
    ) -> Option<(Expected, Name)> {
        let is_by_name = match &decision.rule.as_ref()?.target {
            Target::Name(_) | Target::Under(_) => true,
            Target::Range(_) => false,
        };
        if self.policy.mode != Mode::AllowList || !is_by_name {
            return None;
        }
        Some((Expected::at(port)?, names.first()?.clone()))
    }

    /// Whether a flow that was allowed is allowed by the policy of now.
    pub(super) fn is_still_allowed(&mut self, id: FlowId) -> bool {
        let Some(flow) = self.flows.get_mut(id) else { return true };
        if flow.record.is_silent {
            return true;
        }
        let FlowKey { protocol, destination, .. } = flow.key;
        let names = flow.record.names.clone();
        let is_connection = matches!(flow.carrier, Carrier::Tcp(_));
        let decision = match (flow.record.dialled, flow.record.proxied, names.first()) {
            (Some(to), _, _) => self.decide(protocol, to, &names),
            (None, Some(_), Some(name)) => self.policy.decide_named(protocol, name, destination.port()),
            // Its name is being resolved; what comes of it is decided then.
            (None, _, _) => return true,
        };
        // A check that a flow never had cannot be made up for.
        let is_missing = self.expected_opening(&decision, destination.port(), &names).is_some()
            && is_connection
            && !self.flows.get_mut(id).is_some_and(|flow| flow.record.has_checked_opening);
        decision.is_allowed() && !is_missing
    }
}

/// The gateway stands for the host's loopback, which guests cannot name: their own hides it.
fn dialled(address: IpAddr) -> IpAddr {
    match (guest::is_gateway(address), address) {
        (true, IpAddr::V4(_)) => Ipv4Addr::LOCALHOST.into(),
        (true, IpAddr::V6(_)) => Ipv6Addr::LOCALHOST.into(),
        (false, address) => address,
    }
}
