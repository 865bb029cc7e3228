//! What a guest reaches under each policy, and what it is told where it does not.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod lab;

use std::net::SocketAddr;

use lab::{Lab, Script, at, guest, pattern, seconds};
use pyro_net::dns::{Question, RecordKind};
use pyro_net::guest::{GATEWAY_V4, GATEWAY_V6, NAMES_V4};
use pyro_net::policy::{Limits, Reason, Verdict};
use pyro_net::{End, Mode, Policy, Subject};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

fn policy(mode: Mode, allow: &[&str], deny: &[&str]) -> Policy {
    let rules = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    Policy { allow: rules(allow), deny: rules(deny), ..Policy::of(mode) }
}

fn lab(mode: Mode, allow: &[&str], deny: &[&str]) -> Lab {
    Lab::new(policy(mode, allow, deny), 1)
}

/// Asks the gateway and returns the answer's code and addresses.
fn ask(lab: &mut Lab, name: &str, kind: RecordKind) -> (u8, Vec<[u8; 4]>) {
    let question = Question::emit(7, &name.parse().unwrap(), kind);
    // Wherever it is sent, the gateway answers.
    lab.guest.send_raw(guest::udp(5353, "9.9.9.9:53", &question));
    lab.run(seconds(30), |lab| !lab.guest.others.is_empty());
    let packet = lab.guest.others.pop_front().unwrap();
    assert_eq!(packet[12..16], [9, 9, 9, 9]);
    parse_answer(&packet[28..], &question)
}

fn parse_answer(answer: &[u8], question: &[u8]) -> (u8, Vec<[u8; 4]>) {
    assert_eq!(answer[..2], [0, 7]);
    let count = usize::from(answer[7]);
    let records = &answer[question.len()..];
    let addresses = records.chunks(16).take(count).map(|record| record[12..16].try_into().unwrap()).collect();
    (answer[3] & 15, addresses)
}

fn is_refused(lab: &mut Lab, to: &str) -> bool {
    let handle = lab.guest.connect(at(to));
    lab.run(seconds(5), |lab| matches!(lab.guest.state(handle), State::Closed | State::Established));
    lab.guest.state(handle) == State::Closed
}

#[test]
fn a_denied_connection_opens_no_socket_and_says_which_rule_would_allow_it() {
    let mut lab = lab(Mode::Egress, &[], &["*.bad.example"]);
    for to in [
        "10.0.0.5:5432",
        "169.254.169.254:80",
        "[::ffff:10.0.0.1]:80",
        "[64:ff9b::7f00:1]:22",
        "168.63.129.16:80",
    ] {
        assert!(is_refused(&mut lab, to), "{to}");
        let event = lab.events().pop().unwrap();
        assert_eq!((event.end, event.verdict, event.destination), (End::Denied, Verdict::Deny, at(to)));
        let SocketAddr::V4(_) = event.destination else { continue };
        assert_eq!(event.smallest_rule_that_would_allow.unwrap().to_string(), format!("tcp://{to}"));
        assert!(event.text.contains("the smallest rule that would allow it is tcp://"), "{}", event.text);
    }
    assert_eq!((lab.host.dialled(), lab.host.asked()), (vec![], Vec::<String>::new()));
}

#[test]
fn the_suggested_rule_given_back_opens_exactly_that_flow() {
    let mut first = lab(Mode::Egress, &[], &[]);
    assert!(is_refused(&mut first, "10.0.0.5:5432"));
    let rule = first.event().smallest_rule_that_would_allow.unwrap().to_string();
    let mut second = lab(Mode::Egress, &[&rule], &[]);
    assert!(!is_refused(&mut second, "10.0.0.5:5432"));
    assert!(is_refused(&mut second, "10.0.0.5:5433"));
    assert!(is_refused(&mut second, "10.0.0.6:5432"));
    assert_eq!(second.host.dialled(), [at("10.0.0.5:5432")]);
}

