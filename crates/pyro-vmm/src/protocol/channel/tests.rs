use std::io::{Read, Write};
use std::os::fd::AsFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::*;

fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

#[test]
fn parse_is_the_inverse_of_emit() {
    for message in [Message::Connect(5005), Message::Accepted(u32::MAX)] {
        assert_eq!(Message::parse(&message.emit()), Ok(message));
    }
    for bad in [&[][..], &[1, 0, 0, 0], &[3, 0, 0, 0, 1, 2, 3, 4], &[1, 0, 1, 0, 1, 2, 3, 4], &[1; 9]] {
        assert_eq!(Message::parse(bad), Err(MessageError(bad.to_vec())));
    }
}

#[test]
fn a_stream_travels_with_its_port() {
    let (near, far) = pair();
    let (mut mine, theirs) = UnixStream::pair().unwrap();
    send(near.as_fd(), Message::Connect(5005), theirs.as_fd()).unwrap();
    drop(theirs);
    let Received::Message(message, mut stream) = receive(far.as_fd()).unwrap() else { panic!("no message") };
    assert_eq!(message, Message::Connect(5005));
    mine.write_all(b"hello").unwrap();
    let mut bytes = [0; 5];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
}

#[test]
fn an_empty_channel_and_a_closed_one_are_told_apart() {
    let (near, far) = pair();
    assert!(matches!(receive(far.as_fd()).unwrap(), Received::Nothing));
    drop(near);
    assert!(matches!(receive(far.as_fd()).unwrap(), Received::Closed));
}

#[test]
fn a_message_without_a_stream_is_refused() {
    let (near, far) = pair();
    rustix::net::send(&near, &Message::Connect(1).emit(), SendFlags::empty()).unwrap();
    assert!(receive(far.as_fd()).is_err());
}
