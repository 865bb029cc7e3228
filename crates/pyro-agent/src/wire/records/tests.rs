use super::*;
use proptest::prelude::*;

fn time() -> impl Strategy<Value = FileTime> {
    (any::<i64>(), 0u32..1_000_000_000).prop_map(|(seconds, nanos)| FileTime { seconds, nanos })
}

fn path() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(1u8.., 0..200)
}

pub(crate) fn facts() -> impl Strategy<Value = FileFacts> {
    let ids = (any::<u32>(), any::<u32>(), 0u32..=0o7777);
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>());
    (1u8..=6, ids, numbers, time(), time(), path()).prop_map(|(kind, ids, numbers, mtime, ctime, target)| {
        let kind = FileKind::from_byte(kind).unwrap();
        let link_target = (kind == FileKind::Symlink).then(|| GuestPath::new(target));
        let ((uid, gid, mode), (size_bytes, ino, link_count)) = (ids, numbers);
        FileFacts { kind, size_bytes, mode, uid, gid, mtime, ctime, ino, link_count, link_target }
    })
}

fn chunk() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 1..500)
}

fn fetch_item() -> impl Strategy<Value = FetchItem> {
    prop_oneof![
        Just(FetchItem::Absent),
        facts().prop_map(FetchItem::Content),
        facts().prop_map(FetchItem::TooLarge),
        facts().prop_map(FetchItem::Bare),
        chunk().prop_map(FetchItem::Chunk),
        Just(FetchItem::End),
    ]
}

fn change_item() -> impl Strategy<Value = ChangeItem> {
    let expected = prop_oneof![
        Just(Expected::Any),
        Just(Expected::Absent),
        any::<[u8; 32]>().prop_map(Expected::Content),
        (any::<u64>(), time()).prop_map(|(size_bytes, mtime)| Expected::Unchanged { size_bytes, mtime }),
    ];
    let action = prop_oneof![
        prop::option::of(0u32..=0o7777).prop_map(|mode| ChangeAction::Write { mode }),
        Just(ChangeAction::Remove),
        (0u32..=0o7777).prop_map(|mode| ChangeAction::Chmod { mode }),
        prop::collection::vec(1u8.., 1..100).prop_map(|target| ChangeAction::Symlink { target }),
    ];
    prop_oneof![
        (path(), expected, action).prop_map(|(path, expected, action)| ChangeItem::Change(Change {
            path,
            expected,
            action
        })),
        chunk().prop_map(ChangeItem::Chunk),
        Just(ChangeItem::End),
    ]
}

/// All records of a stream that arrives in pieces.
fn cut_up(stream: &[u8], cut: usize) -> Vec<Vec<u8>> {
    let mut cutter = RecordCutter::new();
    let mut bodies = Vec::new();
    for piece in stream.chunks(cut) {
        cutter.feed(piece);
        while let Some(body) = cutter.next_record().unwrap() {
            bodies.push(body.to_vec());
        }
    }
    assert!(cutter.is_empty());
    bodies
}

proptest! {
    #[test]
    fn entries_parse_back_to_themselves_however_the_stream_is_cut(
        entries in prop::collection::vec((path(), facts()), 0..20),
        cut in 1usize..300,
    ) {
        let entries: Vec<Entry> = entries.into_iter().map(|(path, facts)| Entry { path, facts }).collect();
        let mut stream = Vec::new();
        entries.iter().for_each(|entry| entry.emit(&mut stream));
        let parsed: Vec<Entry> =
            cut_up(&stream, cut).iter().map(|body| Entry::parse(body).unwrap()).collect();
        prop_assert_eq!(parsed, entries);
    }

    #[test]
    fn items_parse_back_to_themselves(
        fetch in fetch_item(),
        change in change_item(),
        name in "[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}",
        value in prop::collection::vec(any::<u8>(), 0..300),
        path in path(),
    ) {
        let secret = SecretItem { name, value };
        let mut stream = Vec::new();
        fetch.emit(&mut stream);
        change.emit(&mut stream);
        secret.emit(&mut stream);
        emit_path(&path, &mut stream);
        let bodies = cut_up(&stream, stream.len());
        prop_assert_eq!(FetchItem::parse(&bodies[0]), Ok(fetch));
        prop_assert_eq!(ChangeItem::parse(&bodies[1]), Ok(change));
        prop_assert_eq!(SecretItem::parse(&bodies[2]), Ok(secret));
        prop_assert_eq!(parse_path_record(&bodies[3]), Ok(path));
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_what_parses_emits_back(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        cut in 1usize..64,
    ) {
        fuzz_records(&bytes, cut);
        let mut framed = Vec::new();
        record(&mut framed, |out| out.extend_from_slice(&bytes));
        fuzz_records(&framed, cut);
    }
}

#[test]
fn a_typical_entry_is_small() {
    let time = FileTime { seconds: 1_700_000_000, nanos: 123_456_789 };
    let facts = FileFacts {
        kind: FileKind::File,
        size_bytes: 12_345,
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        mtime: time,
        ctime: time,
        ino: 123_456,
        link_count: 1,
        link_target: None,
    };
    let mut out = Vec::new();
    emit_entry(b"src/lib.rs", &facts, &mut out);
    assert!(out.len() <= 48, "{} bytes", out.len());
}

#[test]
fn numbers_in_a_longer_form_are_refused() {
    assert_eq!(parse_path_record(&[0x80, 0]), Err(RecordError::Field("number")));
    assert_eq!(parse_path_record(&[0x81, 0x80, 0x80]), Err(RecordError::Truncated));
    assert_eq!(parse_path_record(&[0xff; 12]), Err(RecordError::Field("number")));
}

#[test]
fn an_oversized_record_is_refused_before_its_body_arrives() {
    let mut cutter = RecordCutter::new();
    cutter.feed(&u32::MAX.to_le_bytes());
    assert_eq!(cutter.next_record(), Err(RecordError::TooLarge(u32::MAX)));
}

#[test]
fn a_secrets_value_is_not_in_its_debug_text() {
    let secret = SecretItem { name: "TOKEN".into(), value: b"hunter2".to_vec() };
    let text = format!("{secret:?}");
    assert!(text.contains("TOKEN") && !text.contains("hunter2") && !text.contains("104"), "{text}");
}
