//! Connections through a proxy of the host: what it is asked, what becomes of its answers, and what goes past it.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod lab;

use lab::{Lab, Script, at, guest, pattern, seconds};
use pyro_net::dns::{Question, RecordKind};
use pyro_net::guest::{GATEWAY_V4, NAMES_V4};
use pyro_net::policy::{Reason, Verdict};
use pyro_net::{End, Mode, Policy, Proxy, limits};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;
use std::net::IpAddr;

const PROXY: &str = "10.9.9.9:3128";
const OPENED: &[u8] = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 proxy\r\n\r\n";

fn policy(mode: Mode, allow: &[&str], deny: &[&str]) -> Policy {
    let rules = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    Policy { allow: rules(allow), deny: rules(deny), ..Policy::of(mode) }
}

/// A lab whose proxy is at an address that no guest may reach itself, and answers like this.
fn lab(policy: Policy, script: Script) -> Lab {
    let proxy = Proxy::parse(&format!("http://jo:secret@{PROXY}"), ".past.example").unwrap();
    let lab = Lab::with_proxy(policy, Some(proxy), 1);
    lab.host.serve(PROXY, script);
    lab
}

fn open() -> Policy {
    policy(Mode::Egress, &[], &[])
}

/// The address that the gateway tells for a name.
fn address_of(lab: &mut Lab, name: &str) -> IpAddr {
    let question = Question::emit(7, &name.parse().unwrap(), RecordKind::A);
    lab.guest.send_raw(guest::udp(5353, "9.9.9.9:53", &question));
    lab.run(seconds(30), |lab| !lab.guest.others.is_empty());
    let packet = lab.guest.others.pop_front().unwrap();
    let answer = &packet[28..];
    assert_eq!((answer[3] & 15, answer[7]), (0, 1), "{name}");
    let record: [u8; 4] = answer[question.len() + 12..][..4].try_into().unwrap();
    record.into()
}

/// Connects until it is decided.
fn connect(lab: &mut Lab, to: &str) -> SocketHandle {
    let handle = lab.guest.connect(at(to));
    lab.run(seconds(60), |lab| matches!(lab.guest.state(handle), State::Closed | State::Established));
    handle
}

fn is_refused(lab: &mut Lab, to: &str) -> bool {
    let handle = connect(lab, to);
    lab.guest.state(handle) == State::Closed
}

/// Connects to a port of a name, and tells whether that was refused.
fn is_name_refused(lab: &mut Lab, name: &str, port: u16) -> bool {
    let address = address_of(lab, name);
    is_refused(lab, &format!("{address}:{port}"))
}

#[test]
fn a_name_is_given_to_the_proxy_and_bytes_go_both_ways() {
    let mut lab = lab(open(), Script::Tunnel([OPENED, b"hello first"].concat()));
    let address = address_of(&mut lab, "far.example");
    let IpAddr::V4(v4) = address else { panic!("{address}") };
    assert!(NAMES_V4.contains(v4.into()), "an address of its own, not the name's");
    let handle = connect(&mut lab, &format!("{address}:7000"));
    let payload = pattern(300_000, 3);
    let (mut sent, mut got) = (0, Vec::new());
    lab.run(seconds(60), |lab| {
        sent += lab.guest.write(handle, &payload[sent..]);
        got.extend(lab.guest.read(handle));
        got.len() == b"hello first".len() + payload.len()
    });
    assert!(got.starts_with(b"hello first") && got[b"hello first".len()..] == payload);
    let request = b"CONNECT far.example:7000 HTTP/1.1\r\nHost: far.example:7000\r\n\
        Proxy-Authorization: Basic am86c2VjcmV0\r\n\r\n";
    assert!(lab.host.got(0).starts_with(request), "{:?}", String::from_utf8_lossy(&lab.host.got(0)[..200]));
    assert_eq!((lab.host.dialled(), lab.host.asked()), (vec![at(PROXY)], Vec::<String>::new()));
    lab.guest.socket(handle).close();
    lab.run(seconds(60), |lab| !lab.events().is_empty());
    let event = lab.event();
    assert_eq!((event.end, event.verdict, event.dialled), (End::Finished, Verdict::Allow, None));
    assert_eq!(event.text, "tcp to far.example:7000 through the host's proxy: finished");
    assert!(event.proxied.is_some() && !event.to_json_line().contains("am86"), "{}", event.to_json_line());
}

#[test]
fn a_proxy_that_refuses_is_told_of_with_its_status() {
    for (status, words) in
        [(403, "does not connect there (403)"), (407, "other credentials (407)"), (502, "(502)")]
    {
        let answer = format!("HTTP/1.1 {status} No\r\nContent-Length: 100\r\n\r\n");
        let mut lab = lab(open(), Script::Tunnel(answer.into_bytes()));
        assert!(is_name_refused(&mut lab, "far.example", 443));
        let event = lab.event();
        assert_eq!((event.end, event.verdict), (End::RefusedByProxy, Verdict::Deny));
        assert_eq!(event.proxied.unwrap().status, Some(status));
        assert!(
            event.text.contains("denied by the host's proxy") && event.text.contains(words),
            "{}",
            event.text
        );
    }
}

