use super::check::check_with;
use super::denial::Memory;
use super::*;
use crate::limits::{REMEMBERED_DENIALS, TOLD_DENIALS};
use pyro_net::Dialer;
use pyro_net::event::{Proxied, Subject};
use pyro_net::policy::{Reason, Verdict};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

fn rules(allow: &[&str], allow_only: &[&str], deny: &[&str]) -> NetworkRules {
    let list = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    NetworkRules {
        allow: list(allow),
        allow_only: list(allow_only),
        deny: list(deny),
        ..NetworkRules::default()
    }
}

/// Opens nothing.
struct Nobody;

impl Dialer for Nobody {
    fn tcp(&mut self, _: SocketAddr) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn udp(&mut self, _: SocketAddr) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn ping(&mut self, _: IpAddr) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn is_hosts(&mut self, address: IpAddr) -> bool {
        address.is_loopback()
    }
}

fn checked(rules: &NetworkRules, text: &str) -> Result<NetworkCheck, CheckError> {
    let look_up = |name: &str| match name {
        "public.example" => vec!["9.9.9.9".parse().unwrap()],
        "inside.example" => vec!["10.0.0.5".parse().unwrap()],
        "both.example" => vec!["9.9.9.9".parse().unwrap(), "10.0.0.5".parse().unwrap()],
        _ => Vec::new(),
    };
    check_with(&enforced(NetworkPolicy::Egress, rules), None, text, &mut Nobody, &look_up)
}

#[test]
fn rules_that_allow_need_a_network_and_are_bounded() {
    assert!(matches!(rules(&["a.example"], &[], &[]).check(NetworkPolicy::Off), Err(NetworkError::Off)));
    assert!(matches!(rules(&[], &["a.example"], &[]).check(NetworkPolicy::Off), Err(NetworkError::Off)));
    rules(&[], &[], &["a.example"]).check(NetworkPolicy::Off).unwrap();
    rules(&["a.example"], &[], &[]).check(NetworkPolicy::Egress).unwrap();
    let long: Vec<String> = (0..1000).map(|number| format!("{}.{number}.example", "a".repeat(60))).collect();
    let many = NetworkRules {
        deny: long.iter().map(|text| text.parse().unwrap()).collect(),
        ..rules(&["b.example"], &[], &[])
    };
    many.check(NetworkPolicy::Egress).unwrap();
    let longer: Vec<String> = long.iter().map(|text| format!("{}.{text}", "b".repeat(60))).collect();
    let many = NetworkRules { deny: longer.iter().map(|text| text.parse().unwrap()).collect(), ..many };
    assert!(matches!(many.check(NetworkPolicy::Egress), Err(NetworkError::TooLong(_))));
    let most = NetworkRules { deny: vec!["a.example".parse().unwrap(); 1025], ..NetworkRules::default() };
    assert!(matches!(
        most.check(NetworkPolicy::Egress),
        Err(NetworkError::Policy(PolicyError::TooManyRules(1025)))
    ));
}

#[test]
fn a_file_of_rules_has_the_names_of_the_options() {
    let text = "allow = ['10.0.0.5:5432']\nallow-only = ['*.example.com']\ndeny = ['bad.example']";
    assert_eq!(
        NetworkRules::parse_file(text).unwrap(),
        rules(&["10.0.0.5:5432"], &["*.example.com"], &["bad.example"])
    );
    let error = NetworkRules::parse_file("permit = []").unwrap_err();
    assert!(error.explain().hint.unwrap().contains("allow-only"), "{error}");
    assert!(NetworkRules::parse_file("allow = ['https://a/b']").is_err());
}

#[test]
fn allow_only_closes_the_public_internet_and_off_closes_everything() {
    assert_eq!(enforced(NetworkPolicy::Egress, &rules(&["a.example"], &[], &[])).mode, Mode::Egress);
    let list = enforced(NetworkPolicy::EgressAndPublishedPorts, &rules(&["a.example"], &["b.example"], &[]));
    assert_eq!((list.mode, list.allow.len()), (Mode::AllowList, 2));
    assert_eq!(enforced(NetworkPolicy::Off, &rules(&["a.example"], &[], &[])), Policy::of(Mode::Off));
}

