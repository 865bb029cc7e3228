//! What a company's network asks of guests: its certificate authorities and its proxy. Servers are on this host's
//! loopback, with certificates of an authority that the test makes; nothing is sent anywhere else.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use support::guest_available;
use support::host::Host;

/// Where the guest finds this host's loopback.
const GATEWAY: &str = "198.19.255.1";
/// What a server of HTTP answers; git takes it for a repository that is not there.
const ANSWER: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n";

/// An authority of its own, and a server of HTTPS with a certificate of it.
struct Company {
    port: u16,
    pem: String,
}

impl Company {
    fn start() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "pyro test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let own =
            CertificateParams::new(vec![GATEWAY.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![own.der().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = Arc::new(config);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let config = Arc::clone(&config);
                // A client that trusts nobody breaks off.
                std::thread::spawn(move || drop(answer(config, stream.unwrap())));
            }
        });
        Self { port, pem: authority.pem() }
    }

    fn rule(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.port)
    }

    fn url(&self) -> String {
        format!("https://{GATEWAY}:{}/", self.port)
    }
}

fn answer(config: Arc<rustls::ServerConfig>, stream: TcpStream) -> std::io::Result<()> {
    let session = rustls::ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut stream = BufReader::new(rustls::StreamOwned::new(session, stream));
    let mut line = String::new();
    while stream.read_line(&mut line)? > 2 {
        line.clear();
    }
    let stream = stream.get_mut();
    stream.write_all(ANSWER)?;
    stream.conn.send_close_notify();
    stream.flush()
}

/// Prints what the server says, or curl's exit code: 60 where it does not trust the server.
fn fetch(company: &Company) -> String {
    format!("curl -sS {} || echo $?", company.url())
}

#[test]
fn authorities_of_a_file_are_trusted_and_stay_with_the_workspace() {
    if !guest_available() {
        return;
    }
    let company = Company::start();
    let host = Host::new();
    host.create(&["--name", "w", "--network-policy", "egress", "--allow", &company.rule()]);
    let fetch = fetch(&company);
    assert_eq!(host.shell("w", &fetch), "60\n");
    assert_eq!(host.shell("w", "ls -d /run/pyro; echo ${SSL_CERT_FILE-none}").trim_end(), "none");
    host.write("ca.pem", &company.pem);
    let path = host.path("ca.pem");
    let updated = host.json(&["update", "w", "--ca-file", &path]);
    assert_eq!(updated["certificate_authorities"], json!([{ "source": path, "count": 1 }]));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(host.shell("w", &fetch), "hello\n");
    let git = host.shell("w", &format!("git ls-remote {} 2>&1 || true", company.url()));
    assert!(git.contains("not found"), "{git}");
    let callers = "CURL_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt";
    let own = host.workspace(&["exec", "w", "--env", callers, "--shell", &fetch]);
    assert_eq!(own.stdout, "60\n", "the caller's variable wins: {own:?}");
    // The image's own are still trusted, and nothing of the image or the tree has changed.
    let counts = host
        .shell("w", "grep -c BEGIN /etc/ssl/certs/ca-certificates.crt /run/pyro/ca-bundle.pem | cut -d: -f2");
    let counts: Vec<u32> = counts.lines().map(|line| line.parse().unwrap()).collect();
    assert!(counts[0] > 1 && counts[1] == counts[0] + 1, "{counts:?}");
    assert_eq!(host.json(&["diff", "w"])["changed"], json!(false));
    assert!(host.done(&["status", "w"]).contains(&format!("Certificate authorities: 1 from {path}\n")));

    for step in [&["stop", "w"][..], &["start", "w"], &["reset", "w"]] {
        host.done(step);
    }
    assert_eq!(host.shell("w", &fetch), "hello\n");
    host.done(&["fork", "w", "--name", "copy"]);
    assert_eq!(host.shell("copy", &fetch), "hello\n");
    host.done(&["delete", "copy"]);
    let text = format!("({fetch}) > fetched; touch ready; exec sleep 1000");
    host.done(&["service", "start", "w", "s", "--ready-file", "ready", "--shell", &text]);
    assert_eq!(host.shell("w", "cat fetched"), "hello\n", "a service");
    host.done(&["update", "w", "--clear-ca"]);
    assert_eq!(host.shell("w", &fetch), "60\n");
}

#[test]
fn a_run_trusts_the_authorities_of_this_host_or_of_a_file() {
    if !guest_available() {
        return;
    }
    let company = Company::start();
    let mut host = Host::new();
    host.write("ca.pem", &company.pem);
    let path = host.path("ca.pem");
    // Which file has this host's authorities can be said by this variable, as to other programs.
    host.pyro.variables.push(("SSL_CERT_FILE".to_owned(), path.clone()));
    let (fetch, rule) = (fetch(&company), company.rule());
    for (options, expected) in
        [(&[][..], "60\n"), (&["--host-ca"], "hello\n"), (&["--ca-file", &path], "hello\n")]
    {
        let start = ["run", "debian:12", "--mem-mib", "256", "--network", "--allow", &rule];
        let ran = host.pyro.run(&[&start, options, &["--shell", &fetch]].concat());
        assert_eq!(ran.stdout, expected, "{options:?}: {ran:?}");
    }
}

/// A proxy that knows one name, wants a password, and writes down what it was asked.
struct CompanyProxy {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
    greeted: Receiver<()>,
}

