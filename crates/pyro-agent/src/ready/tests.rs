use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::JoinHandle;

use pyro_agent::wire::GuestPath;

use super::*;

const SOON: Duration = Duration::from_millis(200);
/// So long that only an event can end it in time.
const NEVER: Duration = Duration::from_secs(3600);

/// A wait in a thread of its own, and the host's end of its connection.
fn waiting(probe: Probe, interval: Duration, timeout: Duration) -> (UnixStream, JoinHandle<Option<Readied>>) {
    let (host, agent) = UnixStream::pair().unwrap();
    let thread = std::thread::spawn(move || {
        wait(&mut Connection::new(agent.into()), &probe, interval, timeout).unwrap()
    });
    (host, thread)
}

fn file(path: &Path) -> Probe {
    Probe::File { path: GuestPath::from(path.to_str().unwrap()) }
}

#[test]
fn a_file_is_seen_when_it_comes_with_its_directories() {
    let home = tempfile::tempdir().unwrap();
    let path: PathBuf = home.path().join("a/b/ready");
    let (_host, thread) = waiting(file(&path), NEVER, NEVER);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(home.path().join("moved"), "").unwrap();
    std::fs::rename(home.path().join("moved"), &path).unwrap();
    let readied = thread.join().unwrap().unwrap();
    assert!(readied.ready && readied.problem.is_none(), "{readied:?}");
}

#[test]
fn what_does_not_come_in_time_is_told_with_the_last_problem() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("ready");
    let (_host, thread) = waiting(file(&path), SOON / 10, SOON);
    let readied = thread.join().unwrap().unwrap();
    assert!(!readied.ready && readied.attempts > 1, "{readied:?}");
    assert!(readied.problem.unwrap().contains("ready: No such file"));
}

#[test]
fn a_host_that_leaves_ends_the_wait() {
    let home = tempfile::tempdir().unwrap();
    let (host, thread) = waiting(file(&home.path().join("ready")), NEVER, NEVER);
    drop(host);
    assert_eq!(thread.join().unwrap(), None);
}

#[test]
fn a_path_that_is_not_absolute_is_refused() {
    let (_host, agent) = UnixStream::pair().unwrap();
    let probe = Probe::File { path: GuestPath::from("ready") };
    let refused = wait(&mut Connection::new(agent.into()), &probe, SOON, SOON).unwrap_err();
    assert_eq!(refused.code, FailureCode::BadRequest);
}

#[test]
fn a_port_is_ready_when_somebody_listens() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let probe = |host: &str| Probe::Tcp { host: host.to_owned(), port };
    for host in ["127.0.0.1", "localhost"] {
        let (_host, thread) = waiting(probe(host), NEVER, NEVER);
        assert!(thread.join().unwrap().unwrap().ready, "{host}");
    }
    drop(listener);
    let (_host, thread) = waiting(probe("127.0.0.1"), SOON / 10, SOON);
    let readied = thread.join().unwrap().unwrap();
    assert!(!readied.ready && readied.problem.as_ref().unwrap().contains("refused"), "{readied:?}");
    let (_host, thread) = waiting(probe("no-such.invalid"), SOON / 10, SOON);
    let problem = thread.join().unwrap().unwrap().problem.unwrap();
    assert_eq!(problem, "no-such.invalid: the guest knows no such host");
}

/// A server that gives each connection the next of these answers and closes it.
fn serve(answers: &'static [&'static str]) -> (u16, JoinHandle<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let mut heard = String::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut chunk = [0; 4096];
            let len = stream.read(&mut chunk).unwrap();
            heard = String::from_utf8_lossy(&chunk[..len]).into_owned();
            stream.write_all(answer.as_bytes()).unwrap();
        }
        heard
    });
    (port, thread)
}

#[test]
fn a_server_is_ready_when_its_status_says_so_whatever_it_did_before() {
    let answers: &[&str] = &["", "garbage\n", "HTTP/1.0 503 wait\r\n\r\n", "HTTP/1.1 302 Found\r\n\r\n"];
    let (port, server) = serve(answers);
    let probe = Probe::Http { host: "127.0.0.1".to_owned(), port, target: "/health?x=1".to_owned() };
    let (_host, thread) = waiting(probe, SOON / 10, NEVER);
    let readied = thread.join().unwrap().unwrap();
    assert_eq!((readied.ready, readied.attempts), (true, 4));
    let heard = server.join().unwrap();
    assert!(heard.starts_with("GET /health?x=1 HTTP/1.1\r\n"), "{heard}");
    assert!(heard.contains(&format!("\r\nHost: 127.0.0.1:{port}\r\n")), "{heard}");
}

#[test]
fn a_server_that_does_not_answer_is_not_waited_for_beyond_the_time() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let probe = Probe::Http { host: "127.0.0.1".to_owned(), port, target: "/".to_owned() };
    let (_host, thread) = waiting(probe, SOON, SOON);
    let readied = thread.join().unwrap().unwrap();
    assert!(!readied.ready && readied.problem.as_ref().unwrap().starts_with("no HTTP answer"), "{readied:?}");
}

#[test]
fn only_a_whole_status_line_counts() {
    assert_eq!(http::status(b"HTTP/1.1 200 OK\r"), Some(200));
    assert_eq!(http::status(b"HTTP/1.0 404"), Some(404));
    for line in ["", "HTTP/2 200", "HTTP/1.1 2000 OK", "HTTP/1.1 20", "HTTP/1.1  200", "http/1.1 200 OK"] {
        assert_eq!(http::status(line.as_bytes()), None, "{line}");
    }
}

#[test]
fn names_are_found_in_the_guests_own_list() {
    let hosts = "127.0.1.1 box box.local # box2\n::1 box\nnonsense box\n10.0.0.1\tother";
    let found: Vec<String> = names::listed(hosts, "BOX").iter().map(ToString::to_string).collect();
    assert_eq!(found, ["127.0.1.1", "::1"]);
    assert!(names::listed(hosts, "box2").is_empty() && names::listed("", "box").is_empty());
}
