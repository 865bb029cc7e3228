//! The link as the TCP stack sees it, for the time of one call.

use std::num::NonZeroUsize;

use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use crate::limits::MAX_IP_BYTES;
use crate::link::Link;
use crate::packet::emit::{self, IP_AT};

/// Who may send now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// Waits while the link is full.
    Patient,
    /// Would be lost otherwise.
    Last,
}

pub(super) struct FlowDevice<'a> {
    pub(super) link: &'a mut Link,
    /// The packet that came, taken once.
    pub(super) inbound: Option<&'a [u8]>,
    /// What the guest takes at once.
    pub(super) segment_bytes: u16,
    pub(super) urgency: Urgency,
}

impl Device for FlowDevice<'_> {
    type RxToken<'b>
        = Inbound<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Outbound<'b>
    where
        Self: 'b;

    fn receive(&mut self, _: Instant) -> Option<(Inbound<'_>, Outbound<'_>)> {
        let packet = self.inbound.take()?;
        Some((Inbound(packet), Outbound { link: self.link, segment_bytes: self.segment_bytes }))
    }

    fn transmit(&mut self, _: Instant) -> Option<Outbound<'_>> {
        let may = self.urgency == Urgency::Last || self.link.is_clear();
        may.then_some(Outbound { link: self.link, segment_bytes: self.segment_bytes })
    }

    /// Whole super-packets both ways, no sums. The MTU is the largest packet: with the link's own, the stack would
    /// drop super-packets of IPv6, whose metadata it also never passes on; [`emit::finish_tcp`] knows the guest's.
    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MAX_IP_BYTES;
        capabilities.checksum.tcp = Checksum::None;
        capabilities.segmentation.tcpv4 = NonZeroUsize::new(MAX_IP_BYTES);
        capabilities.segmentation.tcpv6 = NonZeroUsize::new(MAX_IP_BYTES);
        capabilities
    }
}

pub(super) struct Inbound<'a>(&'a [u8]);

impl RxToken for Inbound<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

pub(super) struct Outbound<'a> {
    link: &'a mut Link,
    segment_bytes: u16,
}

impl TxToken for Outbound<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        self.link.send_made(IP_AT + length, |message| {
            let result = write(&mut message[IP_AT..]);
            emit::finish_tcp(message, self.segment_bytes);
            result
        })
    }
}