#[test]
fn an_update_removes_before_it_adds_and_keeps_rules_under_off() {
    let old = rules(&["a.example", "b.example"], &[], &["c.example"]);
    let rule = |text: &str| text.parse::<Rule>().unwrap();
    let some = NetworkUpdate {
        removal: RuleRemoval::Some(vec![rule("a.example"), rule("c.example")]),
        add: rules(&["b.example", "d.example"], &[], &[]),
        ..NetworkUpdate::default()
    };
    let (policy, new) = some.apply(NetworkPolicy::Egress, &old).unwrap();
    assert_eq!((policy, new), (NetworkPolicy::Egress, rules(&["b.example", "d.example"], &[], &[])));
    let off = NetworkUpdate { policy: Some(NetworkPolicy::Off), ..NetworkUpdate::default() };
    assert_eq!(off.apply(NetworkPolicy::Egress, &old).unwrap(), (NetworkPolicy::Off, old.clone()));
    let all = NetworkUpdate { removal: RuleRemoval::All, ..NetworkUpdate::default() };
    assert_eq!(all.apply(NetworkPolicy::Off, &old).unwrap(), (NetworkPolicy::Off, NetworkRules::default()));
    let wrong =
        NetworkUpdate { removal: RuleRemoval::Some(vec![rule("z.example")]), ..NetworkUpdate::default() };
    assert!(matches!(wrong.apply(NetworkPolicy::Egress, &old), Err(NetworkError::NoRule(_))));
    let opening = NetworkUpdate { add: rules(&["e.example"], &[], &[]), ..NetworkUpdate::default() };
    assert!(matches!(opening.apply(NetworkPolicy::Off, &old), Err(NetworkError::Off)));
    assert!(NetworkUpdate::default().is_empty() && !off.is_empty());
}

