//! Addresses of the guest's own names. There is no resolver in here: what is waited for is in the guest.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::limits::MAX_HOSTS_BYTES;

/// Addresses that `host` means: itself, the guest's loopback, or what `/etc/hosts` says.
pub(super) fn addresses(host: &str) -> Vec<IpAddr> {
    if let Ok(address) = host.parse() {
        return vec![address];
    }
    if host.eq_ignore_ascii_case("localhost") {
        return vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    }
    let mut text = Vec::new();
    if let Ok(file) = std::fs::File::open("/etc/hosts") {
        // What cannot be read holds no names.
        let _ = file.take(MAX_HOSTS_BYTES).read_to_end(&mut text);
    }
    listed(&String::from_utf8_lossy(&text), host)
}

/// The addresses of a name in the text of a `hosts(5)` file.
pub(super) fn listed(hosts: &str, name: &str) -> Vec<IpAddr> {
    let line = |line: &str| {
        let mut words = line.split('#').next()?.split_ascii_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
    };
    hosts.lines().filter_map(line).collect()
}
