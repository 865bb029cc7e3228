//! Name service that nobody but its two ends can read: with it, names would tell nothing and be checked by nobody.
//!
//! Programs find another way when they are refused: they ask the gateway, as everything else does. Whoever wants to
//! hide can still do so, for any server can answer questions; that is what lists of names are for.

use super::{Name, Protocol};

/// DNS over TLS and DTLS (RFC 7858, RFC 8094), and over QUIC (RFC 9250).
const TLS_PORT: u16 = 853;
const HTTPS_PORT: u16 = 443;

/// Servers that browsers and systems have built in or are commonly given: those of Mozilla's Trusted Recursive
/// Resolver program, of Chromium's `DohProviderEntry` list, and of curl's list of public servers.
const HTTPS_SERVERS: [&str; 38] = [
    "1dot1dot1dot1.cloudflare-dns.com",
    "adblock.dns.mullvad.net",
    "base.dns.mullvad.net",
    "chrome.cloudflare-dns.com",
    "cloudflare-dns.com",
    "dns-family.adguard.com",
    "dns-unfiltered.adguard.com",
    "dns.adguard-dns.com",
    "dns.adguard.com",
    "dns.alidns.com",
    "dns.digitale-gesellschaft.ch",
    "dns.google",
    "dns.google.com",
    "dns.mullvad.net",
    "dns.nextdns.io",
    "dns.quad9.net",
    "dns.switch.ch",
    "dns10.quad9.net",
    "dns11.quad9.net",
    "dns64.dns.google",
    "dns9.quad9.net",
    "doh.cleanbrowsing.org",
    "doh.dns.sb",
    "doh.familyshield.opendns.com",
    "doh.opendns.com",
    "doh.pub",
    "doh.xfinity.com",
    "family.adguard-dns.com",
    "family.cloudflare-dns.com",
    "firefox.dns.nextdns.io",
    "freedns.controld.com",
    "mozilla.cloudflare-dns.com",
    "odvr.nic.cz",
    "one.one.one.one",
    "private.canadianshield.cira.ca",
    "public.dns.iij.jp",
    "security.cloudflare-dns.com",
    "unfiltered.adguard-dns.com",
];

/// Whether `name` is known to answer questions over HTTPS.
pub(super) fn is_server(name: &Name) -> bool {
    HTTPS_SERVERS.binary_search(&name.as_str()).is_ok()
}

/// Whether a flow to `port` of `names` is one of questions that cannot be read, as far as these tell.
pub(super) fn is_it(protocol: Protocol, port: u16, names: &[Name]) -> bool {
    match (protocol, port) {
        (Protocol::Tcp | Protocol::Udp, TLS_PORT) => true,
        (Protocol::Tcp | Protocol::Udp, HTTPS_PORT) => names.iter().any(is_server),
        (Protocol::Tcp | Protocol::Udp | Protocol::Icmp, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_in_order_and_of_names() {
        assert!(HTTPS_SERVERS.is_sorted_by(|a, b| a < b));
        for text in HTTPS_SERVERS {
            let name: Name = text.parse().unwrap();
            assert!(name.as_str() == text && is_server(&name), "{text}");
        }
        assert!(!is_server(&"google".parse().unwrap()) && !is_server(&"a.dns.google".parse().unwrap()));
    }
}
