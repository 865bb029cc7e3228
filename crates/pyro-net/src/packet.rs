//! What a guest sent, parsed by hand: Ethernet, ARP, IPv4, IPv6, the heads of TCP, UDP and ICMP.
//!
//! Everything here is a claim until [`parse`] returned it, and `parse` cannot panic.

pub(crate) mod emit;
pub(crate) mod fragments;
mod sum;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::guest::{GATEWAY_MAC, Mac};
use crate::limits::{ETHERNET_BYTES, VNET_BYTES};
use fragments::{Fragment, FragmentKey};

pub(crate) const ETHERTYPE_V4: u16 = 0x0800;
pub(crate) const ETHERTYPE_ARP: u16 = 0x0806;
pub(crate) const ETHERTYPE_V6: u16 = 0x86dd;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP6: u8 = 58;

/// Why a packet went no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dropped {
    /// Shorter than its headers, or lengths that do not agree.
    Malformed,
    /// Neither IPv4, IPv6 nor ARP, or not for the gateway's Ethernet address.
    NotForUs,
    /// A piece of a larger packet that cannot be, or is neither of a datagram nor of an echo request: the guest's
    /// kernel makes none for TCP.
    Fragment,
    /// An IPv6 extension header; nothing that is carried needs one.
    Extension,
    /// A source that is not the guest's.
    Spoofed,
    /// A group, or nobody.
    NotUnicast,
    /// A protocol that is not carried.
    Protocol,
    /// More than the limits of the policy or the link's queue.
    Overrun,
}

impl Dropped {
    /// How many reasons there are.
    pub(crate) const COUNT: usize = 8;
}

/// An IP packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// The protocol behind the IP header.
    pub(crate) protocol: u8,
    /// The whole packet, without what an Ethernet may have padded.
    pub(crate) bytes: &'a [u8],
    /// What is behind the IP header.
    pub(crate) payload: &'a [u8],
}

/// What a frame is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Claim<'a> {
    /// Someone asks for the Ethernet address of `target`.
    Arp { sender_mac: Mac, sender: Ipv4Addr, target: Ipv4Addr },
    /// An IP packet.
    Ip(Packet<'a>),
    /// A piece of one.
    Fragment(Fragment<'a>),
}

/// Big-endian, at a checked place.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// Reads one packet of the link: virtio header, Ethernet header, packet. The virtio header only says which work
/// the sender left undone (checksums, segmentation), and we need none of it done.
pub(crate) fn parse(message: &[u8]) -> Result<Claim<'_>, Dropped> {
    let frame = message.get(VNET_BYTES..).ok_or(Dropped::Malformed)?;
    let to: Mac = array_at(frame, 0).ok_or(Dropped::Malformed)?;
    let kind = u16_at(frame, 12).ok_or(Dropped::Malformed)?;
    let payload = frame.get(ETHERNET_BYTES..).ok_or(Dropped::Malformed)?;
    // The lowest bit of the first byte marks groups: questions of ARP and NDP go there.
    let is_group = to[0] & 1 == 1;
    if to != GATEWAY_MAC && !is_group {
        return Err(Dropped::NotForUs);
    }
    match kind {
        ETHERTYPE_ARP => parse_arp(payload),
        ETHERTYPE_V4 => parse_v4(payload),
        ETHERTYPE_V6 => parse_v6(payload),
        _ => Err(Dropped::NotForUs),
    }
}

fn parse_arp(bytes: &[u8]) -> Result<Claim<'_>, Dropped> {
    const REQUEST_OF_V4_ON_ETHERNET: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];
    let head: [u8; 8] = array_at(bytes, 0).ok_or(Dropped::Malformed)?;
    if head != REQUEST_OF_V4_ON_ETHERNET {
        return Err(Dropped::NotForUs);
    }
    let sender_mac = array_at(bytes, 8).ok_or(Dropped::Malformed)?;
    let sender: [u8; 4] = array_at(bytes, 14).ok_or(Dropped::Malformed)?;
    let target: [u8; 4] = array_at(bytes, 24).ok_or(Dropped::Malformed)?;
    Ok(Claim::Arp { sender_mac, sender: sender.into(), target: target.into() })
}

