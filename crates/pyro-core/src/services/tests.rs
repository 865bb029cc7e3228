use super::readiness::Check;
use super::*;
use pyro_agent::wire::Probe;

fn http(url: &str) -> Result<Check, ServiceSyntaxError> {
    Readiness::Http { url: url.to_owned() }.parse()
}

fn tcp(address: &str) -> Result<Check, ServiceSyntaxError> {
    Readiness::Tcp { address: address.to_owned() }.parse()
}

#[test]
fn urls_are_taken_apart() {
    for (url, host, port, target) in [
        ("http://127.0.0.1:8080/", "127.0.0.1", 8080, "/"),
        ("HTTP://localhost", "localhost", 80, "/"),
        ("http://[::1]:9/x?y=1#z", "::1", 9, "/x?y=1"),
        ("http://[::1]", "::1", 80, "/"),
        ("http://box.local?ready", "box.local", 80, "/?ready"),
    ] {
        let probe = Probe::Http { host: host.to_owned(), port, target: target.to_owned() };
        assert_eq!(http(url).unwrap(), Check::Probe(probe), "{url}");
    }
}

#[test]
fn what_is_no_url_is_refused() {
    for url in [
        "127.0.0.1:8080",
        "ftp://x/",
        "http://",
        "http:///x",
        "http://a b/",
        "http://x:0/",
        "http://x:65536/",
        "http://x:/",
        "http://u@x/",
        "http://x/\r\nHost: y",
        "http://[::1/",
        "http://x:+1/",
    ] {
        assert!(matches!(http(url), Err(ServiceSyntaxError::Url(_))), "{url:?}");
    }
    assert!(matches!(http("https://x/"), Err(ServiceSyntaxError::Https(_))));
    assert!(matches!(http(" "), Err(ServiceSyntaxError::Empty("url"))));
    assert!(matches!(http(&"x".repeat(70_000)), Err(ServiceSyntaxError::TooLong { .. })));
}

#[test]
fn addresses_are_a_host_and_a_port() {
    let probe = Probe::Tcp { host: "::1".to_owned(), port: 80 };
    assert_eq!(tcp("[0:0::1]:80").unwrap(), Check::Probe(probe));
    let probe = Probe::Tcp { host: "localhost".to_owned(), port: 65535 };
    assert_eq!(tcp("localhost:65535").unwrap(), Check::Probe(probe));
    for address in ["8080", ":8080", "x:", "x:0", "x:70000", "::1:80", "a b:1", "x:-1", "x:+1", "[x]:1"] {
        assert!(matches!(tcp(address), Err(ServiceSyntaxError::Address(_))), "{address}");
    }
}

#[test]
fn restart_policies_are_read_as_they_are_shown() {
    for text in ["no", "on-failure", "on-failure:5"] {
        assert_eq!(text.parse::<RestartPolicy>().unwrap().to_string(), text);
    }
    for text in ["always", "on-failure:", "on-failure:x", "no:1", ""] {
        assert!(matches!(text.parse::<RestartPolicy>(), Err(ServiceSyntaxError::Restart(_))), "{text}");
    }
    let error = "on-failure:0".parse::<RestartPolicy>().unwrap_err().to_string();
    assert_eq!(error, "restart must be between 1 and 1000, not 0");
}

#[test]
fn a_service_is_started_again_as_often_as_it_may_and_ever_later() {
    let bounded = RestartPolicy::OnFailure { most: Some(2) };
    assert!(bounded.allows(2) && !bounded.allows(3) && !RestartPolicy::No.allows(1));
    assert!(RestartPolicy::OnFailure { most: None }.allows(u64::MAX));
    let seconds: Vec<f64> = [1, 2, 3, 7, 8, u64::MAX].map(|n| backoff(n).as_secs_f64()).to_vec();
    assert_eq!(seconds, [0.5, 1.0, 2.0, 30.0, 30.0, 30.0]);
}