const PASSWORD: &str = "s3cretw0rd";
/// `jo:` and the password, as a proxy is told.
const CREDENTIALS: &str = "Basic am86czNjcmV0dzByZA==";

impl CompanyProxy {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (sender, greeted) = channel();
        let theirs = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // A client that has seen enough leaves.
                let _ = serve_proxy(&stream.unwrap(), &theirs);
                if sender.send(()).is_err() {
                    return;
                }
            }
        });
        Self { port, asked, greeted }
    }

    fn url(&self) -> String {
        format!("http://jo:{PASSWORD}@127.0.0.1:{}", self.port)
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

fn serve_proxy(stream: &TcpStream, asked: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let request = lines.next().unwrap_or(Ok(String::new()))?;
    let head: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    asked.lock().unwrap().push(request.clone());
    let is_known = head.contains(&format!("Proxy-Authorization: {CREDENTIALS}"));
    let answer: &[u8] = match (is_known, request.as_str()) {
        (false, _) => b"HTTP/1.1 407 Who are you\r\n\r\n",
        (true, "CONNECT far.example:7000 HTTP/1.1") => b"HTTP/1.1 200 OK\r\n\r\nhello\n",
        (true, _) => b"HTTP/1.1 403 Not there\r\nContent-Length: 0\r\n\r\n",
    };
    let mut stream = stream;
    stream.write_all(answer)
}

fn connect(host: &str, port: u16) -> String {
    format!(
        "perl -MIO::Socket::INET -e 'my $s = IO::Socket::INET->new(PeerAddr => \"{host}:{port}\") \
         or die \"$!\\n\"; print scalar <$s>'"
    )
}

/// Everything that is written where others could read it: command lines, and files of the state directory.
fn written(host: &Host) -> Vec<u8> {
    let mut all = Vec::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        all.extend(std::fs::read(process.path().join("cmdline")).unwrap_or_default());
    }
    let mut directories = vec![host.pyro.state.path().to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() && entry.metadata().unwrap().len() < 8 << 20 {
                std::fs::File::open(entry.path()).unwrap().read_to_end(&mut all).unwrap();
            }
        }
    }
    all
}

fn is_in(needle: &str, all: &[u8]) -> bool {
    all.windows(needle.len()).any(|window| window == needle.as_bytes())
}

#[test]
fn names_go_through_the_hosts_proxy_whose_password_nobody_sees() {
    if !guest_available() {
        return;
    }
    let proxy = CompanyProxy::start();
    let mut host = Host::new();
    host.pyro.variables = vec![
        ("HTTPS_PROXY".to_owned(), proxy.url()),
        ("NO_PROXY".to_owned(), ".past.example,127.0.0.0/8".to_owned()),
    ];
    host.create(&["--name", "w", "--network-policy", "egress", "--host-proxy"]);
    assert_eq!(host.json(&["status", "w"])["host_proxy"], json!(true));
    assert_eq!(host.shell("w", &connect("far.example", 7000)), "hello\n");
    proxy.greeted.recv().unwrap();
    assert_eq!(proxy.asked(), ["CONNECT far.example:7000 HTTP/1.1"]);

    let refused = host.workspace(&["exec", "w", "--json", "--shell", &connect("closed.example", 443)]);
    let record: Value = serde_json::from_str(&refused.stdout).unwrap();
    let denial = &record["network_denials"][0];
    assert_eq!(denial["destination"], "closed.example:443", "{record:#}");
    assert_eq!(denial["reason"], "by the host's proxy: it does not connect there (403)");
    proxy.greeted.recv().unwrap();
    assert_eq!(proxy.asked().len(), 1);

    // The policy decides first, and the loopback is not the proxy's.
    host.done(&["update", "w", "--deny", "far.example"]);
    let denied = host.workspace(&["exec", "w", "--shell", &connect("far.example", 7000)]);
    assert!(denied.stderr.contains("rule=far.example"), "{denied:?}");
    let loopback = host.workspace(&["exec", "w", "--shell", &connect(GATEWAY, proxy.port)]);
    assert!(loopback.stderr.contains("not public (loopback)"), "{loopback:?}");
    assert!(proxy.asked().is_empty());

    let check = host.json(&["network", "check", "w", "https://other.example/"]);
    assert_eq!(
        (&check["allowed"], &check["proxy"]),
        (&json!(true), &json!(format!("127.0.0.1:{}", proxy.port)))
    );
    let log = host.done(&["network", "log", "w"]);
    assert!(log.contains("tcp to far.example:7000 through the host's proxy: "), "{log}");
    let all = written(&host);
    assert!(is_in("supervise-machine", &all), "it was looked for in the right place");
    assert!(!is_in(PASSWORD, &all) && !is_in(&CREDENTIALS[6..], &all) && !log.contains(PASSWORD));

    host.done(&["stop", "w"]);
    host.pyro.variables.clear();
    for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"] {
        // An empty variable is none.
        host.pyro.variables.push((name.to_owned(), String::new()));
    }
    let lost = host.workspace(&["start", "w"]);
    assert!(lost.stderr.starts_with("[error] connections are to go through the host's proxy"), "{lost:?}");
    host.done(&["update", "w", "--no-host-proxy"]);
    host.done(&["start", "w"]);
    let nowhere = host.workspace(&["exec", "w", "--shell", &connect("far.example", 7000)]);
    assert_ne!(nowhere.code, Some(0));
    assert!(proxy.asked().is_empty());
}
