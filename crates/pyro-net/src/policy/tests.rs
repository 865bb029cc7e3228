use super::*;
use crate::address::{self, Kind};
use proptest::prelude::*;
use std::net::IpAddr;

fn rules(texts: &[&str]) -> Vec<Rule> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn policy(mode: Mode, allow: &[&str], deny: &[&str]) -> Policy {
    Policy { allow: rules(allow), deny: rules(deny), ..Policy::of(mode) }
}

fn flow(protocol: Protocol, address: &str, port: u16, names: &[&str]) -> Flow {
    Flow {
        protocol,
        address: address.parse().unwrap(),
        port,
        names: names.iter().map(|name| name.parse().unwrap()).collect(),
        is_hosts: false,
    }
}

fn tcp(address: &str, port: u16, names: &[&str]) -> Flow {
    flow(Protocol::Tcp, address, port, names)
}

#[test]
fn rules_are_read_and_written_alike() {
    for text in [
        "example.com",
        "*.example.com",
        "example.com:443",
        "tcp://example.com:80,443",
        "udp://1.2.3.4:53",
        "icmp://1.1.1.1",
        "10.0.0.0/8",
        "10.0.0.0/8:8000-8100",
        "[2001:db8::/32]:443",
        "2001:db8::1",
        "[::1]:8080",
        "tcp://[fd00::/8]:1-1024",
        "fd00::/8",
    ] {
        assert_eq!(text.parse::<Rule>().unwrap().to_string(), text);
    }
    for (text, canonical) in [
        ("EXAMPLE.com.", "example.com"),
        ("1.2.3.4/32", "1.2.3.4"),
        ("a.b:443,80,81", "a.b:80-81,443"),
        ("[::1]", "::1"),
        (" a.b ", "a.b"),
    ] {
        assert_eq!(text.parse::<Rule>().unwrap().to_string(), canonical);
    }
}

