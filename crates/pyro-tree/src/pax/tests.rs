use std::io::Read as _;

use proptest::prelude::*;

use super::*;

fn path() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(1u8..=255, 1..200)
            .prop_filter("a trailing slash makes a directory", |path| !path.ends_with(b"/")),
        "[a-z]{1,20}".prop_map(String::into_bytes),
    ]
}

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        (0u64..3000).prop_map(Content::solid),
        prop::collection::vec((1u64..5000, 1u64..900), 0..6).prop_map(|steps| {
            let mut at = 0;
            let mut extents = Vec::new();
            for (gap, len) in steps {
                extents.push(Extent { offset: at + gap, len });
                at += gap + len;
            }
            Content { size: at + 7, extents }
        }),
    ]
}

fn member() -> impl Strategy<Value = Member> {
    let kind = prop_oneof![
        content().prop_map(Kind::File),
        Just(Kind::Directory),
        path().prop_map(Kind::Symlink),
        path().prop_map(Kind::HardLink),
        Just(Kind::Fifo),
    ];
    let xattr = (
        "(user|trusted)\\.[a-z=%]{1,12}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..60),
    );
    (
        path(),
        kind,
        0u32..=0o7777,
        any::<u32>(),
        any::<u32>(),
        (-99_999_999_999i64..99_999_999_999, 0u32..1_000_000_000),
        prop::collection::vec(xattr, 0..3),
    )
        .prop_map(|(path, kind, mode, uid, gid, (seconds, nanos), xattrs)| Member {
            path,
            kind,
            mode,
            uid,
            gid,
            mtime: Time { seconds, nanos },
            xattrs,
        })
}

/// Stored bytes that differ from place to place.
fn stored(content: &Content) -> Vec<u8> {
    (0..content.stored_bytes()).map(|at| (at % 251) as u8).collect()
}

fn pack(members: &[Member]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for member in members {
        writer.start_member(member).unwrap();
        if let Kind::File(content) = &member.kind {
            writer.write_content(&stored(content)).unwrap();
        }
    }
    writer.finish().unwrap()
}

fn file(path: &str, size: u64) -> Member {
    Member {
        path: path.into(),
        kind: Kind::File(Content::solid(size)),
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        xattrs: Vec::new(),
    }
}

proptest! {
    #[test]
    fn members_read_back_as_written(members in prop::collection::vec(member(), 0..6), skip in any::<bool>()) {
        let archive = pack(&members);
        prop_assert_eq!(archive.len() % BLOCK_BYTES, 0);
        let mut reader = Reader::new(&archive[..]);
        for member in &members {
            let read = reader.next_member().unwrap();
            prop_assert_eq!(read.as_ref(), Some(member));
            if let Kind::File(content) = &member.kind && !skip {
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes).unwrap();
                prop_assert_eq!(bytes, stored(content));
            }
        }
        prop_assert_eq!(reader.next_member().unwrap(), None);
    }

    #[test]
    fn a_truncated_archive_is_never_taken_for_whole(member in member(), cut in 1usize..4096) {
        let archive = pack(&[member]);
        // The second zero block of the end mark is the only part that may be missing.
        let cut = cut.min(archive.len() - BLOCK_BYTES - 1);
        let mut reader = Reader::new(&archive[..cut]);
        let whole = loop {
            match reader.next_member() {
                Ok(Some(_)) => {}
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        prop_assert!(!whole);
    }

    #[test]
    fn damaged_archives_never_panic(
        members in prop::collection::vec(member(), 1..4),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
    ) {
        let mut archive = pack(&members);
        for (at, byte) in edits {
            let at = at.index(archive.len());
            archive[at] = byte;
        }
        fuzz_archive(&archive);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        fuzz_archive(&bytes);
    }
}

#[test]
fn archives_of_the_tar_crate_are_read_long_names_included() {
    let long = format!("{}/leaf", "directory-name/".repeat(12));
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o600);
    header.set_mtime(77);
    header.set_uid(1 << 30);
    header.set_cksum();
    builder.append_data(&mut header, &long, &b"hello"[..]).unwrap();
    let archive = builder.into_inner().unwrap();
    let mut reader = Reader::new(&archive[..]);
    let member = reader.next_member().unwrap().unwrap();
    assert_eq!(member.path, long.as_bytes());
    assert_eq!((member.mode, member.mtime.seconds, member.uid), (0o600, 77, 1 << 30));
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    assert_eq!(reader.next_member().unwrap(), None);
}

#[test]
fn the_tar_crate_reads_what_is_written() {
    let long = "x".repeat(150);
    let archive = pack(&[file(&long, 700), file("short", 3)]);
    let mut archive = tar::Archive::new(&archive[..]);
    let mut seen = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        seen.push((entry.path().unwrap().to_str().unwrap().to_owned(), bytes.len()));
    }
    assert_eq!(seen, [(long, 700), ("short".to_owned(), 3)]);
}

#[test]
fn contents_that_fall_short_are_filled_and_longer_ones_refused() {
    let mut writer = Writer::new(Vec::new());
    writer.start_member(&file("a", 1000)).unwrap();
    writer.write_content(b"short").unwrap();
    writer.start_member(&file("b", 2)).unwrap();
    assert!(matches!(writer.write_content(b"long"), Err(WriteError::TooLong)));
    let archive = writer.finish().unwrap();
    let mut reader = Reader::new(&archive[..]);
    reader.next_member().unwrap().unwrap();
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), 1000);
    assert_eq!(reader.next_member().unwrap().unwrap().path, b"b");
}

#[test]
fn a_petabyte_of_holes_costs_a_few_blocks() {
    let mut member = file("holes", 0);
    member.kind = Kind::File(Content { size: 1 << 50, extents: vec![Extent { offset: 1 << 49, len: 5 }] });
    let archive = pack(std::slice::from_ref(&member));
    assert!(archive.len() <= 7 * BLOCK_BYTES, "{}", archive.len());
    assert_eq!(Reader::new(&archive[..]).next_member().unwrap(), Some(member));
}
