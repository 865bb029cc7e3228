use super::*;

#[test]
fn a_part_spans_pieces_and_ends_where_asked() {
    let (a, b, c) = ([1u8, 2, 3], [4u8, 5], [6u8, 7, 8, 9]);
    let mut source = Source::from_slice(&a);
    source.push_slice(&b);
    source.push_slice(&[]);
    source.push_slice(&c);
    for skip in 0..=10 {
        for len in 0..=10 {
            let mut buf = [0u8; 16];
            let part = source.part(skip, len);
            let copied = part.copy_to(&mut buf);
            let expected: Vec<u8> = (1..=9).skip(skip).take(len).collect();
            assert_eq!((part.len(), &buf[..copied]), (expected.len(), &expected[..]));
        }
    }
}

#[test]
fn a_target_takes_no_more_than_it_has_room_for() {
    let mut room = [0u8; 5];
    assert_eq!(Target::from_slice(&mut room).copy_from(b"abcdefg"), 5);
    assert_eq!(&room, b"abcde");
    Target::from_slice(&mut room).part(1, 3).fill_zero();
    assert_eq!(&room, b"a\0\0\0e");
}

#[test]
fn files_and_sockets_move_whole_lists() {
    let file = tempfile::tempfile().unwrap();
    let (head, tail) = (b"hello ".to_vec(), b"world".to_vec());
    let mut source = Source::from_slice(&head);
    source.push_slice(&tail);
    assert_eq!(file.write_source_at(&source, 100).unwrap(), 11);
    let mut back = [0u8; 20];
    assert_eq!(file.read_target_at(&mut Target::from_slice(&mut back), 100).unwrap(), 11);
    assert_eq!(&back[..11], b"hello world");

    use std::os::fd::AsFd;
    let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
    assert_eq!(a.as_fd().send(&source).unwrap(), 11);
    let mut got = [0u8; 11];
    assert_eq!(b.as_fd().receive(&mut Target::from_slice(&mut got)).unwrap(), 11);
    assert_eq!(&got, b"hello world");
    drop(a);
    assert_eq!(b.as_fd().receive(&mut Target::from_slice(&mut got)).unwrap(), 0);
    assert_eq!(b.as_fd().send(&source).unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
}