#[test]
fn what_is_no_rule_says_why() {
    for (text, part) in [
        ("", "1 to 512 characters"),
        ("https://example.com/", "is a URL"),
        ("example.com/path", "is a URL"),
        ("user@example.com", "is a URL"),
        ("sctp://a.b", "not a protocol"),
        ("*", "has a star"),
        ("a.*.b", "has a star"),
        ("*.*.b", "has a star"),
        ("example.com:0", "from 1 to 65535"),
        ("example.com:70000", "is not a port"),
        ("example.com:90-80", "ends before it begins"),
        ("example.com:", "is not a port"),
        ("icmp://a.b:1", "icmp has no ports"),
        ("10.1.0.0/8", "the range is 10.0.0.0/8"),
        ("10.0.0.0/99", "not a range"),
        ("1.2.3", "neither an address nor a domain name"),
        ("a..b", "is not a domain name"),
        ("bücher.example", "xn--"),
        ("a b", "is not a domain name"),
        ("[::1:80", "in brackets"),
        ("[a.b]:80", "in brackets"),
        ("example.com:1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17", "at most 16 ranges"),
    ] {
        let error = text.parse::<Rule>().unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn egress_reaches_the_public_internet_and_nothing_else() {
    let policy = Policy::of(Mode::Egress);
    assert_eq!(policy.decide(&tcp("1.1.1.1", 443, &[])).reason, Reason::Public);
    for (address, kind) in [
        ("127.0.0.1", Kind::Loopback),
        ("10.0.0.1", Kind::Private),
        ("169.254.169.254", Kind::Metadata),
        ("168.63.129.16", Kind::Metadata),
        ("64:ff9b::a00:1", Kind::Private),
        ("100.64.0.1", Kind::Carrier),
    ] {
        let decision = policy.decide(&tcp(address, 80, &[]));
        assert_eq!(
            (decision.verdict, decision.reason),
            (Verdict::Deny, Reason::NotPublic(kind)),
            "{address}"
        );
    }
    let own = Flow { is_hosts: true, ..tcp("8.8.4.4", 22, &[]) };
    assert_eq!(policy.decide(&own).reason, Reason::Host);
}

#[test]
fn off_is_opened_by_no_rule() {
    let decision = policy(Mode::Off, &["1.1.1.1"], &[]).decide(&tcp("1.1.1.1", 443, &[]));
    assert_eq!((decision.reason, decision.smallest_rule_that_would_allow), (Reason::Off, None));
}

#[test]
fn a_denied_flow_names_the_rule_that_opens_exactly_it() {
    let base = Policy::of(Mode::Egress);
    let cases = [
        (tcp("203.0.113.80", 80, &["deb.example.org"]), "tcp://deb.example.org:80"),
        (tcp("10.1.2.3", 5432, &[]), "tcp://10.1.2.3:5432"),
        // Whoever answers for a name does not choose the host's own services.
        (tcp("127.0.0.1", 8080, &["sneaky.example.org"]), "tcp://127.0.0.1:8080"),
        (tcp("169.254.169.254", 80, &["sneaky.example.org"]), "tcp://169.254.169.254:80"),
        (flow(Protocol::Icmp, "10.0.0.1", 0, &[]), "icmp://10.0.0.1"),
        (tcp("fd00::1", 443, &[]), "tcp://[fd00::1]:443"),
    ];
    for (flow, expected) in cases {
        let rule = base.decide(&flow).smallest_rule_that_would_allow.unwrap();
        assert_eq!(rule.to_string(), expected);
        let opened = Policy { allow: vec![rule.clone()], ..base.clone() };
        assert_eq!(opened.decide(&flow).rule, Some(rule));
        let other = Flow { port: flow.port ^ 1, protocol: Protocol::Tcp, ..flow };
        assert!(!opened.decide(&other).is_allowed());
    }
}

#[test]
fn groups_cannot_be_opened() {
    let decision = Policy::of(Mode::Egress).decide(&flow(Protocol::Udp, "224.0.0.251", 5353, &[]));
    assert_eq!(decision.smallest_rule_that_would_allow, None);
}

#[test]
fn wide_rules_do_not_open_blocks_they_only_contain() {
    let policy = policy(Mode::AllowList, &["0.0.0.0/0", "::/0", "10.0.0.0/8", "169.254.0.0/16"], &[]);
    for open in ["8.8.8.8", "2606:4700::1", "10.9.9.9", "169.254.1.1"] {
        assert!(policy.decide(&tcp(open, 443, &[])).is_allowed(), "{open}");
    }
    for closed in ["127.0.0.1", "192.168.0.1", "169.254.169.254", "::1", "fe80::1", "fd00:ec2::254"] {
        assert!(!policy.decide(&tcp(closed, 443, &[])).is_allowed(), "{closed}");
    }
    let own = Flow { is_hosts: true, ..tcp("10.9.9.9", 443, &[]) };
    assert!(!policy.decide(&own).is_allowed(), "the host's own addresses are opened one by one");
}

#[test]
fn patterns_lead_to_public_addresses_only_and_names_never_to_the_host() {
    let policy = policy(Mode::AllowList, &["*.example.com", "db.corp"], &[]);
    assert!(policy.decide(&tcp("1.2.3.4", 443, &["a.example.com"])).is_allowed());
    assert!(!policy.decide(&tcp("10.0.0.1", 443, &["a.example.com"])).is_allowed());
    assert!(!policy.decide(&tcp("1.2.3.4", 443, &["example.com"])).is_allowed());
    assert!(!policy.decide(&tcp("1.2.3.4", 443, &["evilexample.com"])).is_allowed());
    assert!(policy.decide(&tcp("10.0.0.1", 5432, &["db.corp"])).is_allowed());
    assert!(!policy.decide(&tcp("127.0.0.1", 5432, &["db.corp"])).is_allowed());
    assert!(!policy.decide(&tcp("169.254.169.254", 80, &["db.corp"])).is_allowed());
}

#[test]
fn denial_wins_unless_what_allows_is_more_specific() {
    let name = "a.example.com";
    for (allow, deny, is_allowed) in [
        ("a.example.com", "a.example.com", false),
        ("a.example.com", "*.example.com", true),
        ("*.example.com", "a.example.com", false),
        ("*.example.com", "*.com", true),
        ("*.com", "*.example.com", false),
        ("1.2.3.0/24", "1.2.0.0/16", true),
        ("1.2.0.0/16", "1.2.3.0/24", false),
        ("1.2.3.4", "a.example.com", false),
        ("*.example.com", "1.2.3.0/24", false),
        ("1.2.3.4", "*.example.com", true),
        ("a.example.com:443", "a.example.com", true),
        ("a.example.com", "a.example.com:443", false),
        ("tcp://a.example.com", "a.example.com", true),
        ("a.example.com", "a.example.com:80", true),
        ("a.example.com", "udp://a.example.com", true),
    ] {
        let decision = policy(Mode::Egress, &[allow], &[deny]).decide(&tcp("1.2.3.4", 443, &[name]));
        assert_eq!(decision.is_allowed(), is_allowed, "allow {allow}, deny {deny}: {decision}");
    }
}

#[test]
fn a_denied_range_is_closed_in_every_form() {
    let policy = policy(Mode::Egress, &[], &["8.8.8.0/24"]);
    for form in ["8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"] {
        assert!(!policy.decide(&tcp(form, 53, &[])).is_allowed(), "{form}");
    }
}

#[test]
fn names_are_known_in_a_list_when_a_rule_opens_anything_of_them() {
    let policy = policy(Mode::AllowList, &["a.b:443", "*.c.d"], &["x.c.d", "a.b:22"]);
    let known = |name: &str| policy.decide_name(&name.parse().unwrap()).is_allowed();
    assert!(known("a.b") && known("y.c.d"));
    assert!(!known("x.c.d") && !known("c.d") && !known("elsewhere.org"));
}

#[test]
fn answers_do_not_lead_to_what_is_closed() {
    let policy = policy(Mode::Egress, &["db.corp:5432"], &[]);
    let may = |name: &str, address: &str, own| {
        policy.may_answer(&name.parse().unwrap(), address.parse().unwrap(), own)
    };
    assert!(may("any.org", "1.1.1.1", false));
    assert!(!may("any.org", "1.1.1.1", true));
    assert!(!may("any.org", "10.0.0.1", false));
    assert!(may("db.corp", "10.0.0.1", false));
    assert!(!may("db.corp", "127.0.0.1", true));
}

#[test]
fn encrypted_dns_needs_a_rule_that_names_it() {
    let open = policy(Mode::Egress, &[], &[]);
    let udp = |port, names: &[&str]| flow(Protocol::Udp, "9.9.9.9", port, names);
    for (flow, rule) in [
        (tcp("9.9.9.9", 853, &[]), "tcp://9.9.9.9:853"),
        (udp(853, &["a.example"]), "udp://a.example:853"),
        (tcp("9.9.9.9", 443, &["dns.quad9.net"]), "tcp://dns.quad9.net:443"),
        (udp(443, &["other.example", "dns.google"]), "udp://other.example:443"),
    ] {
        let decision = open.decide(&flow);
        assert_eq!((decision.verdict, decision.reason), (Verdict::Deny, Reason::EncryptedDns), "{flow:?}");
        assert_eq!(decision.smallest_rule_that_would_allow.unwrap().to_string(), rule);
        assert!(policy(Mode::Egress, &[rule], &[]).decide(&flow).is_allowed(), "{rule}");
    }
    for flow in [tcp("9.9.9.9", 443, &[]), tcp("9.9.9.9", 80, &["dns.google"]), udp(443, &["quad9.net"])] {
        assert!(open.decide(&flow).is_allowed(), "{flow:?}");
    }
    let name = "one.one.one.one".parse().unwrap();
    let decision = open.decide_name(&name);
    assert_eq!((decision.is_allowed(), decision.reason), (false, Reason::EncryptedDns));
    assert_eq!(decision.smallest_rule_that_would_allow.unwrap().to_string(), "one.one.one.one");
    for rule in ["one.one.one.one", "tcp://one.one.one.one:443", "*.one.one"] {
        assert!(policy(Mode::Egress, &[rule], &[]).decide_name(&name).is_allowed(), "{rule}");
        assert!(policy(Mode::AllowList, &[rule], &[]).decide_name(&name).is_allowed(), "{rule}");
    }
}

#[test]
fn policy_files_are_read_and_written_alike() {
    let text = "allow = [\"*.example.com:443\", \"10.0.0.0/8\"]\ndeny = [\"bad.example.com\"]\n";
    let file = PolicyFile::parse(text).unwrap();
    assert_eq!((file.allow.len(), file.deny.len()), (2, 1));
    assert_eq!(PolicyFile::parse(&file.emit()).unwrap(), file);
    for bad in ["allow = 1", "alow = []", "allow = [\"https://x.y/\"]", "deny = [\"a..b\"]", "["] {
        assert!(PolicyFile::parse(bad).is_err(), "{bad}");
    }
    let many = format!("allow = [{}]", "\"a.b\",".repeat(1025));
    assert!(matches!(PolicyFile::parse(&many), Err(PolicyError::TooManyRules(1025))));
}

#[test]
fn policies_survive_json() {
    let policy = policy(Mode::AllowList, &["*.example.com:443"], &["10.0.0.0/8"]);
    let text = serde_json::to_string(&policy).unwrap();
    assert_eq!(serde_json::from_str::<Policy>(&text).unwrap(), policy);
    assert!(text.contains("\"mode\":\"allow-list\""), "{text}");
}

fn any_name() -> impl Strategy<Value = Name> {
    "([a-z0-9_-]{1,5}\\.){0,3}[a-z]{1,4}".prop_map(|text| text.parse().unwrap())
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<IpAddr>(),
        any::<u32>().prop_map(|bits| IpAddr::V4(std::net::Ipv4Addr::from_bits(bits))),
        Just("10.0.0.1".parse().unwrap()),
        Just("127.0.0.1".parse().unwrap()),
        Just("169.254.169.254".parse().unwrap()),
        Just("8.8.8.8".parse().unwrap()),
        Just("64:ff9b::a00:1".parse().unwrap()),
    ]
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let target = prop_oneof![
        any_name().prop_map(Target::Name),
        any_name().prop_map(Target::Under),
        (any_address(), 0u8..=128)
            .prop_map(|(address, bits)| Target::Range(address::Cidr::new(address, bits))),
    ];
    let ports = prop_oneof![
        Just(Ports::all()),
        proptest::collection::vec(1u16.., 1..5).prop_map(|ports| ports
            .iter()
            .map(u16::to_string)
            .collect::<Vec<_>>()
            .join(",")
            .parse()
            .unwrap()),
    ];
    let protocol = prop_oneof![Just(None), Just(Some(Protocol::Tcp)), Just(Some(Protocol::Udp))];
    (protocol, target, ports).prop_map(|(protocol, target, ports)| Rule { protocol, target, ports })
}

fn any_flow() -> impl Strategy<Value = Flow> {
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Icmp)];
    (protocol, any_address(), 1u16.., proptest::collection::vec(any_name(), 0..3), any::<bool>()).prop_map(
        |(protocol, address, port, names, is_hosts)| {
            let port = if protocol == Protocol::Icmp { 0 } else { port };
            Flow { protocol, address, port, names, is_hosts }
        },
    )
}