fn parse_v4(bytes: &[u8]) -> Result<Claim<'_>, Dropped> {
    let first = *bytes.first().ok_or(Dropped::Malformed)?;
    let head_bytes = usize::from(first & 0xf) * 4;
    let total_bytes = usize::from(u16_at(bytes, 2).ok_or(Dropped::Malformed)?);
    let bytes = bytes.get(..total_bytes).ok_or(Dropped::Malformed)?;
    if first >> 4 != 4 || head_bytes < 20 {
        return Err(Dropped::Malformed);
    }
    let payload = bytes.get(head_bytes..).ok_or(Dropped::Malformed)?;
    let fragment = u16_at(bytes, 6).ok_or(Dropped::Malformed)?;
    let source: [u8; 4] = array_at(bytes, 12).ok_or(Dropped::Malformed)?;
    let destination: [u8; 4] = array_at(bytes, 16).ok_or(Dropped::Malformed)?;
    let (source, destination) = (IpAddr::from(source), IpAddr::from(destination));
    let protocol = bytes[9];
    if fragment & (MORE_V4 | OFFSET_V4) == 0 {
        return Ok(Claim::Ip(Packet { source, destination, protocol, bytes, payload }));
    }
    if !matches!(protocol, UDP | ICMP) {
        return Err(Dropped::Fragment);
    }
    let identification = u32::from(u16_at(bytes, 4).ok_or(Dropped::Malformed)?);
    Ok(Claim::Fragment(Fragment {
        key: FragmentKey { source, destination, protocol, identification },
        offset: usize::from(fragment & OFFSET_V4) * 8,
        is_last: fragment & MORE_V4 == 0,
        payload,
    }))
}

/// Flag and offset in the header of IPv4.
const MORE_V4: u16 = 0x2000;
const OFFSET_V4: u16 = 0x1fff;

fn parse_v6(bytes: &[u8]) -> Result<Claim<'_>, Dropped> {
    const HEAD_BYTES: usize = 40;
    let first = *bytes.first().ok_or(Dropped::Malformed)?;
    let payload_bytes = usize::from(u16_at(bytes, 4).ok_or(Dropped::Malformed)?);
    let bytes = bytes.get(..HEAD_BYTES + payload_bytes).ok_or(Dropped::Malformed)?;
    if first >> 4 != 6 {
        return Err(Dropped::Malformed);
    }
    let source: [u8; 16] = array_at(bytes, 8).ok_or(Dropped::Malformed)?;
    let destination: [u8; 16] = array_at(bytes, 24).ok_or(Dropped::Malformed)?;
    let (source, destination) = (Ipv6Addr::from(source).into(), Ipv6Addr::from(destination).into());
    match bytes[6] {
        44 => parse_fragment_v6(source, destination, &bytes[HEAD_BYTES..]).map(Claim::Fragment),
        0 | 43 | 50 | 51 | 60 | 135 | 139 | 140 => Err(Dropped::Extension),
        protocol => {
            Ok(Claim::Ip(Packet { source, destination, protocol, bytes, payload: &bytes[HEAD_BYTES..] }))
        }
    }
}

/// The extension header of a piece (RFC 8200, 4.5), and the piece.
fn parse_fragment_v6(source: IpAddr, destination: IpAddr, bytes: &[u8]) -> Result<Fragment<'_>, Dropped> {
    let protocol = *bytes.first().ok_or(Dropped::Malformed)?;
    let field = u16_at(bytes, 2).ok_or(Dropped::Malformed)?;
    let identification = u32_at(bytes, 4).ok_or(Dropped::Malformed)?;
    if !matches!(protocol, UDP | ICMP6) {
        return Err(Dropped::Fragment);
    }
    Ok(Fragment {
        key: FragmentKey { source, destination, protocol, identification },
        offset: usize::from(field & !7),
        is_last: field & 1 == 0,
        payload: &bytes[8..],
    })
}

