use super::*;
use proptest::prelude::*;

fn proxy(url: &str, exempt: &str) -> Proxy {
    Proxy::parse(url, exempt).unwrap()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

#[test]
fn a_proxy_is_read_from_its_url_and_shown_without_its_password() {
    for (url, shown) in [
        ("http://proxy.corp:3128", "proxy.corp:3128"),
        ("HTTP://proxy.corp:3128/", "proxy.corp:3128"),
        ("proxy:8080", "proxy:8080"),
        ("http://proxy.corp", "proxy.corp:80"),
        ("http://10.0.0.1:3128", "10.0.0.1:3128"),
        ("http://[fd00::1]:3128", "[fd00::1]:3128"),
        ("http://jo:s%65cret%40@proxy.corp:3128", "proxy.corp:3128"),
    ] {
        assert_eq!(proxy(url, "").to_string(), shown, "{url}");
    }
    let with_password = proxy("http://jo:s%65cret%40@proxy.corp:3128", "");
    let shown = format!("{with_password:?}");
    assert!(!shown.contains("ecret") && !shown.contains(&BASE64_STANDARD.encode("jo:secret@")), "{shown}");
    let request = String::from_utf8(with_password.request(&name("a.example"), 443)).unwrap();
    assert_eq!(
        request,
        format!(
            "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nProxy-Authorization: Basic {}\r\n\r\n",
            BASE64_STANDARD.encode("jo:secret@")
        )
    );
    assert!(!String::from_utf8(proxy("p:1", "").request(&name("a.example"), 22)).unwrap().contains("Basic"));
}

#[test]
fn what_is_no_proxy_is_refused_without_showing_it() {
    for (url, error) in [
        ("https://u:secret@proxy:1", ProxyError::Scheme),
        ("socks5://u:secret@proxy:1", ProxyError::Scheme),
        ("http://u:secret@proxy:0", ProxyError::Port),
        ("http://u:secret@proxy:x", ProxyError::Port),
        ("http://u:secret%4@proxy:1", ProxyError::Form),
        ("http://u:secret@[fd00::1:1", ProxyError::Form),
        ("http://u:secret@[fd00::1]1", ProxyError::Form),
        (&format!("http://u:{}@proxy:1", "secret".repeat(1000)), ProxyError::Length),
    ] {
        let found = Proxy::parse(url, "").unwrap_err();
        assert_eq!(found, error);
        assert!(!format!("{found} {found:?}").contains("secret"));
    }
    // A password with a slash that is not written as %2F ends the authority: its rest must not be shown.
    assert!(matches!(Proxy::parse("http://", ""), Err(ProxyError::Host(_))));
    let long = format!("{}.b,", "a".repeat(60)).repeat(200);
    for many in ["a,".repeat(limits::MAX_PROXY_EXEMPT + 1), long] {
        assert_eq!(Proxy::parse("p:1", &many), Err(ProxyError::Exempt));
    }
    let most = Proxy::parse(&format!("p{}:1@p:1", "x".repeat(1500)), &"a,".repeat(limits::MAX_PROXY_EXEMPT))
        .unwrap();
    assert!(
        serde_json::to_string(&most).unwrap().len() < 32 << 10,
        "it goes into a message with everything else"
    );
}

#[test]
fn exempt_names_go_past_the_proxy() {
    let proxy = proxy("p:1", "corp, .intra.example *.star.example,one.example:8080,10.0.0.0/8,::1,,bad:port");
    for (host, port, is_carried) in [
        ("public.example", 443, true),
        ("corp", 443, false),
        ("db.corp", 5432, false),
        ("notcorp", 443, true),
        ("intra.example", 443, false),
        ("a.intra.example", 443, false),
        ("x.star.example", 443, false),
        ("one.example", 8080, false),
        ("one.example", 443, true),
        ("localhost", 443, false),
        ("app.localhost", 443, false),
    ] {
        assert_eq!(proxy.carries(&name(host), port), is_carried, "{host}:{port}");
    }
    assert!(proxy.knows(&name("one.example")) && !proxy.knows(&name("db.corp")));
    assert!(!super::Proxy::parse("p:1", "*").unwrap().knows(&name("public.example")));
}

#[test]
fn answers_are_read_in_any_pieces() {
    let head = b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n";
    let stream = [&head[..], b"SSH-2.0"].concat();
    for cut in 0..head.len() {
        assert_eq!(inspect(&stream[..cut]), ProxyAnswer::Unfinished, "{cut}");
    }
    assert_eq!(inspect(&stream), ProxyAnswer::Opened(head.len()));
    assert_eq!(inspect(b"HTTP/1.0 407 Authenticate\r\nPro"), ProxyAnswer::Refused(407));
    assert_eq!(inspect(b"HTTP/1.1 503\r\n"), ProxyAnswer::Refused(503));
    for other in [
        "SSH-2.0",
        "HTTP/2 200\r\n",
        "HTTP/1.1 20\r\n",
        "HTTP/1.1 2000\r\n",
        "HTTP/1.1 100 \r\n",
        "HTTP/1.1\n",
    ] {
        assert_eq!(inspect(other.as_bytes()), ProxyAnswer::Other, "{other}");
    }
    let mut endless = b"HTTP/1.1 200 OK\r\n".to_vec();
    endless.resize(limits::MAX_PROXY_HEAD_BYTES, b'x');
    assert_eq!(inspect(&endless), ProxyAnswer::Other);
}

proptest! {
    #[test]
    fn nothing_that_is_said_panics(bytes: Vec<u8>, text: String) {
        let _ = inspect(&bytes);
        let _ = inspect(&[b"HTTP/1.1 ", &bytes[..]].concat());
        let _ = Proxy::parse(&text, &text);
        let _ = Proxy::parse(&format!("http://{text}@{text}"), "");
    }
}
