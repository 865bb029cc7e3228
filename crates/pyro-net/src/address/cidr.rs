//! A range of addresses that share a prefix.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// `ADDRESS/BITS`, without set bits behind the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    network: IpAddr,
    prefix_bits: u8,
}

/// A text that is no range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// Not `ADDRESS/BITS`.
    #[error("\"{0}\" is not a range of addresses such as 10.0.0.0/8")]
    Form(String),
    /// Bits behind the prefix; the writer may have meant another range.
    #[error("{given} has bits behind its prefix; the range is {meant}")]
    HostBits {
        /// As it was written.
        given: String,
        /// The range around it.
        meant: Cidr,
    },
}

impl Cidr {
    /// The range of `prefix_bits` around `address`; more bits than the family has count as all of them.
    #[must_use]
    pub const fn v4(address: Ipv4Addr, prefix_bits: u8) -> Self {
        let prefix_bits = if prefix_bits > 32 { 32 } else { prefix_bits };
        let mask = mask(32 - prefix_bits as u32) as u32;
        Self { network: IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask)), prefix_bits }
    }

    /// The range of `prefix_bits` around `address`; more bits than the family has count as all of them.
    #[must_use]
    pub const fn v6(address: Ipv6Addr, prefix_bits: u8) -> Self {
        let prefix_bits = if prefix_bits > 128 { 128 } else { prefix_bits };
        let mask = mask(128 - prefix_bits as u32);
        Self { network: IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask)), prefix_bits }
    }

    /// The range of `prefix_bits` around `address`.
    #[must_use]
    pub const fn new(address: IpAddr, prefix_bits: u8) -> Self {
        match address {
            IpAddr::V4(v4) => Self::v4(v4, prefix_bits),
            IpAddr::V6(v6) => Self::v6(v6, prefix_bits),
        }
    }

    /// The range of one address.
    #[must_use]
    pub const fn host(address: IpAddr) -> Self {
        Self::new(address, 128)
    }

    /// Its first address.
    #[must_use]
    pub const fn network(self) -> IpAddr {
        self.network
    }

    /// The length of its prefix.
    #[must_use]
    pub const fn prefix_bits(self) -> u8 {
        self.prefix_bits
    }

    /// Whether it is one address.
    #[must_use]
    pub const fn is_host(self) -> bool {
        self.prefix_bits == if self.network.is_ipv4() { 32 } else { 128 }
    }

    /// Whether `address` lies in it; families are different worlds.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        self.network.is_ipv4() == address.is_ipv4() && Self::new(address, self.prefix_bits) == self
    }

    /// Whether all of `other` lies in it.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.prefix_bits <= other.prefix_bits && self.contains(other.network)
    }
}

/// All ones but for the last `zeros` bits.
const fn mask(zeros: u32) -> u128 {
    if zeros == 128 { 0 } else { u128::MAX << zeros }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix_bits)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let form = || CidrError::Form(text.to_owned());
        let (address, bits) = text.split_once('/').ok_or_else(form)?;
        let address: IpAddr = address.parse().map_err(|_| form())?;
        // `u8::from_str` takes a sign, and a second spelling of a number would not survive emit.
        if bits.is_empty() || bits.len() > 3 || !bits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(form());
        }
        let bits: u8 = bits.parse().map_err(|_| form())?;
        if bits > if address.is_ipv4() { 32 } else { 128 } {
            return Err(form());
        }
        let range = Self::new(address, bits);
        if range.network != address {
            return Err(CidrError::HostBits { given: text.to_owned(), meant: range });
        }
        Ok(range)
    }
}