#[test]
fn the_hosts_own_public_address_is_closed() {
    let mut lab = lab(Mode::Egress, &[], &[]);
    lab.host.own("8.8.4.4");
    assert!(is_refused(&mut lab, "8.8.4.4:22"));
    assert_eq!(lab.event().reason, Some(Reason::Host));
}

#[test]
fn the_gateway_stands_for_the_hosts_loopback_and_needs_a_rule() {
    let gateway = format!("{GATEWAY_V4}:8080");
    let mut closed = lab(Mode::Egress, &[], &[]);
    assert!(is_refused(&mut closed, &gateway));
    assert_eq!(closed.event().smallest_rule_that_would_allow.unwrap().to_string(), "tcp://127.0.0.1:8080");
    let mut open = lab(Mode::Egress, &["127.0.0.1:8080", "[::1]:8080"], &[]);
    assert!(!is_refused(&mut open, &gateway));
    assert!(!is_refused(&mut open, &format!("[{GATEWAY_V6}]:8080")));
    assert_eq!(open.host.dialled(), [at("127.0.0.1:8080"), at("[::1]:8080")]);
}

#[test]
fn answers_hold_what_may_be_reached_and_nothing_else() {
    let mut lab = lab(Mode::Egress, &["db.corp:5432"], &["bad.example"]);
    lab.host.name("good.example", &["1.2.3.4", "10.0.0.1", "127.0.0.1", "2606:4700::1"]);
    lab.host.name("rebind.example", &["127.0.0.1"]);
    lab.host.name("db.corp", &["10.1.1.1"]);
    lab.host.name("bad.example", &["1.2.3.9"]);
    assert_eq!(ask(&mut lab, "good.example", RecordKind::A), (0, vec![[1, 2, 3, 4]]));
    assert_eq!(ask(&mut lab, "db.corp", RecordKind::A), (0, vec![[10, 1, 1, 1]]));
    assert_eq!(ask(&mut lab, "nowhere.example", RecordKind::A), (3, vec![]));
    assert_eq!(ask(&mut lab, "good.example", RecordKind::Other(16)), (0, vec![]));
    assert!(lab.events().is_empty());

    assert_eq!(ask(&mut lab, "rebind.example", RecordKind::A), (3, vec![]));
    let event = lab.event();
    assert_eq!((event.subject, event.names[0].as_str()), (Subject::Name, "rebind.example"));
    assert_eq!(
        event.text,
        "the name rebind.example (127.0.0.1): denied: its address is not public (loopback); \
         the smallest rule that would allow it is 127.0.0.1"
    );
    assert_eq!(event.smallest_rule_that_would_allow.unwrap().to_string(), "127.0.0.1");

    assert_eq!(ask(&mut lab, "bad.example", RecordKind::A), (3, vec![]));
    assert!(!lab.host.asked().contains(&"bad.example".to_owned()), "a denied name is not asked for");
    let event = lab.events().pop().unwrap();
    assert_eq!(event.rule.unwrap().to_string(), "bad.example");

    // The name that led to the address is what its rule and its record go by.
    assert!(!is_refused(&mut lab, "10.1.1.1:5432"));
    assert!(is_refused(&mut lab, "10.1.1.1:5433"));
    let event = lab.events().pop().unwrap();
    assert_eq!(event.names[0].as_str(), "db.corp");
    assert_eq!(event.smallest_rule_that_would_allow.unwrap().to_string(), "tcp://db.corp:5433");
}

/// The address that the gateway gave to a name.
fn address_of(lab: &mut Lab, name: &str) -> std::net::IpAddr {
    let (code, addresses) = ask(lab, name, RecordKind::A);
    assert_eq!((code, addresses.len()), (0, 1), "{name}");
    assert!(NAMES_V4.contains(addresses[0].into()));
    addresses[0].into()
}