#[test]
fn ports_are_one_or_two_numbers() {
    let port = |text: &str| text.parse::<PortRequest>();
    assert_eq!(port("8080").unwrap(), PortRequest { host_port: None, guest_port: 8080 });
    assert_eq!(port(" 18080:80 ").unwrap(), PortRequest { host_port: Some(18080), guest_port: 80 });
    for text in ["x", "1:2:3", ":80", "80:", "-80", "+80", "8080/tcp", "127.0.0.1:1:2"] {
        assert!(matches!(port(text), Err(ServiceSyntaxError::Port(_))), "{text}");
    }
    assert!(matches!(port(" "), Err(ServiceSyntaxError::EmptyPort)));
    for (text, told) in [
        ("0", "published guest_port must be between 1 and 65535, not 0"),
        ("65536", "published guest_port must be between 1 and 65535, not 65536"),
        ("1024:80", "published host_port must be between 1025 and 65535, not 1024"),
    ] {
        assert_eq!(port(text).unwrap_err().to_string(), told);
    }
}

#[test]
fn ports_that_cannot_be_published_together_are_refused() {
    let ports =
        |texts: &[&str]| -> Vec<PortRequest> { texts.iter().map(|text| text.parse().unwrap()).collect() };
    assert!(distinct_ports(&ports(&["80", "81", "2000:80"])).is_ok());
    for same in [&["80", "80"][..], &["2000:80", "2000:80"]] {
        assert!(matches!(distinct_ports(&ports(same)), Err(ServiceSyntaxError::PortTwice(_))));
    }
    let one_host = distinct_ports(&ports(&["2000:80", "2000:81"]));
    assert!(matches!(one_host, Err(ServiceSyntaxError::HostPortTwice(2000))));
    let many: Vec<String> = (1..=65).map(|port| port.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(matches!(distinct_ports(&ports(&many)), Err(ServiceSyntaxError::TooManyPorts(65))));
}

#[test]
fn bounds_of_ports_are_bounded_and_become_the_proxys() {
    let limits = |max_connections, idle_seconds| PortLimits { max_connections, idle_seconds };
    assert_eq!(PortLimits::default().of_proxy(), pyro_proxy::Limits::default());
    let told = |limits: PortLimits| limits.check().unwrap_err().to_string();
    assert_eq!(told(limits(0, 0)), "publish_max_connections must be between 1 and 4096, not 0");
    assert_eq!(told(limits(1, 604_801)), "publish_idle_seconds must be between 1 and 604800, not 604801");
    for fine in [PortLimits::default(), limits(1, 0), limits(4096, 604_800)] {
        assert_eq!(fine.check(), Ok(()));
    }
    let proxy = limits(7, 5).of_proxy();
    assert_eq!((proxy.connections, proxy.idle), (7, Some(Duration::from_secs(5))));
    assert_eq!(limits(7, 0).of_proxy().idle, None);
}

#[test]
fn a_description_is_stored_and_read_back() {
    let spec = ServiceSpec {
        exec: ExecRequest::shell("serve"),
        readiness: Some(Readiness::Tcp { address: "x:1".to_owned() }),
        ready_timeout: Duration::from_secs(30),
        ready_interval: Duration::from_millis(500),
        restart: RestartPolicy::OnFailure { most: Some(3) },
        ports: vec![PortRequest { host_port: None, guest_port: 80 }],
        port_limits: PortLimits { max_connections: 7, idle_seconds: 0 },
    };
    let text = serde_json::to_string(&spec).unwrap();
    assert!(text.contains(r#""readiness":{"type":"tcp","address":"x:1"},"#), "{text}");
    assert!(text.contains(r#""restart":"on-failure:3""#), "{text}");
    assert_eq!(serde_json::from_str::<ServiceSpec>(&text).unwrap(), spec);
    let earlier = text.replace(r#","port_limits":{"max_connections":7,"idle_seconds":0}"#, "");
    assert_ne!(earlier, text);
    let earlier: ServiceSpec = serde_json::from_str(&earlier).unwrap();
    assert_eq!(earlier, ServiceSpec { port_limits: PortLimits::default(), ..spec });
}
