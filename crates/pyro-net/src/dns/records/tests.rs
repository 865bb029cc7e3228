use super::*;
use crate::dns::{Question, RecordKind};
use proptest::prelude::*;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// An answer to question 7 with records of `owner`, `kind` and `data`; 0xc00c is the question's name.
fn message(kind: u16, records: &[(&[u8], u16, &[u8])]) -> Vec<u8> {
    let mut message = Question::emit(7, &name("a.example"), RecordKind::Other(kind));
    message[2..4].copy_from_slice(&[0x81, 0x80]);
    message[7] = records.len() as u8;
    for (owner, kind, data) in records {
        message.extend(*owner);
        message.extend(kind.to_be_bytes());
        message.extend([0, 1, 0, 0, 0x0e, 0x10]);
        message.extend((data.len() as u16).to_be_bytes());
        message.extend(*data);
    }
    message
}

const OWN: &[u8] = &[0xc0, 12];

fn parse(kind: u16, records: &[(&[u8], u16, &[u8])]) -> Response {
    parse_response(&message(kind, records), 7, &name("a.example"), kind)
}

/// The data of the records that were kept.
fn data(kind: u16, records: &[(&[u8], u16, &[u8])]) -> Vec<Vec<u8>> {
    match parse(kind, records) {
        Response::Records(records) => records.into_iter().map(|record| record.data).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_in_records_are_written_without_pointers() {
    let mail = [&[0, 10, 4][..], b"mail", &[0xc0, 12]].concat();
    let written = [&[0, 10, 4][..], b"mail", &[1], b"a", &[7], b"example", &[0]].concat();
    assert_eq!(data(MX, &[(OWN, MX, &mail)]), [written]);
    let service = [&[0, 1, 0, 2, 0, 80, 1][..], b"s", OWN].concat();
    assert_eq!(data(SRV, &[(OWN, SRV, &service)])[0].len(), 6 + 2 + 11);
    let zone = [OWN, OWN, &[9; 20]].concat();
    assert_eq!(data(SOA, &[(OWN, SOA, &zone)])[0].len(), 11 + 11 + 20);
    assert_eq!(data(TXT, &[(OWN, TXT, b"\x02hi\x00")]), [b"\x02hi\x00"]);
    assert_eq!(data(CAA, &[(OWN, CAA, b"\x00\x05issueca.example")]), [b"\x00\x05issueca.example"]);
}

#[test]
fn aliases_lead_to_what_was_asked_for_and_other_owners_are_left_out() {
    let alias = [1, b'b', 0xc0, 14];
    let other = [1, b'x', 0];
    let records: [(&[u8], u16, &[u8]); 4] = [
        (OWN, CNAME, &alias),
        (&[1, b'B', 0xc0, 14], TXT, &[1, b'1']),
        (&other, TXT, &[1, b'2']),
        (OWN, 99, &[1, b'3']),
    ];
    let alias = [&[1, b'b', 7][..], b"example", &[0]].concat();
    assert_eq!(data(TXT, &records), [alias, vec![1, b'1']]);
}

#[test]
fn a_binding_loses_its_hints_and_its_keys_for_encrypted_hellos() {
    let head = [0, 1, 0];
    let alpn = [0, 1, 0, 3, 2, b'h', b'2'];
    let port = [0, 3, 0, 2, 1, 187];
    let hint = [0, 4, 0, 4, 10, 0, 0, 1];
    let encrypted = [0, 5, 0, 2, 9, 9];
    let whole = [&head[..], &alpn, &port, &hint, &encrypted, &[0, 6, 0, 0, 0, 7, 0, 1, b'/']].concat();
    assert_eq!(data(HTTPS, &[(OWN, HTTPS, &whole)]), [[&head[..], &alpn, &port].concat()]);
    // A client must not use a binding without what it says is needed.
    let needed = [&head[..], &[0, 0, 0, 2, 0, 5], &encrypted].concat();
    assert!(data(HTTPS, &[(OWN, HTTPS, &needed)]).is_empty());
    let kept = [&head[..], &[0, 0, 0, 2, 0, 1], &alpn].concat();
    assert_eq!(data(SVCB, &[(OWN, SVCB, &kept)])[0], kept);
    for wrong in [[&head[..], &port, &alpn].concat(), [&head[..], &[0, 1, 0, 2, 3, b'h']].concat()] {
        assert_eq!(parse(HTTPS, &[(OWN, HTTPS, &wrong)]), Response::Failed);
    }
}

#[test]
fn what_answers_another_question_is_told_apart_from_what_makes_no_sense() {
    let good = message(TXT, &[(OWN, TXT, &[1, b'1'])]);
    let parse = |bytes: &[u8]| parse_response(bytes, 7, &name("A.example"), TXT);
    assert!(matches!(parse(&good), Response::Records(_)));
    for (at, byte) in [(0, 1), (1, 8), (2, 1), (5, 2), (13, b'z'), (24, 15)] {
        let mut bytes = good.clone();
        bytes[at] = byte;
        assert_eq!(parse(&bytes), Response::Other, "{at}");
    }
    let with_flags = |flags: [u8; 2]| {
        let mut bytes = good.clone();
        bytes[2..4].copy_from_slice(&flags);
        parse(&bytes)
    };
    assert_eq!(with_flags([0x83, 0x80]), Response::Truncated);
    assert_eq!(with_flags([0x81, 0x83]), Response::NoSuchName);
    assert_eq!(with_flags([0x81, 0x82]), Response::Failed);
    assert_eq!(parse(&good[..good.len() - 1]), Response::Failed);
    for (kind, bytes) in [
        (TXT, &[5, 1][..]),
        (TXT, &[]),
        (MX, &[0, 1, 0, 0]),
        (MX, &[0, 1, 0xc0, 0xff]),
        (NS, &[64, 1]),
        (CAA, &[0, 0, 1]),
        (SSHFP, &[1, 1]),
    ] {
        let mut message = message(kind, &[(OWN, kind, bytes)]);
        message[1] = 7;
        assert_eq!(parse_response(&message, 7, &name("a.example"), kind), Response::Failed, "{kind}");
    }
}

#[test]
fn pointers_end_and_names_are_bounded() {
    // A pointer to itself, and two to each other.
    assert_eq!(read_name(&[0xc0, 0], 0), None);
    assert_eq!(read_name(&[0xc0, 2, 0xc0, 0], 0), None);
    let long = [[63; 64]; 4].concat();
    assert_eq!(read_name(&[&long[..], &[0]].concat(), 0), None);
    assert_eq!(read_name(&[1, b'a', 0, 0xc0, 0], 3), Some((vec![1, b'a', 0], 5)));
}

#[test]
fn there_is_an_end_to_records() {
    let many: Vec<(&[u8], u16, &[u8])> = vec![(OWN, TXT, &[1, b'1']); 200];
    assert_eq!(data(TXT, &many).len(), limits::MAX_ANSWER_RECORDS);
}

proptest! {
    #[test]
    fn no_answer_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0usize..12, at in 12usize..80) {
        let kind = [NS, CNAME, SOA, PTR, MX, TXT, SRV, SSHFP, TLSA, SVCB, HTTPS, CAA][kind];
        let mut whole = message(kind, &[(OWN, kind, &bytes)]);
        parse_response(&whole, 7, &name("a.example"), kind);
        let at = at.min(whole.len() - 1);
        whole.truncate(at);
        whole.extend(&bytes);
        parse_response(&whole, 7, &name("a.example"), kind);
    }
}