#[test]
fn a_list_opens_its_names_and_asks_nobody_for_others() {
    let mut lab = lab(Mode::AllowList, &["api.example:5000", "*.cdn.example", "10.9.0.0/16:22"], &[]);
    lab.host.name("api.example", &["1.2.3.4"]);
    lab.host.name("a.cdn.example", &["1.2.3.4"]);
    assert_eq!(ask(&mut lab, "secret-data.tunnel.example", RecordKind::A), (3, vec![]));
    let event = lab.event();
    assert_eq!((event.end, event.reason), (End::Denied, Some(Reason::NotListed)));
    let api = address_of(&mut lab, "api.example");
    let cdn = address_of(&mut lab, "a.cdn.example");
    assert_ne!(api, cdn, "names on one address are told apart");
    assert!(lab.host.asked().is_empty(), "names are resolved when they are dialled");

    assert!(!is_refused(&mut lab, &format!("{api}:5000")));
    assert!(is_refused(&mut lab, &format!("{api}:5001")));
    assert!(!is_refused(&mut lab, &format!("{cdn}:5001")));
    assert!(is_refused(&mut lab, "1.2.3.4:5000"), "the address alone is not what the rule names");
    assert!(!is_refused(&mut lab, "10.9.1.1:22"));
    assert!(is_refused(&mut lab, "198.18.99.99:80"), "an address that was given to nobody");
    assert_eq!(lab.host.dialled(), [at("1.2.3.4:5000"), at("1.2.3.4:5001"), at("10.9.1.1:22")]);
}

#[test]
fn a_listed_name_that_leads_to_the_host_or_to_metadata_is_closed() {
    let mut lab = lab(Mode::AllowList, &["a.example", "b.example", "*.p.example", "c.example"], &[]);
    lab.host.name("a.example", &["169.254.169.254"]);
    lab.host.name("b.example", &["127.0.0.1", "10.0.0.1"]);
    lab.host.name("x.p.example", &["10.0.0.1"]);
    for (name, is_open) in
        [("a.example", false), ("b.example", true), ("x.p.example", false), ("c.example", false)]
    {
        let address = address_of(&mut lab, name);
        assert_eq!(is_refused(&mut lab, &format!("{address}:9000")), !is_open, "{name}");
    }
    assert_eq!(lab.host.dialled(), [at("10.0.0.1:9000")]);
    assert_eq!(lab.events().pop().unwrap().end, End::NoSuchName);
}

#[test]
fn the_next_address_is_tried_where_one_refuses() {
    let mut lab = lab(Mode::AllowList, &["a.example"], &[]);
    lab.host.name("a.example", &["1.0.0.1", "1.0.0.2"]);
    lab.host.serve("1.0.0.1:9000", Script::Refuse);
    let address = address_of(&mut lab, "a.example");
    assert!(!is_refused(&mut lab, &format!("{address}:9000")));
    assert_eq!(lab.host.dialled().len(), 2);
}

fn speak(lab: &mut Lab, to: &str, bytes: &[u8]) -> SocketHandle {
    let handle = lab.guest.connect(at(to));
    let mut sent = 0;
    lab.run(seconds(20), |lab| {
        sent += lab.guest.write(handle, &bytes[sent..]);
        sent == bytes.len() || lab.guest.state(handle) == State::Closed
    });
    lab.pass(seconds(1));
    handle
}

/// A hello of TLS for `name`.
fn hello(name: &str) -> Vec<u8> {
    let sized = |bytes: &[u8], length_bytes: usize| {
        let mut sized = bytes.len().to_be_bytes()[8 - length_bytes..].to_vec();
        sized.extend(bytes);
        sized
    };
    let entry = [&[0][..], &sized(name.as_bytes(), 2)].concat();
    let extension = [&[0, 0][..], &sized(&sized(&entry, 2), 2)].concat();
    let body = [&[3, 3][..], &[7; 32], &[0], &sized(&[0x13, 1], 2), &[1, 0], &sized(&extension, 2)].concat();
    let handshake = [&[1][..], &sized(&body, 3)].concat();
    [&[22, 3, 1][..], &sized(&handshake, 2)].concat()
}

