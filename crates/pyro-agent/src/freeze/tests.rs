use std::io::Write as _;
use std::os::unix::net::UnixStream;

use pyro_agent::wire;

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

fn pair() -> (UnixStream, Connection) {
    let (host, agent) = UnixStream::pair().unwrap();
    (host, Connection::new(agent.into()))
}

#[test]
fn a_frame_of_the_host_ends_the_freeze() {
    let (mut host, mut connection) = pair();
    host.write_all(&wire::emit_frame(FrameKind::Data, &[])).unwrap();
    assert!(!hold(&mut connection, PATIENCE));
}

#[test]
fn even_a_part_of_a_frame_ends_the_freeze() {
    let (mut host, mut connection) = pair();
    host.write_all(&[FrameKind::Data as u8]).unwrap();
    assert!(!hold(&mut connection, PATIENCE));
}

#[test]
fn a_host_that_closes_ends_the_freeze() {
    let (host, mut connection) = pair();
    drop(host);
    assert!(!hold(&mut connection, PATIENCE));
}

#[test]
fn a_host_that_says_nothing_is_not_waited_for() {
    let (_host, mut connection) = pair();
    assert!(hold(&mut connection, Duration::from_millis(10)));
}
