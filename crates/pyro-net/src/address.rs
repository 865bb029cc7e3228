//! What an address is: public, or part of which block that is not.
//!
//! Forms of IPv6 that carry an IPv4 address are looked through: what they carry decides.

mod cidr;
mod table;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

pub use cidr::{Cidr, CidrError};

/// Why an address is not an ordinary public one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// No host at all, or this one: `0.0.0.0/8`, `::`.
    Unspecified,
    /// The dialling host itself.
    Loopback,
    /// Only the next cable; clouds put their metadata here.
    LinkLocal,
    /// A cloud's instance metadata or agent service, wherever its address lies.
    Metadata,
    /// RFC 1918 and unique local addresses.
    Private,
    /// Carrier-grade NAT.
    Carrier,
    /// Documentation.
    Documentation,
    /// Benchmarks of network devices.
    Benchmark,
    /// Groups.
    Multicast,
    /// Everyone on a cable.
    Broadcast,
    /// Tunnels and translations whose inner address cannot be told or is not to be trusted.
    Translation,
    /// Set aside for protocols and for the future.
    Reserved,
}

impl Kind {
    /// Whether a name may lead here once a rule allows exactly that name. Companies resolve names into private
    /// ranges; the remaining kinds are the host itself and services that trust whoever can reach them, and
    /// whoever answers for the name must not choose those.
    #[must_use]
    pub fn is_open_to_names(self) -> bool {
        match self {
            Self::Private
            | Self::Carrier
            | Self::Documentation
            | Self::Benchmark
            | Self::Translation
            | Self::Reserved => true,
            Self::Unspecified
            | Self::Loopback
            | Self::LinkLocal
            | Self::Metadata
            | Self::Multicast
            | Self::Broadcast => false,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "unspecified",
            Self::Loopback => "loopback",
            Self::LinkLocal => "link-local",
            Self::Metadata => "cloud metadata",
            Self::Private => "private",
            Self::Carrier => "carrier",
            Self::Documentation => "documentation",
            Self::Benchmark => "benchmark",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::Translation => "translation",
            Self::Reserved => "reserved",
        })
    }
}

/// A block of addresses that are not public.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its addresses.
    pub range: Cidr,
    /// What they are for.
    pub kind: Kind,
    /// Who says so.
    pub source: &'static str,
}

/// The narrowest block that holds `address` or the IPv4 address inside it; `None` for public addresses.
#[must_use]
pub fn block_of(address: IpAddr) -> Option<&'static Block> {
    let direct = narrowest(address);
    match (address, embedded_v4(address)) {
        (IpAddr::V6(_), Some(inner)) => narrowest(IpAddr::V4(inner)).or(direct),
        (IpAddr::V4(_) | IpAddr::V6(_), _) => direct,
    }
}

/// Whether `address` is an ordinary public one.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    block_of(address).is_none()
}

/// The IPv4 address that a form of IPv6 carries: mapped, compatible, NAT64 (both prefixes), 6to4, ISATAP.
#[must_use]
pub fn embedded_v4(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    let from_pair = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Some(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        // ::ffff:a.b.c.d and, long deprecated, ::a.b.c.d and ::ffff:0:a.b.c.d.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => from_pair(high, low),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => from_pair(high, low),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 1, _, _, _, high, low] => from_pair(high, low),
        [0x2002, high, low, ..] => from_pair(high, low),
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => from_pair(high, low),
        _ => None,
    }
}

/// Whether packets can go to `address` at all: one host, not a group and not nobody.
#[must_use]
pub fn is_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_multicast() && !v4.is_broadcast() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_multicast() && !v6.is_unspecified(),
    }
}

fn narrowest(address: IpAddr) -> Option<&'static Block> {
    let table = match address {
        IpAddr::V4(_) => table::V4,
        IpAddr::V6(_) => table::V6,
    };
    table
        .iter()
        .filter(|block| block.range.contains(address))
        .max_by_key(|block| block.range.prefix_bits())
        .or_else(|| outside_global_unicast(address))
}

/// IPv6 has one block from which public addresses come, `2000::/3`; NAT64's prefix is the exception in the table.
fn outside_global_unicast(address: IpAddr) -> Option<&'static Block> {
    let IpAddr::V6(v6) = address else { return None };
    let is_global = v6.segments()[0] >> 13 == 1;
    let is_nat64 = Cidr::v6(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96).contains(address);
    (!is_global && !is_nat64).then_some(&table::V6_OUTSIDE_GLOBAL_UNICAST)
}

#[cfg(test)]
mod tests;
