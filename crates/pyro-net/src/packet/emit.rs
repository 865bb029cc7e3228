//! The packets that we make ourselves, whole with virtio and Ethernet header, ready for the link.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::sum::Sum;
use super::{
    ETHERTYPE_ARP, ETHERTYPE_V4, ETHERTYPE_V6, ICMP, ICMP6, Packet, TCP, TcpHead, UDP, segment_option,
};
use crate::guest::{GATEWAY_MAC, GUEST_MAC, MTU, Mac};
use crate::limits::{ETHERNET_BYTES, VNET_BYTES};

/// Where the IP packet begins.
pub(crate) const IP_AT: usize = VNET_BYTES + ETHERNET_BYTES;

/// The sum over what `csum_start` marks is left to the receiver.
const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;

const HOP_LIMIT: u8 = 64;

/// Why a packet did not reach its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreachable {
    Prohibited,
    Port,
    Host,
}

/// Ethernet and virtio headers around nothing yet.
fn frame(to: Mac, kind: u16, capacity: usize) -> Vec<u8> {
    let mut message = Vec::with_capacity(IP_AT + capacity);
    message.resize(VNET_BYTES, 0);
    // One buffer holds the packet; the device that passes it on counts anew.
    message[10] = 1;
    message.extend(to);
    message.extend(GATEWAY_MAC);
    message.extend(kind.to_be_bytes());
    message
}

/// Writes the headers in front of an IP packet that stands at [`IP_AT`], made by the TCP stack: the sums and the
/// segmentation are left to the receiver. `segment_bytes` is what the guest takes at once.
pub(crate) fn finish_tcp(message: &mut [u8], segment_bytes: u16) {
    let ip = &message[IP_AT..];
    let is_v4 = ip[0] >> 4 == 4;
    let head_bytes = if is_v4 { usize::from(ip[0] & 0xf) * 4 } else { 40 };
    let (source, destination) = addresses(ip, is_v4);
    let tcp_bytes = ip.len() - head_bytes;
    let tcp_head_bytes = usize::from(ip[head_bytes + 12] >> 4) * 4;
    let options_bytes = tcp_head_bytes - 20;
    let pseudo = Sum::pseudo(source, destination, TCP, tcp_bytes).folded();
    let tcp_at = IP_AT + head_bytes;
    message[tcp_at + 16..tcp_at + 18].copy_from_slice(&pseudo.to_be_bytes());
    // The TCP stack believes in packets of 64 KiB; what the guest may send at once is told here.
    if message[tcp_at + 13] & TcpHead::SYN != 0
        && let Some((at, _)) = segment_option(&message[tcp_at + 20..tcp_at + tcp_head_bytes])
    {
        let most = MTU - if is_v4 { 40 } else { 60 };
        message[tcp_at + 20 + at..tcp_at + 22 + at].copy_from_slice(&most.to_be_bytes());
    }

    let most = usize::from(segment_bytes.min(MTU - if is_v4 { 40 } else { 60 }))
        .saturating_sub(options_bytes)
        .max(1);
    let is_super = tcp_bytes - tcp_head_bytes > most;
    let mut virtio = [0; VNET_BYTES];
    virtio[0] = NEEDS_CSUM;
    if is_super {
        virtio[1] = if is_v4 { GSO_TCPV4 } else { GSO_TCPV6 };
        virtio[2..4].copy_from_slice(&((ETHERNET_BYTES + head_bytes + tcp_head_bytes) as u16).to_le_bytes());
        virtio[4..6].copy_from_slice(&(most as u16).to_le_bytes());
    }
    virtio[6..8].copy_from_slice(&((ETHERNET_BYTES + head_bytes) as u16).to_le_bytes());
    virtio[8..10].copy_from_slice(&16u16.to_le_bytes());
    virtio[10] = 1;
    message[..VNET_BYTES].copy_from_slice(&virtio);
    let ethernet = &mut message[VNET_BYTES..IP_AT];
    ethernet[..6].copy_from_slice(&GUEST_MAC);
    ethernet[6..12].copy_from_slice(&GATEWAY_MAC);
    ethernet[12..].copy_from_slice(&if is_v4 { ETHERTYPE_V4 } else { ETHERTYPE_V6 }.to_be_bytes());
}

fn addresses(ip: &[u8], is_v4: bool) -> (IpAddr, IpAddr) {
    if is_v4 {
        let at = |at: usize| Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]).into();
        (at(12), at(16))
    } else {
        let at = |at: usize| {
            let mut octets = [0; 16];
            octets.copy_from_slice(&ip[at..at + 16]);
            Ipv6Addr::from(octets).into()
        };
        (at(8), at(24))
    }
}

