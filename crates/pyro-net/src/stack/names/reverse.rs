//! Names that stand for addresses, and others that are nobody's to ask for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::address;
use crate::policy::Name;

/// Whether nobody is asked for records of `name`: it stands for an address that is not public, of which the host's
/// network may know what the guest need not; or it asks where questions are answered in secret (RFC 9462).
pub(super) fn is_kept_back(name: &Name) -> bool {
    name.as_str() == "_dns.resolver.arpa"
        || address_of(name).is_some_and(|address| !address::is_public(address))
}

/// The address for which `name` stands (RFC 1035, 3.5; RFC 3596, 2.5).
fn address_of(name: &Name) -> Option<IpAddr> {
    if let Some(rest) = name.as_str().strip_suffix(".in-addr.arpa") {
        let mut octets = rest.rsplit('.').map(|label| label.parse::<u8>().ok());
        let mut address = [0; 4];
        for octet in &mut address {
            *octet = octets.next()??;
        }
        return octets.next().is_none().then(|| Ipv4Addr::from(address).into());
    }
    let rest = name.as_str().strip_suffix(".ip6.arpa")?;
    let digits: Vec<u8> = rest
        .rsplit('.')
        .map(|label| if label.len() == 1 { u8::from_str_radix(label, 16).ok() } else { None })
        .collect::<Option<_>>()?;
    if digits.len() != 32 {
        return None;
    }
    let bits = digits.iter().fold(0, |bits: u128, digit| bits << 4 | u128::from(*digit));
    Some(Ipv6Addr::from_bits(bits).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_addresses_have_no_names() {
        let v6 = |address: &str| {
            let digits = format!("{:032x}", address.parse::<Ipv6Addr>().unwrap().to_bits());
            let labels: Vec<String> = digits.chars().rev().map(String::from).collect();
            format!("{}.ip6.arpa", labels.join("."))
        };
        for text in [
            "5.0.0.10.in-addr.arpa",
            "1.0.0.127.in-addr.arpa",
            "254.169.254.169.in-addr.arpa",
            "_dns.resolver.arpa",
            &v6("fd00::1"),
            &v6("::1"),
        ] {
            assert!(is_kept_back(&text.parse().unwrap()), "{text}");
        }
        for text in [
            "9.9.9.9.in-addr.arpa",
            "0.10.in-addr.arpa",
            "1.5.0.0.10.in-addr.arpa",
            "x.0.0.10.in-addr.arpa",
            "in-addr.arpa",
            "a.example",
            "1.ip6.arpa",
            &v6("2620:fe::fe"),
        ] {
            assert!(!is_kept_back(&text.parse().unwrap()), "{text}");
        }
    }
}
