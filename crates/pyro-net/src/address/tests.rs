use super::*;
use proptest::prelude::*;

fn kind(text: &str) -> Option<Kind> {
    block_of(text.parse().unwrap()).map(|block| block.kind)
}

#[test]
fn ordinary_addresses_are_public() {
    for text in [
        "1.1.1.1",
        "8.8.8.8",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "168.63.129.17",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "2606:4700::1111",
        "2a00:1450::1",
        "2001:4860::8888",
    ] {
        assert_eq!(kind(text), None, "{text}");
    }
}

#[test]
fn each_block_is_found_at_its_first_and_last_address() {
    for block in table::V4.iter().chain(table::V6) {
        let first = block.range.network();
        let last = match first {
            IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(
                v4.to_bits() | u32::MAX.checked_shr(u32::from(block.range.prefix_bits())).unwrap_or(0),
            )),
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(
                v6.to_bits() | u128::MAX.checked_shr(u32::from(block.range.prefix_bits())).unwrap_or(0),
            )),
        };
        for address in [first, last] {
            let found = block_of(address).unwrap_or_else(|| panic!("{address} of {}", block.range));
            assert!(
                block.range.covers(found.range) || embedded_v4(address).is_some(),
                "{address}: {found:?}"
            );
        }
    }
}

#[test]
fn metadata_is_told_from_what_surrounds_it() {
    for text in [
        "169.254.169.254",
        "169.254.170.2",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
        "fd00:ec2::254",
        "fd20:ce::254",
        "::ffff:169.254.169.254",
        "64:ff9b::169.254.169.254",
        "::ffff:168.63.129.16",
    ] {
        assert_eq!(kind(text), Some(Kind::Metadata), "{text}");
    }
    assert_eq!(kind("169.254.169.253"), Some(Kind::LinkLocal));
}

#[test]
fn the_address_inside_decides() {
    for (text, expected) in [
        ("::ffff:127.0.0.1", Some(Kind::Loopback)),
        ("::ffff:10.1.2.3", Some(Kind::Private)),
        // A mapped public address never belongs on a wire.
        ("::ffff:8.8.8.8", Some(Kind::Reserved)),
        ("::127.0.0.1", Some(Kind::Loopback)),
        ("64:ff9b::a00:1", Some(Kind::Private)),
        ("64:ff9b::808:808", None),
        ("64:ff9b:1::808:808", Some(Kind::Translation)),
        ("2002:7f00:1::", Some(Kind::Loopback)),
        ("2002:c0a8:101::1", Some(Kind::Private)),
        ("2002:808:808::1", None),
        ("2a00:1::5efe:10.0.0.1", Some(Kind::Private)),
        ("::1", Some(Kind::Loopback)),
        ("::", Some(Kind::Unspecified)),
        ("2001::1", Some(Kind::Translation)),
        ("4000::1", Some(Kind::Reserved)),
        ("fe80::1", Some(Kind::LinkLocal)),
        ("fec0::1", Some(Kind::Private)),
        ("ff02::1", Some(Kind::Multicast)),
    ] {
        assert_eq!(kind(text), expected, "{text}");
    }
}

#[test]
fn ranges_with_host_bits_are_refused_with_the_range_that_was_meant() {
    let error = "10.1.2.3/8".parse::<Cidr>().unwrap_err();
    assert_eq!(error.to_string(), "10.1.2.3/8 has bits behind its prefix; the range is 10.0.0.0/8");
    for text in ["10.0.0.0", "10.0.0.0/33", "::/129", "10.0.0.0/+8", "10.0.0.0/", "10/8", "x/8"] {
        assert!(matches!(text.parse::<Cidr>(), Err(CidrError::Form(_))), "{text}");
    }
}

proptest! {
    #[test]
    fn ranges_survive_their_text(address: IpAddr, bits in 0u8..=128) {
        let range = Cidr::new(address, bits);
        prop_assert_eq!(range.to_string().parse::<Cidr>().unwrap(), range);
        prop_assert!(range.contains(address));
    }

    #[test]
    fn no_embedding_makes_a_reserved_address_public(v4: Ipv4Addr, a: u16, b: u16) {
        let [high, low] = [(v4.to_bits() >> 16) as u16, v4.to_bits() as u16];
        let forms = [
            v4.to_ipv6_mapped(),
            Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
            Ipv6Addr::new(0x2002, high, low, a, b, 0, 0, 1),
            Ipv6Addr::new(0x2a00, a, b, 0, 0, 0x5efe, high, low),
        ];
        if !is_public(IpAddr::V4(v4)) {
            for form in forms {
                prop_assert!(!is_public(IpAddr::V6(form)), "{} in {}", v4, form);
            }
        }
    }

    #[test]
    fn the_standard_library_agrees_on_what_it_knows(address: Ipv4Addr) {
        let reserved = address.is_private() || address.is_loopback() || address.is_link_local() || address.is_multicast()
            || address.is_documentation() || address.is_unspecified() || address.is_broadcast();
        prop_assert!(!reserved || !is_public(IpAddr::V4(address)));
    }
}
