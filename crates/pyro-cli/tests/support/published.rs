//! Services in a guest whose ports are published, and what leads to them.

use super::Ran;
use super::host::Host;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

/// Enough for a loaded machine; nothing here takes long by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// What [`web`] serves.
pub(crate) const CONTENT: &str = "hello\n";

/// A server on the guest's loopback: `each` is perl that has the connection in `$c`.
pub(crate) fn server(each: &str) -> String {
    format!(
        "exec perl -MIO::Socket::INET -e 'my $s = IO::Socket::INET->new(LocalAddr => \"127.0.0.1\", \
         LocalPort => 8080, Listen => 1024, ReuseAddr => 1) or die \"cannot listen: $!\"; $SIG{{CHLD}} = \"IGNORE\"; \
         while (my $c = $s->accept) {{ {each}; close $c }}'"
    )
}

/// An HTTP server that reads each request to its end, answers and hangs up.
pub(crate) fn web() -> String {
    server(
        "while (my $l = <$c>) { last if $l eq \"\\r\\n\" } \
         print $c \"HTTP/1.0 200 OK\\r\\nContent-Length: 6\\r\\n\\r\\nhello\\n\"",
    )
}

/// A workspace `w` whose policy lets ports be published.
pub(crate) fn host() -> (Host, String) {
    let host = Host::new();
    let id = host.create(&["--name", "w", "--network-policy", "egress+published-ports"]);
    (host, id)
}

pub(crate) fn start(host: &Host, name: &str, options: &[&str], text: &str) -> Ran {
    host.workspace(&[&["service", "start", "w", name][..], options, &["--shell", text]].concat())
}

/// A host port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// What a web server that is published becomes ready by.
pub(crate) const READY: [&str; 4] = ["--ready-http", "http://127.0.0.1:8080/", "--ready-interval-ms", "50"];

/// Starts a web server that is published, sees that it is reached, and gives its port.
pub(crate) fn publish(host: &Host, name: &str, options: &[&str]) -> u16 {
    publish_text(host, name, options, &web())
}

/// The same of a server of one's own.
pub(crate) fn publish_text(host: &Host, name: &str, options: &[&str], text: &str) -> u16 {
    let ran = start(host, name, &[&["--publish", "8080"], &READY[..], options].concat(), text);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let port = port_of(host, name);
    assert_eq!(get(port), CONTENT);
    port
}

pub(crate) fn port_of(host: &Host, name: &str) -> u16 {
    let status = host.json(&["service", "status", "w", name]);
    u16::try_from(status["published_ports"][0]["host_port"].as_u64().unwrap()).unwrap()
}

pub(crate) fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(super::patience(PATIENCE))).unwrap();
    stream
}

/// What `curl` gets from there.
pub(crate) fn get(port: u16) -> String {
    let address = format!("http://127.0.0.1:{port}/");
    let words = ["--silent", "--show-error", "--noproxy", "*", "--max-time", "60", &address];
    let output = Command::new("curl").args(words).output().expect("curl runs; cargo xtask setup installs it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// All that comes from there, whatever it is.
pub(crate) fn read_all(port: u16, request: &[u8]) -> String {
    let mut stream = connect(port);
    // Before the server listens the connection is closed at once, and it may hang up with the request half read.
    let _ = stream.write_all(request);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    text
}

/// Fails unless the port refuses connections and can be had by somebody else.
#[track_caller]
pub(crate) fn assert_free(port: u16) {
    assert_eq!(TcpStream::connect(("127.0.0.1", port)).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    TcpListener::bind(("127.0.0.1", port)).unwrap();
}

/// The same of a port with a connection, which must be closed; waits for neither.
#[track_caller]
pub(crate) fn assert_released(port: u16, mut open: TcpStream) {
    assert_free(port);
    assert_eq!(open.read(&mut [0]).unwrap_or(0), 0, "a connection outlives its port");
}