/// The answer to a question for the gateway's Ethernet address.
pub(crate) fn arp_reply(to_mac: Mac, to: Ipv4Addr, own: Ipv4Addr) -> Vec<u8> {
    let mut message = frame(to_mac, ETHERTYPE_ARP, 28);
    message.extend([0, 1, 8, 0, 6, 4, 0, 2]);
    message.extend(GATEWAY_MAC);
    message.extend(own.octets());
    message.extend(to_mac);
    message.extend(to.octets());
    message
}

/// The answer to a neighbour solicitation for `own`.
pub(crate) fn neighbour_advertisement(to: Ipv6Addr, own: Ipv6Addr) -> Vec<u8> {
    const ROUTER_SOLICITED_OVERRIDE: u8 = 0xe0;
    let mut body = vec![136, 0, 0, 0, ROUTER_SOLICITED_OVERRIDE, 0, 0, 0];
    body.extend(own.octets());
    body.extend([2, 1]);
    body.extend(GATEWAY_MAC);
    // Neighbour discovery believes only what no router can have forwarded.
    ip_packet(own.into(), to.into(), ICMP6, &body, 255)
}

/// A packet of one of our own protocols, its sum filled in; pieces of it if it is larger than the link takes.
fn ip_packet(source: IpAddr, destination: IpAddr, protocol: u8, body: &[u8], hop_limit: u8) -> Vec<u8> {
    let mut body = body.to_vec();
    fill_sum(source, destination, protocol, &mut body);
    let mut message = frame(GUEST_MAC, ethertype(source), 40 + body.len());
    ip_head(
        &mut message,
        Head { source, destination, protocol, hop_limit, fragment: 0, identification: 0 },
        body.len(),
    );
    message.extend(body);
    message
}

fn ethertype(address: IpAddr) -> u16 {
    if address.is_ipv4() { ETHERTYPE_V4 } else { ETHERTYPE_V6 }
}