#[test]
fn a_proxy_that_is_none_or_gone_or_silent_fails_the_connection_in_time() {
    for (script, end) in [
        (Script::Refuse, End::ProxyFailed),
        (Script::Reset, End::ProxyFailed),
        (Script::Send(b"SSH-2.0-x\r\n".to_vec()), End::ProxyFailed),
        (Script::Send(b"HTTP/1.1 200 OK\r\n".to_vec()), End::ProxyFailed),
        (
            Script::Send([b"HTTP/1.1 200 OK\r\nx: ", &[b'y'; limits::MAX_PROXY_HEAD_BYTES][..]].concat()),
            End::ProxyFailed,
        ),
        (Script::Swallow, End::TimedOut),
    ] {
        let mut lab = lab(open(), script);
        assert!(is_name_refused(&mut lab, "far.example", 443));
        assert_eq!(lab.event().end, end, "{}", lab.event().text);
        assert!(lab.now <= limits::PROXY + seconds(5), "{:?}", lab.now);
        assert_eq!(lab.stack.counters().flows, 0);
    }
}

#[test]
fn an_answer_in_pieces_is_waited_for() {
    let mut lab = lab(open(), Script::Swallow);
    let address = address_of(&mut lab, "far.example");
    let handle = lab.guest.connect(at(&format!("{address}:443")));
    lab.run(seconds(5), |lab| lab.host.connections() == 1 && lab.host.got(0).ends_with(b"\r\n\r\n"));
    for piece in OPENED.chunks(7) {
        assert_ne!(lab.guest.state(handle), State::Established);
        lab.host.say(0, piece);
        lab.pass(seconds(1));
    }
    assert_eq!(lab.guest.state(handle), State::Established);
}

#[test]
fn the_policy_decides_on_the_name_before_the_proxy_is_asked() {
    let denying = policy(Mode::Egress, &[], &["*.bad.example", "far.example:22"]);
    let mut lab = lab(denying, Script::Tunnel(OPENED.to_vec()));
    assert!(is_name_refused(&mut lab, "far.example", 22));
    assert!(lab.host.dialled().is_empty());
    let event = lab.event();
    assert_eq!((event.end, event.reason), (End::Denied, Some(Reason::Rule)));
    assert_eq!(event.smallest_rule_that_would_allow.unwrap().to_string(), "tcp://far.example:22");
    assert!(!is_name_refused(&mut lab, "far.example", 443));
    assert_eq!(lab.host.dialled(), [at(PROXY)]);
    // One that is opened later is closed with the rule that opened it.
    lab.stack.set_policy(policy(Mode::Egress, &[], &["far.example"]));
    lab.run(seconds(5), |lab| lab.events().len() == 2);
    assert_eq!(lab.events()[1].end, End::PolicyChanged);
}

#[test]
fn a_list_opens_its_names_through_the_proxy_and_their_first_bytes_are_still_read() {
    let list = policy(Mode::AllowList, &["a.example"], &[]);
    let mut lab = lab(list, Script::Tunnel(OPENED.to_vec()));
    let address = address_of(&mut lab, "a.example");
    let handle = connect(&mut lab, &format!("{address}:80"));
    let asked = lab.host.got(0).len();
    lab.guest.write(handle, b"GET / HTTP/1.1\r\nHost: other.example\r\n\r\n");
    lab.run(seconds(5), |lab| lab.guest.state(handle) == State::Closed);
    assert_eq!((lab.event().end, lab.host.got(0).len()), (End::OtherName, asked));
    let handle = connect(&mut lab, &format!("{address}:80"));
    let request = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
    lab.guest.write(handle, request);
    lab.run(seconds(5), |lab| lab.host.got(1).ends_with(request));
}

#[test]
fn addresses_exempt_names_datagrams_and_the_loopback_go_past_the_proxy() {
    let mut lab = lab(policy(Mode::Egress, &["127.0.0.1:8080"], &[]), Script::Tunnel(OPENED.to_vec()));
    lab.host.name("in.past.example", &["1.2.3.4"]);
    lab.host.name("private.past.example", &["10.1.1.1"]);
    lab.host.name("far.example", &["1.2.3.5"]);
    assert_eq!(address_of(&mut lab, "in.past.example"), IpAddr::from([1, 2, 3, 4]));
    assert!(!is_refused(&mut lab, "1.2.3.4:443"));
    assert!(!is_refused(&mut lab, "8.8.8.8:443"), "an address, which no proxy was asked for");
    assert!(is_refused(&mut lab, "10.9.9.9:3128"), "the proxy itself is private, as everything there");
    assert!(is_refused(&mut lab, "169.254.169.254:80"));
    assert!(!is_refused(&mut lab, &format!("{GATEWAY_V4}:8080")));
    let address = address_of(&mut lab, "far.example");
    lab.guest.send_raw(guest::udp(5000, &format!("{address}:4000"), b"straight"));
    lab.run(seconds(5), |lab| !lab.guest.others.is_empty());
    let direct = ["1.2.3.4:443", "8.8.8.8:443", "127.0.0.1:8080", "1.2.3.5:4000"].map(at);
    assert_eq!(lab.host.dialled(), direct);
}

#[test]
fn a_proxy_with_a_name_is_where_the_host_says() {
    let proxy = Proxy::parse("http://proxy.corp:3128", "").unwrap();
    let mut lab = Lab::with_proxy(open(), Some(proxy.clone()), 1);
    lab.host.name("proxy.corp", &["10.8.8.1", "10.8.8.2"]);
    lab.host.serve("10.8.8.1:3128", Script::Refuse);
    lab.host.serve("10.8.8.2:3128", Script::Tunnel(OPENED.to_vec()));
    assert!(!is_name_refused(&mut lab, "far.example", 443));
    assert_eq!(lab.host.dialled(), [at("10.8.8.1:3128"), at("10.8.8.2:3128")]);
    assert_eq!(lab.host.asked(), ["proxy.corp"]);
    let mut nowhere = Lab::with_proxy(open(), Some(proxy), 1);
    assert!(is_name_refused(&mut nowhere, "far.example", 443));
    assert_eq!(nowhere.event().end, End::ProxyFailed);
}
