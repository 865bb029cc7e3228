//! Turning away a flow that waited for its name.

use super::table::FlowId;
use super::{Carrier, Stack};
use crate::event::End;
use crate::packet::emit::{self, Unreachable};
use crate::policy::Protocol;

impl Stack {
    /// Ends a flow that never began, in its protocol's way.
    pub(super) fn turn_away(&mut self, id: FlowId, end: End) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        let key = flow.key;
        match (&flow.carrier, key.protocol) {
            (Carrier::Tcp(_), _) => {}
            (Carrier::Datagrams(_), Protocol::Udp) => {
                let why = if end == End::Denied { Unreachable::Prohibited } else { Unreachable::Host };
                // Too many at once are too many to be told.
                let _ = self.reply(|| emit::unreachable_datagram(key.source, key.destination, why));
            }
            // An error about an echo would have to quote it; silence is what ping expects.
            (Carrier::Datagrams(_), Protocol::Icmp | Protocol::Tcp) => {}
        }
        self.break_off(id, end);
    }
}