#[test]
fn under_a_list_the_first_bytes_must_be_for_the_name() {
    let mut lab = lab(Mode::AllowList, &["a.example"], &[]);
    lab.host.name("a.example", &["1.2.3.4"]);
    for port in [80, 443, 25] {
        lab.host.serve(&format!("1.2.3.4:{port}"), Script::Swallow);
    }
    let address = address_of(&mut lab, "a.example");
    let good: [(u16, Vec<u8>); 3] = [
        (443, hello("a.example")),
        (80, b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n".to_vec()),
        (25, b"anything".to_vec()),
    ];
    for (index, (port, bytes)) in good.iter().enumerate() {
        let handle = speak(&mut lab, &format!("{address}:{port}"), bytes);
        assert_eq!(lab.guest.state(handle), State::Established);
        assert!(lab.host.got(index) == *bytes, "port {port}");
    }
    let bad: [(u16, Vec<u8>); 4] = [
        (443, hello("other.example")),
        (443, b"SSH-2.0-x\r\n".to_vec()),
        (80, b"GET / HTTP/1.1\r\nHost: other.example\r\n\r\n".to_vec()),
        (80, b"GET http://other.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n".to_vec()),
    ];
    for (index, (port, bytes)) in bad.iter().enumerate() {
        let handle = speak(&mut lab, &format!("{address}:{port}"), bytes);
        assert_eq!(lab.guest.state(handle), State::Closed, "{index}");
        assert!(lab.host.got(good.len() + index).is_empty(), "nothing reached the server");
        let event = lab.events().pop().unwrap();
        assert_eq!((event.end, event.verdict), (End::OtherName, Verdict::Deny));
    }
    lab.guest.send_raw(guest::udp(5000, &format!("{address}:443"), b"quic"));
    lab.run(seconds(5), |lab| lab.events().last().unwrap().end == End::UncheckedName);
}

#[test]
fn under_a_list_each_request_of_a_connection_must_be_for_the_name() {
    let mut lab = lab(Mode::AllowList, &["a.example"], &[]);
    lab.host.name("a.example", &["1.2.3.4"]);
    lab.host.serve("1.2.3.4:80", Script::Swallow);
    let to = format!("{}:80", address_of(&mut lab, "a.example"));
    let get = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let head = b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 200000\r\n\r\n";
    let good = [&get[..], head, &pattern(200_000, 5), get].concat();
    let handle = speak(&mut lab, &to, &good);
    lab.run(seconds(60), |lab| lab.host.got(0).len() == good.len());
    assert!(lab.host.got(0) == good);
    assert_eq!(lab.guest.state(handle), State::Established);
    lab.guest.write(handle, b"GET / HTTP/1.1\r\nHost: other.example\r\n\r\n");
    lab.run(seconds(5), |lab| lab.guest.state(handle) == State::Closed);
    assert!(lab.host.got(0).len() == good.len(), "nothing of it reached the server");
    assert_eq!(lab.event().end, End::OtherName);

    // An end within a head is no request; an end within a body is the client's to make.
    let handle = speak(&mut lab, &to, b"GET / HTTP/1.1\r\nHost: a.exam");
    lab.guest.socket(handle).close();
    lab.run(seconds(5), |lab| lab.events().len() == 2);
    assert_eq!((lab.events()[1].end, lab.host.got(1).len()), (End::OtherName, 0));
    let handle = speak(&mut lab, &to, &[&head[..], b"some"].concat());
    lab.guest.socket(handle).close();
    lab.run(seconds(5), |lab| lab.host.is_ended(2));
    assert_eq!(lab.host.got(2).len(), head.len() + 4);
}

#[test]
fn a_web_socket_opens_when_the_server_agrees() {
    let mut lab = lab(Mode::AllowList, &["a.example"], &[]);
    lab.host.name("a.example", &["1.2.3.4"]);
    lab.host.serve("1.2.3.4:80", Script::Swallow);
    let to = format!("{}:80", address_of(&mut lab, "a.example"));
    let head = b"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let handle = speak(&mut lab, &to, &[&head[..], b"\x81\x05hello"].concat());
    lab.pass(seconds(5));
    assert!(lab.host.got(0) == head);
    lab.host.set_script(0, Script::Send(b"HTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec()));
    lab.run(seconds(5), |lab| lab.host.got(0).ends_with(b"hello"));
    let mut answer = Vec::new();
    lab.run(seconds(5), |lab| {
        answer.extend(lab.guest.read(handle));
        answer.ends_with(b"Protocols\r\n\r\n")
    });
}

#[test]
fn a_hello_in_pieces_is_waited_for() {
    let mut lab = lab(Mode::AllowList, &["a.example"], &[]);
    lab.host.name("a.example", &["1.2.3.4"]);
    lab.host.serve("1.2.3.4:443", Script::Swallow);
    let address = address_of(&mut lab, "a.example");
    let bytes = hello("a.example");
    let (first, second) = bytes.split_at(20);
    let handle = speak(&mut lab, &format!("{address}:443"), first);
    assert!(lab.host.got(0).is_empty());
    lab.guest.write(handle, second);
    lab.run(seconds(5), |lab| lab.host.got(0) == bytes);
}

#[test]
fn other_records_are_asked_for_where_the_name_may_be_and_nowhere_else() {
    const PTR: RecordKind = RecordKind::Other(12);
    const TXT: RecordKind = RecordKind::Other(16);
    const ANY: RecordKind = RecordKind::Other(255);
    let mut list = lab(Mode::AllowList, &["*.listed.example:443"], &[]);
    list.host.name("_imap.listed.example", &["1.2.3.4"]);
    assert_eq!(ask(&mut list, "_imap.listed.example", TXT).0, 0);
    assert_eq!(ask(&mut list, "no.listed.example", TXT).0, 3);
    assert_eq!(ask(&mut list, "secret-data.other.example", TXT).0, 3);
    assert_eq!(ask(&mut list, "9.9.9.9.in-addr.arpa", PTR).0, 3);
    assert_eq!(list.host.asked(), ["_imap.listed.example", "no.listed.example"]);

    let mut open = lab(Mode::Egress, &[], &["bad.example"]);
    open.host.name("9.9.9.9.in-addr.arpa", &[]);
    assert_eq!(ask(&mut open, "9.9.9.9.in-addr.arpa", PTR).0, 0);
    for name in ["5.0.0.10.in-addr.arpa", "bad.example", "dns.google"] {
        assert_eq!(ask(&mut open, name, PTR).0, 3, "{name}");
    }
    assert_eq!(ask(&mut open, "a.example", ANY).0, 0);
    assert_eq!(open.host.asked(), ["9.9.9.9.in-addr.arpa"]);
    // One name's addresses and records are two questions, both of which are answered.
    open.host.name("a.example", &["1.2.3.4"]);
    let kinds = [RecordKind::A, TXT];
    for kind in kinds {
        let question = Question::emit(7, &"a.example".parse().unwrap(), kind);
        open.guest.send_raw(guest::udp(5353, "9.9.9.9:53", &question));
    }
    open.run(seconds(30), |lab| lab.guest.others.len() == 2);
    let mut counts: Vec<u8> = open.guest.others.iter().map(|packet| packet[28 + 7]).collect();
    counts.sort_unstable();
    assert_eq!(counts, [0, 1]);
    assert_eq!(open.host.asked()[1..], ["a.example", "a.example"]);
}

#[test]
fn names_are_answered_over_tcp_too() {
    let mut lab = lab(Mode::Egress, &[], &["bad.example"]);
    lab.host.name("good.example", &["1.2.3.4"]);
    let mut bytes = Vec::new();
    let mut questions = Vec::new();
    for name in ["good.example", "bad.example"] {
        let question = Question::emit(7, &name.parse().unwrap(), RecordKind::A);
        bytes.extend((question.len() as u16).to_be_bytes());
        bytes.extend(&question);
        questions.push(question);
    }
    let handle = speak(&mut lab, "8.8.8.8:53", &bytes);
    lab.guest.socket(handle).close();
    let mut got = Vec::new();
    lab.run(seconds(20), |lab| {
        got.extend(lab.guest.read(handle));
        matches!(lab.guest.state(handle), State::TimeWait | State::Closed)
    });
    // The denied name is answered at once, the other one after its lookup.
    let mut answers = Vec::new();
    while !got.is_empty() {
        let length = usize::from(got[0]) << 8 | usize::from(got[1]);
        let answer: Vec<u8> = got.drain(..2 + length).skip(2).collect();
        let question = questions.iter().find(|question| answer[12..].starts_with(&question[12..])).unwrap();
        answers.push(parse_answer(&answer, question));
    }
    answers.sort();
    assert_eq!(answers, [(0, vec![[1, 2, 3, 4]]), (3, vec![])]);
    assert!(lab.host.dialled().is_empty());
}

#[test]
fn questions_in_flight_are_bounded_and_given_up_in_time() {
    let limits = Limits { dns_in_flight: 3, ..Limits::default() };
    let mut lab = Lab::new(Policy { limits, ..Policy::of(Mode::Egress) }, 1);
    lab.host.silence_resolver();
    for number in 0..5 {
        let question = Question::emit(number, &format!("n{number}.example").parse().unwrap(), RecordKind::A);
        lab.guest.send_raw(guest::udp(6000 + number, "9.9.9.9:53", &question));
    }
    lab.pass(seconds(1));
    assert_eq!((lab.host.asked().len(), lab.guest.others.len()), (3, 2));
    lab.run(seconds(30), |lab| lab.guest.others.len() == 5);
    assert!(lab.guest.others.iter().all(|packet| packet[28 + 3] & 15 == 2));
    assert!(lab.events().iter().all(|event| event.end == End::TooManyNames));
}

#[test]
fn datagrams_go_and_come_and_their_flow_ends_in_silence() {
    let mut lab = lab(Mode::Egress, &[], &[]);
    let payload = pattern(4000, 1);
    lab.guest.send_raw(guest::udp(5000, "1.2.3.4:4000", &payload[..1000]));
    lab.guest.send_raw(guest::udp(5000, "1.2.3.4:4000", b"second"));
    lab.run(seconds(5), |lab| lab.guest.others.len() == 2);
    assert!(lab.guest.others[0][28..] == payload[..1000]);
    assert_eq!((lab.host.dialled(), lab.stack.counters().flows), (vec![at("1.2.3.4:4000")], 1));
    lab.run(seconds(100), |lab| lab.events().len() == 1);
    let event = lab.event();
    assert_eq!((event.end, event.sent_bytes, event.received_bytes), (End::Finished, 1006, 1006));
    assert_eq!(lab.stack.counters().flows, 0);
}

#[test]
fn datagrams_larger_than_the_link_go_and_come_in_pieces() {
    let mut lab = lab(Mode::Egress, &[], &[]);
    let payload = pattern(5000, 4);
    let mut pieces = guest::in_pieces(&guest::udp(4000, "1.2.3.4:9", &payload), 1480, 77);
    pieces.swap(0, 2);
    assert_eq!(pieces.len(), 4);
    pieces.into_iter().for_each(|piece| lab.guest.send_raw(piece));
    lab.run(seconds(5), |lab| lab.guest.others.len() == 4);
    let mut got: Vec<u8> = Vec::new();
    for piece in &lab.guest.others {
        assert!(piece.len() <= 1500);
        got.extend(&piece[20..]);
    }
    assert!(got[8..] == payload);
    lab.run(seconds(120), |lab| !lab.events().is_empty());
    assert_eq!((lab.event().sent_bytes, lab.event().received_bytes), (5000, 5000));
}

#[test]
fn used_up_bytes_end_datagrams_and_are_told_to_who_asks_for_a_name() {
    let limits = Limits { total_bytes: Some(2500), ..Limits::default() };
    let mut lab = Lab::new(Policy { limits, ..Policy::of(Mode::Egress) }, 3);
    lab.host.name("a.example", &["1.2.3.4"]);
    assert_eq!(ask(&mut lab, "a.example", RecordKind::A).0, 0);
    let questions = lab.stack.counters().passed_bytes;
    assert_eq!(questions, 27 + 43, "a question and its answer count");
    lab.guest.send_raw(guest::udp(4000, "1.2.3.4:9", &pattern(1000, 1)));
    lab.run(seconds(5), |lab| !lab.guest.others.is_empty());
    lab.guest.others.clear();
    // The next one goes, for there is some room, and uses it up: what comes back is not delivered.
    lab.guest.send_raw(guest::udp(4000, "1.2.3.4:9", &pattern(1000, 1)));
    lab.run(seconds(5), |lab| !lab.events().is_empty());
    assert!(lab.guest.others.is_empty());
    let event = lab.event();
    assert_eq!((event.end, event.sent_bytes, event.received_bytes), (End::BytesUsedUp, 2000, 1000));
    assert_eq!(event.names[0].as_str(), "a.example");
    assert_eq!(ask(&mut lab, "a.example", RecordKind::A), (2, vec![]));
    let event = lab.events().pop().unwrap();
    assert_eq!((event.subject, event.end), (Subject::Name, End::BytesUsedUp));
    assert_eq!(
        event.text,
        "the name a.example: denied: the egress limit is used up; a higher egress limit would allow it"
    );
    lab.guest.send_raw(guest::udp(4001, "1.2.3.4:9", b"more"));
    lab.run(seconds(5), |lab| lab.events().len() == 3);
    assert_eq!(lab.events()[2].names[0].as_str(), "a.example");
}

#[test]
fn datagrams_at_once_pass_no_further_than_the_one_that_uses_the_limit_up() {
    let limits = Limits { total_bytes: Some(500), ..Limits::default() };
    let mut lab = Lab::new(Policy { limits, ..Policy::of(Mode::Egress) }, 3);
    for _ in 0..3 {
        lab.send(&guest::framed(&guest::udp(4000, "1.2.3.4:9", &pattern(1000, 1))));
    }
    lab.turn();
    assert_eq!(lab.stack.counters().passed_bytes, 1000);
    assert_eq!(lab.events()[0].sent_bytes, 1000);
    assert!(lab.events().iter().all(|event| event.end == End::BytesUsedUp));
}

#[test]
fn a_denied_datagram_is_answered_by_an_error_at_once() {
    let mut lab = lab(Mode::Egress, &[], &[]);
    lab.guest.send_raw(guest::udp(5000, "10.0.0.1:4000", b"x"));
    lab.run(seconds(5), |lab| !lab.guest.others.is_empty());
    let error = lab.guest.others.pop_front().unwrap();
    assert_eq!((error[9], error[20], error[21]), (1, 3, 13), "administratively prohibited");
    assert_eq!(error[28 + 16..28 + 20], [10, 0, 0, 1], "it quotes the datagram");
    assert_eq!((lab.event().end, lab.host.dialled().len()), (End::Denied, 0));
}

#[test]
fn datagrams_to_a_listed_name_wait_for_its_address() {
    let mut lab = lab(Mode::AllowList, &["ntp.example:123"], &[]);
    lab.host.name("ntp.example", &["1.2.3.4"]);
    let address = address_of(&mut lab, "ntp.example");
    lab.guest.send_raw(guest::udp(5000, &format!("{address}:123"), b"time?"));
    lab.run(seconds(5), |lab| !lab.guest.others.is_empty());
    let answer = lab.guest.others.pop_front().unwrap();
    assert_eq!((&answer[28..], lab.host.dialled()), (&b"time?"[..], vec![at("1.2.3.4:123")]));
    lab.guest.send_raw(guest::udp(5000, &format!("{address}:124"), b"time?"));
    lab.run(seconds(5), |lab| !lab.guest.others.is_empty());
    assert_eq!(lab.event().smallest_rule_that_would_allow.unwrap().to_string(), "udp://ntp.example:124");
}

fn echo(identifier: u8, to: [u8; 4]) -> Vec<u8> {
    guest::v4([198, 19, 255, 2], to, 1, &[8, 0, 0, 0, 0, identifier, 0, 1, b'h', b'i'])
}

#[test]
fn echo_is_answered_by_the_gateway_and_passed_on_beyond() {
    let mut lab = lab(Mode::Egress, &[], &[]);
    for (to, dialled) in [(GATEWAY_V4.octets(), 0), ([1, 2, 3, 4], 1)] {
        lab.guest.send_raw(echo(9, to));
        lab.run(seconds(5), |lab| !lab.guest.others.is_empty());
        let reply = lab.guest.others.pop_front().unwrap();
        assert_eq!(reply[12..16], to);
        assert_eq!((reply[20], &reply[24..]), (0, &[0, 9, 0, 1, b'h', b'i'][..]));
        assert_eq!(guest::sum(&reply[20..]), 0xffff);
        assert_eq!(lab.host.dialled().len(), dialled);
    }
    lab.guest.send_raw(echo(9, [10, 0, 0, 1]));
    lab.run(seconds(5), |lab| !lab.events().is_empty());
    assert_eq!(lab.event().smallest_rule_that_would_allow.unwrap().to_string(), "icmp://10.0.0.1");
    assert_eq!(lab.host.dialled().len(), 1);
}

#[test]
fn off_lets_nothing_through() {
    let mut lab = lab(Mode::Off, &[], &[]);
    assert!(is_refused(&mut lab, "1.2.3.4:443"));
    assert_eq!(ask(&mut lab, "a.example", RecordKind::A), (3, vec![]));
    assert!(lab.host.dialled().is_empty() && lab.host.asked().is_empty());
    assert!(lab.events().iter().all(|event| event.reason == Some(Reason::Off)));
}

#[test]
fn the_gateway_tells_its_ethernet_address_and_nobody_elses() {
    let mut lab = lab(Mode::Egress, &[], &[]);
    let mut question = vec![0; 12];
    question.extend([0xff; 6]);
    question.extend(pyro_net::guest::GUEST_MAC);
    question.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    question.extend(pyro_net::guest::GUEST_MAC);
    question.extend([198, 19, 255, 2, 0, 0, 0, 0, 0, 0]);
    for (target, count) in [([198, 19, 255, 7], 0), ([198, 19, 255, 1], 1)] {
        let mut question = question.clone();
        question.extend(target);
        lab.send(&question);
        lab.turn();
        let replies = lab.receive();
        assert_eq!(replies.len(), count);
        assert!(replies.iter().all(|reply| reply[34..40] == pyro_net::guest::GATEWAY_MAC));
    }
}

#[test]
fn neighbours_are_told_the_gateways_address_unless_they_only_look_for_their_own() {
    let mut lab = lab(Mode::Egress, &[], &[]);
    let mut solicit = |source: std::net::Ipv6Addr, target: std::net::Ipv6Addr| {
        let mut packet = vec![0x60, 0, 0, 0, 0, 24, 58, 255];
        packet.extend(source.octets());
        packet.extend("ff02::1:ff00:1".parse::<std::net::Ipv6Addr>().unwrap().octets());
        packet.extend([135, 0, 0, 0, 0, 0, 0, 0]);
        packet.extend(target.octets());
        lab.send(&guest::framed(&packet));
        lab.turn();
        lab.receive()
    };
    let own = pyro_net::guest::GUEST_V6;
    assert_eq!(solicit(own, GATEWAY_V6).len(), 1);
    assert_eq!(solicit("fe80::5".parse().unwrap(), GATEWAY_V6).len(), 1);
    assert_eq!(solicit("::".parse().unwrap(), GATEWAY_V6).len(), 0);
    assert_eq!(solicit(own, own).len(), 0);
    assert_eq!(solicit("2001:db8::1".parse().unwrap(), GATEWAY_V6).len(), 0);
}