/// An IP packet that was put together here.
pub(crate) fn packet_of(bytes: &[u8]) -> Result<Packet<'_>, Dropped> {
    let claim =
        if bytes.first().is_some_and(|first| first >> 4 == 4) { parse_v4(bytes)? } else { parse_v6(bytes)? };
    match claim {
        Claim::Ip(packet) => Ok(packet),
        Claim::Arp { .. } | Claim::Fragment(_) => Err(Dropped::Malformed),
    }
}

/// Whether the sum of a packet's payload holds: pieces of several packets may have been put together.
pub(crate) fn sum_holds(packet: &Packet<'_>) -> bool {
    let sum = match packet.protocol {
        // None at all is what zero says, over IPv4.
        UDP if packet.source.is_ipv4() && u16_at(packet.payload, 6) == Some(0) => return true,
        ICMP => sum::Sum::default(),
        protocol => sum::Sum::pseudo(packet.source, packet.destination, protocol, packet.payload.len()),
    };
    sum.add(packet.payload).folded() == 0xffff
}

/// The head of a TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TcpHead {
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) flags: u8,
    /// How far the segment moves the sequence.
    pub(crate) length: u32,
    /// The largest segment that the sender takes, if it said.
    pub(crate) segment_bytes: Option<u16>,
}

impl TcpHead {
    pub(crate) const FIN: u8 = 1;
    pub(crate) const SYN: u8 = 2;
    pub(crate) const RST: u8 = 4;
    pub(crate) const ACK: u8 = 16;

    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let head_bytes = usize::from(*bytes.get(12)? >> 4) * 4;
        if head_bytes < 20 || bytes.len() < head_bytes {
            return None;
        }
        let flags = *bytes.get(13)?;
        let counts = |flag| u32::from(flags & flag != 0);
        let data = u32::try_from(bytes.len() - head_bytes).ok()?;
        Some(Self {
            source_port: u16_at(bytes, 0)?,
            destination_port: u16_at(bytes, 2)?,
            sequence: u32_at(bytes, 4)?,
            acknowledgement: u32_at(bytes, 8)?,
            flags,
            length: data + counts(Self::SYN) + counts(Self::FIN),
            segment_bytes: segment_option(bytes.get(20..head_bytes)?).map(|(_, value)| value),
        })
    }

    pub(crate) fn is_set(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The option that tells the largest segment: where its value stands in `options`, and the value.
pub(crate) fn segment_option(options: &[u8]) -> Option<(usize, u16)> {
    let mut at = 0;
    loop {
        match *options.get(at)? {
            0 => return None,
            1 => at += 1,
            kind => {
                let length = usize::from(*options.get(at + 1)?);
                if kind == 2 && length == 4 {
                    return Some((at + 2, u16_at(options, at + 2)?));
                }
                at += length.max(2);
            }
        }
    }
}

/// A UDP datagram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Datagram<'a> {
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let length = usize::from(u16_at(bytes, 4)?);
        Some(Self {
            source_port: u16_at(bytes, 0)?,
            destination_port: u16_at(bytes, 2)?,
            payload: bytes.get(8..length)?,
        })
    }
}

/// An echo request of either family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Echo<'a> {
    pub(crate) identifier: u16,
    /// From the sequence number on.
    pub(crate) rest: &'a [u8],
}

impl<'a> Echo<'a> {
    pub(crate) fn parse(protocol: u8, bytes: &'a [u8]) -> Option<Self> {
        let request = if protocol == ICMP { 8 } else { 128 };
        if bytes.len() < 8 || bytes[0] != request || bytes[1] != 0 {
            return None;
        }
        Some(Self { identifier: u16_at(bytes, 4)?, rest: &bytes[6..] })
    }
}

/// Whom a neighbour solicitation asks for.
pub(crate) fn solicited(bytes: &[u8]) -> Option<Ipv6Addr> {
    const SOLICITATION: u8 = 135;
    if *bytes.first()? != SOLICITATION || *bytes.get(1)? != 0 {
        return None;
    }
    array_at::<16>(bytes, 8).map(Ipv6Addr::from)
}

#[cfg(test)]
mod tests;