proptest! {
    #[test]
    fn every_rule_survives_its_text(rule in any_rule()) {
        prop_assert_eq!(rule.to_string().parse::<Rule>().unwrap(), rule);
    }

    #[test]
    fn no_text_panics(text in ".{0,80}") {
        let _ = text.parse::<Rule>();
        let _ = PolicyFile::parse(&text);
    }

    #[test]
    fn the_suggested_rule_allows_the_flow(
        flow in any_flow(),
        allow in proptest::collection::vec(any_rule(), 0..4),
        deny in proptest::collection::vec(any_rule(), 0..4),
        is_list: bool,
    ) {
        let mode = if is_list { Mode::AllowList } else { Mode::Egress };
        let mut policy = Policy { allow, deny, ..Policy::of(mode) };
        let decision = policy.decide(&flow);
        if let Some(rule) = decision.smallest_rule_that_would_allow {
            prop_assert!(!policy.decide(&flow).is_allowed());
            policy.allow.push(rule);
            prop_assert!(policy.decide(&flow).is_allowed());
        }
    }

    #[test]
    fn without_rules_nothing_reserved_is_allowed(flow in any_flow()) {
        let decision = Policy::of(Mode::Egress).decide(&flow);
        prop_assert_eq!(decision.is_allowed(), address::is_public(flow.address) && !flow.is_hosts);
        prop_assert!(!Policy::of(Mode::AllowList).decide(&flow).is_allowed());
    }

    #[test]
    fn a_further_denial_never_opens_anything(flow in any_flow(), allow in any_rule(), deny in any_rule(), more in any_rule()) {
        let mut policy = Policy { allow: vec![allow], deny: vec![deny], ..Policy::of(Mode::Egress) };
        let before = policy.decide(&flow).is_allowed();
        policy.deny.push(more);
        prop_assert!(before || !policy.decide(&flow).is_allowed());
    }
}
