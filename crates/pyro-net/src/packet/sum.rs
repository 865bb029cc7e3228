//! The Internet checksum (RFC 1071).

use std::net::IpAddr;

/// A sum under way; pieces but the last have an even length.
#[derive(Clone, Copy, Default)]
pub(super) struct Sum(u64);

impl Sum {
    pub(super) fn add(mut self, bytes: &[u8]) -> Self {
        let mut pairs = bytes.chunks_exact(2);
        for pair in pairs.by_ref() {
            self.0 += u64::from(u16::from_be_bytes([pair[0], pair[1]]));
        }
        if let [last] = pairs.remainder() {
            self.0 += u64::from(*last) << 8;
        }
        self
    }

    /// The header that TCP, UDP and ICMPv6 put before their own for the sum alone.
    pub(super) fn pseudo(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Self {
        let mut sum = Self(u64::from(protocol) + length as u64);
        for address in [source, destination] {
            sum = match address {
                IpAddr::V4(v4) => sum.add(&v4.octets()),
                IpAddr::V6(v6) => sum.add(&v6.octets()),
            };
        }
        sum
    }

    /// The sum, not yet inverted: what offload wants in the field.
    pub(super) fn folded(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    /// The checksum.
    pub(super) fn finish(self) -> u16 {
        !self.folded()
    }
}
