//! The addresses on a guest's link. Every machine has the same: no two of them share a link.
//!
//! All lie in blocks that are routed nowhere and that no company uses (the benchmark block of RFC 2544, and a unique
//! local prefix of pyro's own), so that they hide nothing a rule could open.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::address::Cidr;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// The guest's.
pub const GUEST_MAC: Mac = [0x02, 0x70, 0x79, 0x72, 0x6f, 0x02];
/// The gateway's.
pub const GATEWAY_MAC: Mac = [0x02, 0x70, 0x79, 0x72, 0x6f, 0x01];

/// The guest's IPv4 address, in a network of [`PREFIX_V4`] bits.
pub const GUEST_V4: Ipv4Addr = Ipv4Addr::new(198, 19, 255, 2);
/// Gateway and only name server.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(198, 19, 255, 1);
/// Bits of the link's IPv4 network.
pub const PREFIX_V4: u8 = 24;

/// The guest's IPv6 address, in a network of [`PREFIX_V6`] bits.
pub const GUEST_V6: Ipv6Addr = Ipv6Addr::new(0xfd70, 0x7972, 0x6f00, 0, 0, 0, 0, 2);
/// Gateway and name server.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd70, 0x7972, 0x6f00, 0, 0, 0, 0, 1);
/// Bits of the link's IPv6 network.
pub const PREFIX_V6: u8 = 64;

/// The largest IP packet without segmentation offload: what Ethernet has, so that bridges inside the guest fit.
pub const MTU: u16 = 1500;

/// Where the IPv4 addresses of allowed names lie.
pub const NAMES_V4: Cidr = Cidr::v4(Ipv4Addr::new(198, 18, 0, 0), 16);
/// Where the IPv6 addresses of allowed names lie.
pub const NAMES_V6: Cidr = Cidr::v6(Ipv6Addr::new(0xfd70, 0x7972, 0x6f00, 1, 0, 0, 0, 0), 64);

/// Whether `address` is the guest's own on this link; all else in a source is spoofed.
pub(crate) fn is_guest(address: IpAddr) -> bool {
    address == IpAddr::V4(GUEST_V4) || address == IpAddr::V6(GUEST_V6)
}

/// Whether `address` is the gateway's.
pub(crate) fn is_gateway(address: IpAddr) -> bool {
    address == IpAddr::V4(GATEWAY_V4) || address == IpAddr::V6(GATEWAY_V6)
}
