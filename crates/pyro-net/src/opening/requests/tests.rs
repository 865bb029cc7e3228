use super::*;
use proptest::prelude::*;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a.b\r\n\r\n";
const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: a.b\r\nContent-Length: 5\r\n\r\nGET /";
const CHUNKED: &[u8] = b"PUT / HTTP/1.1\r\nHost: a.b\r\nTransfer-Encoding: chunked\r\n\r\n\
                         5\r\nGET /\r\nA;x=y\r\n0123456789\r\n0\r\nT: v\r\n\r\n";
const OTHER: &[u8] = b"GET / HTTP/1.1\r\nHost: c.d\r\n\r\n";
const SOCKET: &[u8] = b"GET / HTTP/1.1\r\nHost: a.b\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

fn requests() -> Requests {
    Requests::new("a.b".parse().unwrap())
}

/// Lets what may pass of `bytes`, which come in pieces, and says how many did, or that they are unclear.
fn pass(requests: &mut Requests, bytes: &[u8], piece: usize) -> (usize, bool) {
    let mut at = 0;
    let mut end = 0;
    loop {
        match requests.room(&bytes[at..end]) {
            Err(Unclear) => return (at, false),
            Ok(room) if room.min(end - at) > 0 => {
                requests.passed(room.min(end - at));
                at += room.min(end - at);
            }
            Ok(_) if end == bytes.len() => return (at, true),
            Ok(_) => end = (end + piece).min(bytes.len()),
        }
    }
}

#[test]
fn requests_for_the_name_pass_whole_however_they_are_cut() {
    let all = [GET, POST, CHUNKED, GET, CHUNKED, POST].concat();
    for piece in [1, 2, 3, 7, 50, 5000] {
        assert_eq!(pass(&mut requests(), &all, piece), (all.len(), true), "{piece}");
    }
}

#[test]
fn a_later_request_for_another_name_does_not_pass() {
    for before in [GET, POST, CHUNKED] {
        let all = [before, GET, OTHER].concat();
        for piece in [1, 20, 5000] {
            let (passed, is_clear) = pass(&mut requests(), &all, piece);
            assert_eq!((passed, is_clear), (before.len() + GET.len(), false), "{piece}");
        }
    }
    // What looks like one within a body is a body.
    let length = OTHER.len();
    let head = format!("POST / HTTP/1.1\r\nHost: a.b\r\nContent-Length: {length}\r\n\r\n");
    let all = [head.as_bytes(), OTHER, GET].concat();
    assert_eq!(pass(&mut requests(), &all, 9), (all.len(), true));
}

#[test]
fn bodies_whose_end_two_readers_could_see_differently_do_not_pass() {
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: ",
        "Content-Length: 99999999999999999999",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nUpgrade: websocket",
        "Transfer-Encoding : chunked",
        "Upgrade: websocket\r\nUpgrade: h2c",
    ] {
        let request = format!("POST / HTTP/1.1\r\nHost: a.b\r\n{fields}\r\n\r\n");
        assert_eq!(read_head(request.as_bytes()), Err(Unclear), "{fields}");
    }
    assert_eq!(read_head(b"PUT / HTTP/1.0\r\nHost: a.b\r\nTransfer-Encoding: chunked\r\n\r\n"), Err(Unclear));
    let head = &CHUNKED[..CHUNKED.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4];
    for chunks in [
        &b"x\r\n"[..],
        b"\r\n",
        b"-1\r\n",
        b"5 \r\n",
        b"1\n\r\n",
        b"1;\x00\r\n",
        b"1\r\naX\r\n",
        b"1111111111111111\r\n",
        b"0\r\nnofield\r\n",
    ] {
        let (_, is_clear) = pass(&mut requests(), &[head, chunks, GET].concat(), 1000);
        assert!(!is_clear, "{}", chunks.escape_ascii());
    }
}

#[test]
fn another_protocol_begins_where_the_server_says_so_and_nowhere_else() {
    let frame = [0x81, 5, b'h', b'e', b'l', b'l', b'o'];
    let mut agreed = requests();
    assert_eq!(pass(&mut agreed, &[SOCKET, &frame].concat(), 1000), (SOCKET.len(), true), "it waits");
    agreed.answered(b"HTTP/1.1 10");
    assert_eq!(agreed.room(&frame), Ok(0));
    agreed.answered(b"1 Switching");
    assert_eq!(pass(&mut agreed, &frame, 3), (frame.len(), true));
    for answer in [&b"HTTP/1.1 200 OK"[..], b"HTTP/1.1 100 Continue"] {
        let mut refused = requests();
        pass(&mut refused, SOCKET, 1000);
        refused.answered(answer);
        assert_eq!(pass(&mut refused, &[GET, OTHER].concat(), 1000), (GET.len(), false));
    }
    // The answer to a later request cannot be told from those of the ones before.
    let mut later = requests();
    let all = [GET, SOCKET].concat();
    assert_eq!(pass(&mut later, &all, 1000), (all.len(), true));
    later.answered(b"HTTP/1.1 101 Switching");
    assert_eq!(pass(&mut later, &frame, 1000), (0, false));
}

#[test]
fn a_head_without_end_is_given_up() {
    let mut long = b"GET / HTTP/1.1\r\nHost: a.b\r\nX: ".to_vec();
    long.resize(limits::MAX_OPENING_BYTES, b'x');
    assert_eq!(pass(&mut requests(), &long[..long.len() - 1], 1000), (0, true));
    assert_eq!(pass(&mut requests(), &long, 1000), (0, false));
}

proptest! {
    #[test]
    fn how_bytes_are_cut_changes_nothing(
        tail in proptest::collection::vec(any::<u8>(), 0..60),
        at in 0usize..200,
        piece in 1usize..40,
    ) {
        let mut all = [GET, CHUNKED, POST].concat();
        let at = at % all.len();
        all.truncate(at);
        all.extend(tail);
        let whole = pass(&mut requests(), &all, all.len());
        prop_assert_eq!(pass(&mut requests(), &all, piece), whole);
    }
}
