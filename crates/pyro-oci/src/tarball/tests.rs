use proptest::prelude::*;

use super::*;

fn all(bytes: &[u8]) -> Result<Vec<Member>, TarError> {
    let mut reader = TarReader::new(bytes);
    let mut members = Vec::new();
    while let Some(member) = reader.next_member()? {
        members.push(member);
    }
    Ok(members)
}

/// Makes the first header that of another type.
fn set_flag(archive: &mut [u8], flag: u8) {
    archive[156] = flag;
    let sum: u32 = (0..512).map(|i| if (148..156).contains(&i) { 32 } else { u32::from(archive[i]) }).sum();
    archive[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

#[test]
fn a_written_file_reads_back() {
    let mut bytes = Vec::new();
    write_file(&mut bytes, "vmlinux", 5, &mut &b"hello"[..]).unwrap();
    write_end(&mut bytes, 0).unwrap();
    let members = all(&bytes).unwrap();
    assert_eq!(members.len(), 1);
    assert_eq!(members[0].path, b"vmlinux");
    let MemberKind::File(Content::Plain { at, len: 5 }) = members[0].kind else { panic!("{members:?}") };
    assert_eq!(&bytes[at as usize..at as usize + 5], b"hello");
}

#[test]
fn a_global_header_changes_nothing() {
    let mut bytes = Vec::new();
    write_file(&mut bytes, "a", 0, &mut &b""[..]).unwrap();
    let mut global = bytes.clone();
    set_flag(&mut global, b'g');
    global.extend_from_slice(&bytes);
    assert_eq!(all(&global).unwrap().len(), 1);
}

/// Each one alone is within bounds, and no member ever comes to be counted.
#[test]
fn extended_headers_in_a_row_share_one_bound() {
    let mut records = Vec::new();
    pax::emit_record(&mut records, "SCHILY.xattr.user.a", &"x".repeat(300_000));
    let mut extended = Vec::new();
    write_file(&mut extended, "x", records.len() as u64, &mut &records[..]).unwrap();
    set_flag(&mut extended, b'x');
    let mut member = Vec::new();
    write_file(&mut member, "a", 0, &mut &b""[..]).unwrap();
    assert_eq!(all(&[extended.repeat(3), member].concat()).unwrap()[0].xattrs.len(), 3);
    assert!(matches!(all(&extended.repeat(4)), Err(TarError::ExtendedTooLarge { .. })));
}

#[test]
fn an_archive_cut_within_a_member_is_truncated() {
    let mut bytes = Vec::new();
    write_file(&mut bytes, "a", 2000, &mut &[1; 2000][..]).unwrap();
    assert!(all(&bytes).is_ok(), "a missing end marker is no damage");
    for len in [1, 511, 513, 2000, 2559] {
        assert!(matches!(all(&bytes[..len]), Err(TarError::Truncated { .. })), "{len}");
    }
}

#[test]
fn times_round_down_before_the_epoch() {
    assert_eq!(pax::time(b"12.25"), Some((12, 250_000_000)));
    assert_eq!(pax::time(b"-1.5"), Some((-2, 500_000_000)));
    assert_eq!(pax::time(b"-3"), Some((-3, 0)));
    assert_eq!(pax::time(b"1e9"), None);
}

proptest! {
    #[test]
    fn sparse_headers_and_maps_are_inverses(
        gaps in proptest::collection::vec((0_u64..1 << 36, 1_u64..2000), 0..50),
        tail in 0_u64..10_000,
    ) {
        let mut map = Vec::new();
        let mut at = 0;
        for (gap, len) in gaps {
            let gap = gap % (1 << 33);
            map.push((at + gap, len));
            at += gap + len;
        }
        let size = at + tail;
        let mut bytes = Vec::new();
        let stored = write_sparse_header(&mut bytes, "rootfs.ext4", size, &map).unwrap();
        let data_at = bytes.len() as u64;
        bytes.resize(bytes.len() + map.iter().map(|(_, len)| *len as usize).sum::<usize>(), 9);
        write_end(&mut bytes, stored).unwrap();
        prop_assert_eq!(bytes.len() % 512, 0);
        let members = all(&bytes).unwrap();
        prop_assert_eq!(members.len(), 1);
        prop_assert_eq!(&members[0].path[..], b"rootfs.ext4");
        let MemberKind::File(Content::Sparse { size: read, segments }) = &members[0].kind else {
            panic!("{members:?}");
        };
        prop_assert_eq!(*read, size);
        let read: Vec<(u64, u64)> = segments.iter().map(|s| (s.offset, s.len)).collect();
        prop_assert_eq!(read, map);
        prop_assert!(segments.first().is_none_or(|s| s.at == data_at));
    }

    #[test]
    fn records_are_inverses(key in "[a-zA-Z.]{1,40}", value in "[^\u{0}]{0,300}") {
        let mut block = Vec::new();
        pax::emit_record(&mut block, &key, &value);
        prop_assert_eq!(pax::records(&block), Ok(vec![(key.as_bytes(), value.as_bytes())]));
    }

    #[test]
    fn arbitrary_records_never_panic(block in proptest::collection::vec(any::<u8>(), 0..300)) {
        drop(pax::records(&block));
    }
}