#[test]
fn a_limit_is_kept_replaced_and_cleared_apart_from_the_rules() {
    let limited = |limit| NetworkRules { egress_limit_bytes: limit, ..rules(&["a.example"], &[], &[]) };
    let only = |limit| NetworkRules { egress_limit_bytes: limit, ..NetworkRules::default() };
    assert!(matches!(only(Some(1)).check(NetworkPolicy::Off), Err(NetworkError::LimitWithoutNetwork)));
    assert_eq!(enforced(NetworkPolicy::Egress, &limited(Some(7))).limits.total_bytes, Some(7));
    let apply = |update: NetworkUpdate| {
        update.apply(NetworkPolicy::Egress, &limited(Some(7))).map(|(_, rules)| rules.egress_limit_bytes)
    };
    assert_eq!(apply(NetworkUpdate::default()).unwrap(), Some(7));
    assert_eq!(apply(NetworkUpdate { add: only(Some(9)), ..NetworkUpdate::default() }).unwrap(), Some(9));
    let removal = RuleRemoval::All;
    assert_eq!(apply(NetworkUpdate { removal, ..NetworkUpdate::default() }).unwrap(), Some(7));
    let cleared = NetworkUpdate { clear_egress_limit: true, ..NetworkUpdate::default() };
    assert_eq!(apply(cleared.clone()).unwrap(), None);
    assert!(!cleared.is_empty());
    // Records of before the limit are read, and records without one are as they were.
    let text = serde_json::to_string(&rules(&["a.example"], &[], &[])).unwrap();
    assert_eq!(text, r#"{"allow":["a.example"],"allow_only":[],"deny":[]}"#);
    assert_eq!(serde_json::from_str::<NetworkRules>(&text).unwrap(), limited(None));
    let text = serde_json::to_string(&limited(Some(7))).unwrap();
    assert_eq!(serde_json::from_str::<NetworkRules>(&text).unwrap(), limited(Some(7)));
}

fn denied(number: u16) -> FlowEvent {
    let destination = SocketAddr::new("10.0.0.5".parse().unwrap(), number);
    FlowEvent {
        subject: Subject::Flow,
        started_ms: 1,
        ended_ms: 1,
        protocol: Protocol::Tcp,
        source: "198.19.255.2:40000".parse().unwrap(),
        destination,
        dialled: Some(destination),
        proxied: None,
        names: Vec::new(),
        verdict: Verdict::Deny,
        reason: Some(Reason::NotPublic(pyro_net::address::Kind::Private)),
        rule: None,
        smallest_rule_that_would_allow: Some(format!("tcp://{destination}").parse().unwrap()),
        sent_bytes: 0,
        received_bytes: 0,
        end: End::Denied,
        text: String::new(),
        left_out: 0,
    }
}

#[test]
fn a_denial_says_what_why_and_what_would_allow_it() {
    let denial = NetworkDenial::of(&denied(5432)).unwrap();
    assert_eq!(
        denial.to_string(),
        "denied tcp 10.0.0.5:5432: its address is not public (private) rule=none allow with: --allow \
         tcp://10.0.0.5:5432"
    );
    let named = FlowEvent { names: vec!["db.example".parse().unwrap()], end: End::OtherName, ..denied(443) };
    let text = NetworkDenial::of(&named).unwrap().to_string();
    assert!(text.starts_with("denied tcp db.example:443 (10.0.0.5): what it says is not for"), "{text}");
    let question = FlowEvent {
        subject: Subject::Name,
        protocol: Protocol::Udp,
        destination: "198.19.255.1:53".parse().unwrap(),
        dialled: None,
        names: vec!["other.example".parse().unwrap()],
        reason: Some(Reason::NotListed),
        smallest_rule_that_would_allow: Some("other.example".parse().unwrap()),
        ..denied(53)
    };
    assert_eq!(
        NetworkDenial::of(&question).unwrap().to_string(),
        "denied dns other.example: no rule allows it rule=none allow with: --allow other.example"
    );
    let used_up = FlowEvent {
        end: End::BytesUsedUp,
        reason: None,
        smallest_rule_that_would_allow: None,
        names: vec!["db.example".parse().unwrap()],
        ..denied(5432)
    };
    let denial = NetworkDenial::of(&used_up).unwrap();
    assert_eq!(
        denial.to_string(),
        "denied tcp db.example:5432 (10.0.0.5): the egress limit is used up rule=none allow with: a higher \
         --egress-limit"
    );
    assert_eq!((denial.allow_with, denial.hint.as_deref()), (None, Some("a higher --egress-limit")));
    assert_eq!(NetworkDenial::of(&FlowEvent { verdict: Verdict::Allow, ..denied(1) }), None);
}

#[test]
fn a_command_is_told_each_denial_of_its_own_time_once() {
    let mut memory = Memory::default();
    memory.note(&denied(1));
    let before = memory.since(u64::MAX);
    assert!(before.denials.is_empty());
    for port in [2, 3, 2] {
        memory.note(&denied(port));
    }
    let told = memory.since(before.next);
    let seen: Vec<_> = told.denials.iter().map(|one| (one.destination.as_str(), one.count)).collect();
    assert_eq!((seen, told.truncated), (vec![("10.0.0.5:3", 1), ("10.0.0.5:2", 2)], false));
    assert!(memory.since(told.next).denials.is_empty());
}

#[test]
fn an_event_keeps_the_denials_of_a_command_as_far_as_there_is_room() {
    let mut memory = Memory::default();
    assert_eq!(memory.since(0).detail(3, 1000), None);
    (1..=9).for_each(|port| memory.note(&denied(port)));
    let whole = memory.since(0);
    let (sequence, read) = NetworkDenials::of_detail(&whole.detail(3, 16 << 10).unwrap()).unwrap();
    assert_eq!((sequence, read.truncated, read.denials), (3, false, whole.denials.clone()));
    let cut = whole.detail(3, 1000).unwrap();
    assert!(cut.to_string().len() <= 1000);
    let (_, read) = NetworkDenials::of_detail(&cut).unwrap();
    assert!(read.truncated && !read.denials.is_empty() && whole.denials.starts_with(&read.denials));
    // What was recorded before the denials were kept whole.
    let old = serde_json::json!({ "sequence": 3, "destinations": ["10.0.0.5:1"] });
    let (sequence, read) = NetworkDenials::of_detail(&old).unwrap();
    assert_eq!((sequence, read.truncated, read.denials.len()), (3, true, 0));
    assert_eq!(NetworkDenials::of_detail(&serde_json::json!({ "omitted_bytes": 20_000 })), None);
}

#[test]
fn what_was_reached_is_told_as_the_rules_that_open_it() {
    let mut memory = Memory::default();
    let allowed = |port| FlowEvent { verdict: Verdict::Allow, end: End::Finished, ..denied(port) };
    let named = FlowEvent { names: vec!["api.example".parse().unwrap()], ..allowed(443) };
    let echo =
        FlowEvent { protocol: Protocol::Icmp, dialled: Some("[fd00::1]:0".parse().unwrap()), ..allowed(1) };
    for event in [&allowed(80), &named, &denied(81), &named, &echo] {
        memory.note(event);
    }
    let rules: Vec<String> = memory.contacts().rules.iter().map(ToString::to_string).collect();
    assert_eq!(rules, ["tcp://10.0.0.5:80", "tcp://api.example:443", "icmp://fd00::1"]);
    (1..=2000).for_each(|port| memory.note(&allowed(port)));
    assert!(memory.contacts().truncated);
}

#[test]
fn what_is_remembered_and_told_of_denials_is_bounded_and_says_so() {
    let mut memory = Memory::default();
    for port in 1..=1000 {
        memory.note(&denied(port));
    }
    let told = memory.since(0);
    assert_eq!((told.denials.len(), told.truncated), (TOLD_DENIALS, true));
    let late = memory.since(1000 - TOLD_DENIALS as u64);
    assert_eq!((late.denials.len(), late.truncated), (TOLD_DENIALS, false));
    assert!(memory.since(1000 - REMEMBERED_DENIALS as u64).truncated);
    let now = memory.since(u64::MAX).next;
    memory.note(&FlowEvent { left_out: 5, verdict: Verdict::Allow, ..denied(1) });
    assert!(memory.since(now).truncated);
}

#[test]
fn a_check_names_the_rule_that_decides_and_the_smallest_that_would_allow() {
    let none = NetworkRules::default();
    let allowed = |rules: &NetworkRules, text: &str| checked(rules, text).unwrap().allowed;
    assert!(allowed(&none, "https://public.example/path?x"));
    assert!(allowed(&none, "[2620:fe::fe]:443") && allowed(&none, "udp://9.9.9.9:53"));
    let private = checked(&none, "10.0.0.5:5432").unwrap();
    assert_eq!(
        (private.allowed, private.allow_with.unwrap().to_string()),
        (false, "tcp://10.0.0.5:5432".to_owned())
    );
    let inside = checked(&none, "https://user@inside.example").unwrap();
    let rule = |rule: &Option<Rule>| rule.as_ref().map(ToString::to_string);
    assert_eq!(rule(&inside.allow_with).unwrap(), "tcp://inside.example:443");
    assert!(inside.reason.contains("its address is not public (private)"), "{}", inside.reason);
    // The guest is told of the address that it may reach, and of that one alone.
    let both = checked(&none, "https://both.example").unwrap();
    assert_eq!((both.allowed, rule(&both.allow_with)), (true, None));
    assert_eq!(both.reason, "allowed by the policy egress, but not at each of its addresses");
    assert_eq!(both.addresses.iter().map(|one| one.allowed).collect::<Vec<_>>(), [true, false]);
    assert_eq!(rule(&both.addresses[1].allow_with).unwrap(), "tcp://both.example:443");
    assert!(allowed(&rules(&["tcp://inside.example:443"], &[], &[]), "https://inside.example"));
    let list = rules(&[], &["api.example"], &[]);
    let other = checked(&list, "http://public.example:8080/").unwrap();
    assert_eq!(other.allow_with.unwrap().to_string(), "tcp://public.example:8080");
    assert!(other.addresses.is_empty(), "nobody may ask for it");
    let closed = checked(&rules(&[], &[], &["*.example"]), "http://public.example").unwrap();
    assert_eq!((closed.allowed, closed.rule.unwrap().to_string()), (false, "*.example".to_owned()));
    let hidden = checked(&none, "https://dns.google/dns-query").unwrap();
    assert_eq!(
        (hidden.allowed, hidden.allow_with.unwrap().to_string()),
        (false, "tcp://dns.google:443".to_owned())
    );
    assert!(hidden.reason.contains("encrypted DNS needs a rule of its own"), "{}", hidden.reason);
    assert!(!allowed(&none, "9.9.9.9:853") && allowed(&rules(&["9.9.9.9:853"], &[], &[]), "9.9.9.9:853"));
    let nowhere = checked(&none, "http://nowhere.example").unwrap();
    assert!(nowhere.reason.ends_with("this host finds no address for it"), "{}", nowhere.reason);
}

#[test]
fn a_check_of_a_name_that_goes_through_the_proxy_asks_nobody_for_its_address() {
    let proxy =
        HostProxy { url: Some("http://jo:secret@proxy.corp:3128".into()), exempt: ".past.example".into() };
    let proxy = proxy.parse().unwrap();
    let check = |rules: &NetworkRules, text: &str| {
        let policy = enforced(NetworkPolicy::Egress, rules);
        let look_up = |name: &str| match name {
            "in.past.example" => vec!["10.0.0.5".parse().unwrap()],
            _ => panic!("{name} was looked up"),
        };
        check_with(&policy, Some(&proxy), text, &mut Nobody, &look_up).unwrap()
    };
    let none = NetworkRules::default();
    let through = check(&none, "https://far.example");
    assert_eq!((through.allowed, through.proxy.as_deref()), (true, Some("proxy.corp:3128")));
    let closed = check(&rules(&[], &[], &["*.example:443"]), "https://far.example");
    assert_eq!(
        (closed.allowed, closed.allow_with.unwrap().to_string()),
        (false, "tcp://far.example:443".into())
    );
    for past in ["https://in.past.example", "10.0.0.5:443"] {
        let past = check(&none, past);
        assert_eq!((past.allowed, past.proxy), (false, None));
    }
    assert!(matches!(HostProxy::default().parse(), Err(HostProxyError::None)));
}

#[test]
fn what_a_proxy_refuses_is_told_as_denied_by_it() {
    let event = FlowEvent {
        dialled: None,
        destination: "198.18.1.0:443".parse().unwrap(),
        proxied: Some(Proxied { status: Some(403) }),
        names: vec!["far.example".parse().unwrap()],
        reason: Some(Reason::Public),
        smallest_rule_that_would_allow: None,
        end: End::RefusedByProxy,
        ..denied(443)
    };
    let told = "denied tcp far.example:443: by the host's proxy: it does not connect there (403) rule=none";
    assert_eq!(NetworkDenial::of(&event).unwrap().to_string(), told);
    let mut memory = Memory::default();
    memory.note(&FlowEvent { verdict: Verdict::Allow, end: End::Finished, ..event });
    let reached = memory.contacts().rules;
    assert_eq!(reached.iter().map(ToString::to_string).collect::<Vec<_>>(), ["tcp://far.example:443"]);
}

#[test]
fn what_names_no_host_or_port_is_an_error() {
    let error = |text: &str| checked(&NetworkRules::default(), text).unwrap_err();
    assert!(matches!(error("example.com"), CheckError::NoPort(_)));
    assert!(matches!(error("::1"), CheckError::NoPort(_)));
    assert!(matches!(error("gopher://example.com"), CheckError::NoPort(_)));
    assert!(matches!(error("example.com:0"), CheckError::Port(_)));
    assert!(matches!(error("example.com:x"), CheckError::Port(_)));
    assert!(matches!(error("https://"), CheckError::Host { .. }));
    assert!(matches!(error("https://a b/"), CheckError::Host { .. }));
}
