use super::*;

fn text_record(owner: &str, text: &[u8]) -> Record {
    let data = [&[text.len() as u8], text].concat();
    Record { owner: wire_name(&owner.parse().unwrap()), kind: 16, ttl_s: 86_400, data }
}

#[test]
fn records_are_written_with_their_owners_and_as_many_as_fit() {
    let mut question = Question::emit(7, &"a.example".parse().unwrap(), RecordKind::Other(16));
    let parsed = Question::parse(&question).unwrap();
    let records = vec![text_record("a.example", b"one"), text_record("b.example", b"two")];
    let answer = parsed.answer(&Answer::Records(records), 512);
    question[2..4].copy_from_slice(&[0x81, 0x80]);
    question[7] = 2;
    question.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 60, 0, 4, 3]);
    question.extend(b"one");
    question.extend(wire_name(&"b.example".parse().unwrap()));
    question.extend([0, 16, 0, 1, 0, 0, 0, 60, 0, 4, 3]);
    question.extend(b"two");
    assert_eq!(answer, question);
    let long = vec![text_record("a.example", &[b'x'; 200]); 9];
    let answer = parsed.answer(&Answer::Records(long), 512);
    assert!(answer.len() <= 512);
    assert_eq!((answer[2] & 2, answer[7]), (2, 2), "cut, and said to be");
}

use proptest::prelude::*;

fn question(name: &str, kind: RecordKind) -> Question {
    Question::parse(&Question::emit(7, &name.parse().unwrap(), kind)).unwrap()
}

fn code(message: &[u8]) -> u16 {
    u16_at(message, 2).unwrap() & 0xf
}

#[test]
fn a_question_is_read_as_it_was_written() {
    let question = question("www.Example.com", RecordKind::Aaaa);
    assert_eq!(question.name.as_ref().unwrap().as_str(), "www.example.com");
    assert_eq!((question.id, question.kind, question.udp_bytes), (7, RecordKind::Aaaa, 512));
}

#[test]
fn answers_repeat_the_question_letter_by_letter() {
    let mut message = Question::emit(1, &"example.com".parse().unwrap(), RecordKind::A);
    message[13] = b'E';
    let answer = Question::parse(&message).unwrap().answer(&Answer::NoSuchName, 512);
    assert_eq!(answer[12..], message[12..]);
    assert_eq!(code(&answer), 3);
}

#[test]
fn only_addresses_of_the_kind_asked_for_are_answered() {
    let both: Vec<IpAddr> = vec!["1.2.3.4".parse().unwrap(), "::2".parse().unwrap()];
    for (kind, count, last) in [
        (RecordKind::A, 1, &[1, 2, 3, 4][..]),
        (RecordKind::Aaaa, 1, &[0, 2]),
        (RecordKind::Other(15), 0, &[]),
    ] {
        let answer = question("a.b", kind).answer(&Answer::Addresses(both.clone()), 512);
        assert_eq!(u16_at(&answer, 6), Some(count));
        if !last.is_empty() {
            assert!(answer.ends_with(last));
        }
        assert_eq!(code(&answer), 0);
    }
}

#[test]
fn what_does_not_fit_is_left_out_and_said_to_be() {
    let many: Vec<IpAddr> = (0..16u8).map(|n| IpAddr::from([1, 2, 3, n])).collect();
    let question = question("a.b", RecordKind::A);
    let answer = question.answer(&Answer::Addresses(many.clone()), 100);
    assert!(answer.len() <= 100);
    assert_eq!(u16_at(&answer, 2).unwrap() & TRUNCATED, TRUNCATED);
    let whole = question.answer(&Answer::Addresses(many), 512);
    assert_eq!((u16_at(&whole, 6), u16_at(&whole, 2).unwrap() & TRUNCATED), (Some(16), 0));
}

#[test]
fn a_client_that_takes_more_says_so() {
    let mut message = Question::emit(1, &"a.b".parse().unwrap(), RecordKind::A);
    message[11] = 1;
    message.extend([0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0]);
    let question = Question::parse(&message).unwrap();
    assert_eq!(question.udp_bytes, limits::MAX_ANSWER_BYTES);
    assert_eq!(u16_at(&question.answer(&Answer::NoSuchName, 512), 10), Some(1));
}

#[test]
fn what_is_no_question_is_told_so_or_ignored() {
    let good = Question::emit(1, &"a.b".parse().unwrap(), RecordKind::A);
    let with = |at: usize, value: u8| {
        let mut message = good.clone();
        message[at] = value;
        Question::parse(&message).unwrap_err()
    };
    assert_eq!(with(2, 0x80), Malformed::Ignore);
    for (at, value) in [(5, 2), (5, 0), (7, 1), (12, 0xc0), (12, 60)] {
        let Malformed::Reply(reply) = with(at, value) else { panic!("no reply to {at} = {value}") };
        assert_eq!(code(&reply), 1);
    }
    let Malformed::Reply(reply) = with(2, 0x28) else { panic!("no reply to an update") };
    assert_eq!(code(&reply), 4);
}

#[test]
fn a_dot_inside_a_label_makes_no_name() {
    let mut message = Question::emit(1, &"aXb.c".parse().unwrap(), RecordKind::A);
    message[14] = b'.';
    assert_eq!(Question::parse(&message).unwrap().name, None);
}

proptest! {
    #[test]
    fn no_message_panics(message in proptest::collection::vec(any::<u8>(), 0..600), most in 0usize..600) {
        if let Ok(question) = Question::parse(&message) {
            let _ = question.answer(&Answer::Addresses(vec![[1, 2, 3, 4].into()]), most);
        }
    }

    #[test]
    fn every_name_survives_its_message(name in "([a-z0-9_-]{1,63}\\.){0,3}[a-z]{1,9}") {
        let name: Name = name.parse().unwrap();
        prop_assert_eq!(question(name.as_str(), RecordKind::A).name, Some(name));
    }
}