fn fill_sum(source: IpAddr, destination: IpAddr, protocol: u8, body: &mut [u8]) {
    let at = match protocol {
        TCP => 16,
        UDP => 6,
        _ => 2,
    };
    body[at..at + 2].fill(0);
    let sum = match protocol {
        ICMP => Sum::default(),
        _ => Sum::pseudo(source, destination, protocol, body.len()),
    };
    let sum = match sum.add(body).finish() {
        // No sum at all is what zero says in UDP.
        0 if protocol == UDP => 0xffff,
        sum => sum,
    };
    body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

#[derive(Clone, Copy)]
struct Head {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    hop_limit: u8,
    /// The field of IPv4: flags and offset.
    fragment: u16,
    identification: u16,
}

fn ip_head(message: &mut Vec<u8>, head: Head, payload_bytes: usize) {
    let at = message.len();
    match (head.source, head.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            message.extend([0x45, 0]);
            message.extend(((20 + payload_bytes) as u16).to_be_bytes());
            message.extend(head.identification.to_be_bytes());
            message.extend(head.fragment.to_be_bytes());
            message.extend([head.hop_limit, head.protocol, 0, 0]);
            message.extend(source.octets());
            message.extend(destination.octets());
            let sum = Sum::default().add(&message[at..]).finish();
            message[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
        }
        (source, destination) => {
            message.extend([0x60, 0, 0, 0]);
            message.extend((payload_bytes as u16).to_be_bytes());
            message.extend([head.protocol, head.hop_limit]);
            for address in [source, destination] {
                match address {
                    IpAddr::V4(v4) => message.extend(v4.to_ipv6_mapped().octets()),
                    IpAddr::V6(v6) => message.extend(v6.octets()),
                }
            }
        }
    }
}

/// An IP packet as the guest would have sent it, had it fitted the link.
pub(crate) fn whole_packet(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(40 + payload.len());
    let head = Head { source, destination, protocol, hop_limit: HOP_LIMIT, fragment: 0, identification: 0 };
    ip_head(&mut packet, head, payload.len());
    packet.extend(payload);
    packet
}

/// A datagram to the guest, in as many pieces as the link needs; `identification` tells their packet apart.
pub(crate) fn datagram(
    source: SocketAddr,
    destination: SocketAddr,
    payload: &[u8],
    identification: u16,
) -> Vec<Vec<u8>> {
    let mut body = Vec::with_capacity(8 + payload.len());
    body.extend(source.port().to_be_bytes());
    body.extend(destination.port().to_be_bytes());
    body.extend(((8 + payload.len()) as u16).to_be_bytes());
    body.extend([0, 0]);
    body.extend(payload);
    fill_sum(source.ip(), destination.ip(), UDP, &mut body);
    pieces(source.ip(), destination.ip(), UDP, &body, identification)
}

fn pieces(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    body: &[u8],
    identification: u16,
) -> Vec<Vec<u8>> {
    let head = Head { source, destination, protocol, hop_limit: HOP_LIMIT, fragment: 0, identification };
    let head_bytes = if source.is_ipv4() { 20 } else { 40 };
    if body.len() + head_bytes <= usize::from(MTU) {
        let mut message = frame(GUEST_MAC, ethertype(source), head_bytes + body.len());
        ip_head(&mut message, head, body.len());
        message.extend(body);
        return vec![message];
    }
    const FRAGMENT_HEAD_BYTES: usize = 8;
    // Offsets count in eights.
    let room = (usize::from(MTU) - head_bytes - FRAGMENT_HEAD_BYTES) / 8 * 8;
    let last = body.len().div_ceil(room) - 1;
    let mut messages = Vec::new();
    for (number, piece) in body.chunks(room).enumerate() {
        let offset = (number * room) as u16;
        let more = u16::from(number != last);
        let mut message = frame(GUEST_MAC, ethertype(source), usize::from(MTU));
        if source.is_ipv4() {
            ip_head(&mut message, Head { fragment: (more << 13) | (offset / 8), ..head }, piece.len());
        } else {
            ip_head(&mut message, Head { protocol: 44, ..head }, FRAGMENT_HEAD_BYTES + piece.len());
            message.extend([protocol, 0]);
            message.extend((offset | more).to_be_bytes());
            message.extend([0, 0]);
            message.extend(identification.to_be_bytes());
        }
        message.extend(piece);
        messages.push(message);
    }
    messages
}

/// The answer to an echo request: `rest` begins at its sequence number.
pub(crate) fn echo_reply(
    source: IpAddr,
    destination: IpAddr,
    identifier: u16,
    rest: &[u8],
    identification: u16,
) -> Vec<Vec<u8>> {
    let (protocol, reply) = if source.is_ipv4() { (ICMP, 0) } else { (ICMP6, 129) };
    let mut body = vec![reply, 0, 0, 0];
    body.extend(identifier.to_be_bytes());
    body.extend(rest);
    fill_sum(source, destination, protocol, &mut body);
    pieces(source, destination, protocol, &body, identification)
}

/// Tells the sender of `packet` that it did not arrive.
pub(crate) fn unreachable(packet: &Packet<'_>, why: Unreachable) -> Vec<u8> {
    // The quoted header and eight bytes name the flow; more would only amplify.
    let quoted = packet.bytes.len() - packet.payload.len() + packet.payload.len().min(8);
    unreachable_quoting(packet.destination, packet.source, &packet.bytes[..quoted], why)
}

/// The same about a datagram that is gone: its head is made anew.
pub(crate) fn unreachable_datagram(source: SocketAddr, destination: SocketAddr, why: Unreachable) -> Vec<u8> {
    let mut quoted = Vec::with_capacity(48);
    let head = Head {
        source: source.ip(),
        destination: destination.ip(),
        protocol: UDP,
        hop_limit: HOP_LIMIT,
        fragment: 0,
        identification: 0,
    };
    ip_head(&mut quoted, head, 8);
    quoted.extend(source.port().to_be_bytes());
    quoted.extend(destination.port().to_be_bytes());
    quoted.extend([0, 8, 0, 0]);
    unreachable_quoting(destination.ip(), source.ip(), &quoted, why)
}

fn unreachable_quoting(source: IpAddr, destination: IpAddr, quoted: &[u8], why: Unreachable) -> Vec<u8> {
    let (protocol, kind, code) = match (source.is_ipv4(), why) {
        (true, Unreachable::Prohibited) => (ICMP, 3, 13),
        (true, Unreachable::Port) => (ICMP, 3, 3),
        (true, Unreachable::Host) => (ICMP, 3, 1),
        (false, Unreachable::Prohibited) => (ICMP6, 1, 1),
        (false, Unreachable::Port) => (ICMP6, 1, 4),
        (false, Unreachable::Host) => (ICMP6, 1, 3),
    };
    let mut body = vec![kind, code, 0, 0, 0, 0, 0, 0];
    body.extend(quoted);
    ip_packet(source, destination, protocol, &body, HOP_LIMIT)
}

/// Ends a connection that is not known here (RFC 9293, 3.10.7.1).
pub(crate) fn reset(packet: &Packet<'_>, head: &TcpHead) -> Vec<u8> {
    let (sequence, acknowledgement, flags) = if head.is_set(TcpHead::ACK) {
        (head.acknowledgement, 0, TcpHead::RST)
    } else {
        (0, head.sequence.wrapping_add(head.length), TcpHead::RST | TcpHead::ACK)
    };
    let mut body = Vec::with_capacity(20);
    body.extend(head.destination_port.to_be_bytes());
    body.extend(head.source_port.to_be_bytes());
    body.extend(sequence.to_be_bytes());
    body.extend(acknowledgement.to_be_bytes());
    body.extend([5 << 4, flags, 0, 0, 0, 0, 0, 0]);
    ip_packet(packet.destination, packet.source, TCP, &body, HOP_LIMIT)
}
