//! The blocks that are not public, as data.
//!
//! Sources: the IANA special-purpose address registries for IPv4 and IPv6 (RFC 6890 and what updated it), the IPv4
//! and IPv6 multicast assignments, and the clouds' own documentation for metadata addresses.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Block, Cidr, Kind};

const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u8, kind: Kind, source: &'static str) -> Block {
    Block { range: Cidr::v4(Ipv4Addr::new(a, b, c, d), bits), kind, source }
}

const fn v6(head: [u16; 5], last: u16, bits: u8, kind: Kind, source: &'static str) -> Block {
    let [a, b, c, d, e] = head;
    Block { range: Cidr::v6(Ipv6Addr::new(a, b, c, d, e, 0, 0, last), bits), kind, source }
}

/// Every IPv4 block; where they nest, the narrowest counts.
pub(super) const V4: &[Block] = &[
    v4(0, 0, 0, 0, 8, Kind::Unspecified, "RFC 791"),
    v4(10, 0, 0, 0, 8, Kind::Private, "RFC 1918"),
    v4(100, 64, 0, 0, 10, Kind::Carrier, "RFC 6598"),
    v4(100, 100, 100, 200, 32, Kind::Metadata, "Alibaba Cloud instance metadata"),
    v4(127, 0, 0, 0, 8, Kind::Loopback, "RFC 1122"),
    // Public space, but routed to the hypervisor's agent from inside the cloud.
    v4(168, 63, 129, 16, 32, Kind::Metadata, "Azure platform agent"),
    v4(169, 254, 0, 0, 16, Kind::LinkLocal, "RFC 3927"),
    v4(169, 254, 169, 254, 32, Kind::Metadata, "AWS, Google Cloud, Azure, OpenStack instance metadata"),
    v4(169, 254, 170, 2, 32, Kind::Metadata, "AWS ECS task metadata"),
    v4(169, 254, 170, 23, 32, Kind::Metadata, "AWS EKS pod identity"),
    v4(172, 16, 0, 0, 12, Kind::Private, "RFC 1918"),
    v4(192, 0, 0, 0, 24, Kind::Reserved, "RFC 6890"),
    v4(192, 0, 0, 192, 32, Kind::Metadata, "Oracle Cloud instance metadata"),
    v4(192, 0, 2, 0, 24, Kind::Documentation, "RFC 5737"),
    v4(192, 31, 196, 0, 24, Kind::Reserved, "RFC 7535 (AS112)"),
    v4(192, 52, 193, 0, 24, Kind::Translation, "RFC 7450 (AMT)"),
    v4(192, 88, 99, 0, 24, Kind::Translation, "RFC 7526 (6to4 relays)"),
    v4(192, 168, 0, 0, 16, Kind::Private, "RFC 1918"),
    v4(192, 175, 48, 0, 24, Kind::Reserved, "RFC 7534 (AS112)"),
    v4(198, 18, 0, 0, 15, Kind::Benchmark, "RFC 2544"),
    v4(198, 51, 100, 0, 24, Kind::Documentation, "RFC 5737"),
    v4(203, 0, 113, 0, 24, Kind::Documentation, "RFC 5737"),
    v4(224, 0, 0, 0, 4, Kind::Multicast, "RFC 5771"),
    v4(240, 0, 0, 0, 4, Kind::Reserved, "RFC 1112"),
    v4(255, 255, 255, 255, 32, Kind::Broadcast, "RFC 919"),
];

/// Every IPv6 block inside or beside `2000::/3`; where they nest, the narrowest counts.
pub(super) const V6: &[Block] = &[
    v6([0, 0, 0, 0, 0], 0, 128, Kind::Unspecified, "RFC 4291"),
    v6([0, 0, 0, 0, 0], 1, 128, Kind::Loopback, "RFC 4291"),
    // Translated by routers that are not here; what a host's own NAT64 maps to is not ours to guess.
    v6([0x64, 0xff9b, 1, 0, 0], 0, 48, Kind::Translation, "RFC 8215"),
    v6([0x100, 0, 0, 0, 0], 0, 64, Kind::Reserved, "RFC 6666 (discard)"),
    v6([0x100, 0, 0, 1, 0], 0, 64, Kind::Reserved, "RFC 9780 (dummy prefix)"),
    v6([0x2001, 0, 0, 0, 0], 0, 23, Kind::Reserved, "RFC 2928 (protocol assignments)"),
    v6([0x2001, 0, 0, 0, 0], 0, 32, Kind::Translation, "RFC 4380 (Teredo)"),
    v6([0x2001, 0xdb8, 0, 0, 0], 0, 32, Kind::Documentation, "RFC 3849"),
    v6([0x2620, 0x4f, 0x8000, 0, 0], 0, 48, Kind::Reserved, "RFC 7534 (AS112)"),
    v6([0x3fff, 0, 0, 0, 0], 0, 20, Kind::Documentation, "RFC 9637"),
    v6([0x5f00, 0, 0, 0, 0], 0, 16, Kind::Reserved, "RFC 9602 (segment routing)"),
    v6([0xfc00, 0, 0, 0, 0], 0, 7, Kind::Private, "RFC 4193"),
    v6([0xfd00, 0xec2, 0, 0, 0], 0x254, 128, Kind::Metadata, "AWS instance metadata"),
    v6([0xfd20, 0xce, 0, 0, 0], 0x254, 128, Kind::Metadata, "Google Cloud instance metadata"),
    v6([0xfe80, 0, 0, 0, 0], 0, 10, Kind::LinkLocal, "RFC 4291"),
    v6([0xfec0, 0, 0, 0, 0], 0, 10, Kind::Private, "RFC 3879 (site-local)"),
    v6([0xff00, 0, 0, 0, 0], 0, 8, Kind::Multicast, "RFC 4291"),
];

/// What no other block names.
pub(super) const V6_OUTSIDE_GLOBAL_UNICAST: Block =
    v6([0, 0, 0, 0, 0], 0, 0, Kind::Reserved, "RFC 4291 (only 2000::/3 is assigned)");
