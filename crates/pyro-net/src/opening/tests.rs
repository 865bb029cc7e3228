use super::*;
use proptest::prelude::*;

/// A hello for `name` in records of at most `record` bytes.
pub(crate) fn hello(name: &str, record: usize) -> Vec<u8> {
    let sized = |bytes: &[u8], length_bytes: usize| {
        let mut sized = bytes.len().to_be_bytes()[8 - length_bytes..].to_vec();
        sized.extend(bytes);
        sized
    };
    let mut entry = vec![0];
    entry.extend(sized(name.as_bytes(), 2));
    let mut extensions = vec![0, 10];
    extensions.extend(sized(&sized(&[0, 29], 2), 2));
    extensions.extend([0, 0]);
    extensions.extend(sized(&sized(&entry, 2), 2));
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend(sized(&[9; 32], 1));
    body.extend(sized(&[0x13, 1], 2));
    body.extend(sized(&[0], 1));
    body.extend(sized(&extensions, 2));
    let mut handshake = vec![1];
    handshake.extend(sized(&body, 3));
    handshake
        .chunks(record)
        .flat_map(|piece| {
            let mut record = vec![22, 3, 1];
            record.extend(sized(piece, 2));
            record
        })
        .collect()
}

fn named(name: &str) -> Opening {
    Opening::For(name.parse().unwrap())
}

#[test]
fn a_hello_tells_its_server_however_it_is_cut() {
    for record in [1, 7, 60, 16384] {
        let bytes = hello("api.Example.com", record);
        for end in 0..bytes.len() {
            assert_eq!(inspect(Expected::Tls, &bytes[..end]), Opening::Unfinished, "{record} {end}");
        }
        assert_eq!(inspect(Expected::Tls, &bytes), named("api.example.com"));
    }
}

#[test]
fn what_is_no_hello_is_told_early() {
    for bytes in
        [&b"SSH-2.0"[..], b"GET / HTTP/1.1\r\n", &[22, 2], &[22, 3, 1, 0, 5, 2], &[22, 3, 1, 0, 0], &[23]]
    {
        assert_eq!(inspect(Expected::Tls, bytes), Opening::Other, "{bytes:?}");
    }
}

#[test]
fn a_hello_without_end_is_given_up() {
    let mut bytes = vec![22, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xff];
    bytes.resize(limits::MAX_OPENING_BYTES - 1, 0);
    assert_eq!(inspect(Expected::Tls, &bytes), Opening::Unfinished);
    bytes.push(0);
    assert_eq!(inspect(Expected::Tls, &bytes), Opening::Other);
}

#[test]
fn a_request_tells_its_host() {
    for request in [
        "GET / HTTP/1.1\r\nHost: a.b\r\n\r\n",
        "POST /x HTTP/1.1\r\nA: b\r\nhost:A.B:80\r\n\r\nbody",
        "GET http://a.b/x HTTP/1.1\r\nHost: a.b\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a.b\r\n\r\n",
    ] {
        assert_eq!(inspect(Expected::Http, request.as_bytes()), named("a.b"), "{request}");
    }
    assert_eq!(inspect(Expected::Http, b"GET / HTTP/1.1\r\nHost: a.b\r\n"), Opening::Unfinished);
    assert_eq!(inspect(Expected::Http, b"G"), Opening::Unfinished);
}

#[test]
fn requests_that_two_readers_could_understand_differently_are_refused() {
    for request in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.b\r\nHost: c.d\r\n\r\n",
        "GET http://c.d/ HTTP/1.1\r\nHost: a.b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a.b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.b\r\n Host: c.d\r\n\r\n",
        "GET / HTTP/1.1\r\nX: y\nHost: c.d\r\nHost: a.b\r\n\r\n",
        "GET / HTTP/1.1\r\nX: y\rHost: c.d\r\nHost: a.b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.b\r\nHost\x0b: c.d\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.b\r\n: c.d\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.b\r\nX: \x00\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\n",
        "CONNECT c.d:443 HTTP/1.1\r\nHost: a.b\r\n\r\n",
        "\x16\x03\x01",
        "1GET ",
    ] {
        assert_eq!(inspect(Expected::Http, request.as_bytes()), Opening::Other, "{request:?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..200, with: u8) {
        let _ = inspect(Expected::Tls, &bytes);
        let _ = inspect(Expected::Http, &bytes);
        let mut damaged = hello("example.com", 50);
        let at = cut % damaged.len();
        damaged[at] = with;
        let _ = inspect(Expected::Tls, &damaged);
    }
}
