use std::cell::RefCell;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::limits::{CONNECT_TIMEOUT, CREDIT_REQUEST_INTERVAL};
use super::*;
use crate::device::iov::{Source, Target};

/// Wants one connection, when asked first.
struct OneConnect(RefCell<Option<OwnedFd>>, UnixStream);

impl HostSide for OneConnect {
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        use std::os::fd::AsFd;
        Some(self.1.as_fd())
    }
    fn next_connect(&mut self) -> io::Result<Option<(u32, OwnedFd)>> {
        Ok(self.0.take().map(|stream| (5005, stream)))
    }
    fn is_open(&self, _: u32) -> bool {
        false
    }
    fn accepted(&mut self, _: u32, _: OwnedFd) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The host wants a connection and the guest has not heard of it.
fn wanted(now: Instant) -> (Muxer<OneConnect>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (bell, rung) = UnixStream::pair().unwrap();
    drop(rung);
    let mut muxer = Muxer::new(3, OneConnect(RefCell::new(Some(theirs.into())), bell)).unwrap();
    muxer.poll(now).unwrap();
    assert_eq!(muxer.connection_count(), 1);
    (muxer, ours)
}

fn connecting(now: Instant) -> (Muxer<OneConnect>, UnixStream, Header) {
    let (mut muxer, ours) = wanted(now);
    let request = next(&mut muxer, now).unwrap();
    assert_eq!(request.operation, Some(Operation::Request));
    (muxer, ours, request)
}

fn next(muxer: &mut Muxer<OneConnect>, now: Instant) -> Option<Header> {
    let mut room = [0; 256];
    let len = muxer.next_packet(&mut Target::from_slice(&mut room), now).unwrap()?;
    assert!(len >= HEADER_BYTES);
    Some(Header::parse(room.first_chunk().unwrap()))
}

fn answer(to: &Header, operation: Operation, fwd_cnt: u32) -> Header {
    let (src_port, dst_port) = (to.dst_port, to.src_port);
    let operation = Some(operation);
    Header {
        src_cid: 3,
        dst_cid: 2,
        src_port,
        dst_port,
        len: 0,
        operation,
        flags: 0,
        buf_alloc: 64000,
        fwd_cnt,
    }
}

#[test]
fn a_guest_that_never_answers_loses_the_connection() {
    let now = Instant::now();
    let (mut muxer, mut stream, _) = connecting(now);
    muxer.poll(now + CONNECT_TIMEOUT - Duration::from_millis(1)).unwrap();
    assert_eq!(muxer.connection_count(), 1);
    muxer.poll(now + CONNECT_TIMEOUT).unwrap();
    assert_eq!(muxer.connection_count(), 0);
    assert_eq!(next(&mut muxer, now).unwrap().operation, Some(Operation::Reset));
    assert_eq!(std::io::Read::read(&mut stream, &mut [0]).unwrap(), 0);
}

#[test]
fn a_guest_that_takes_nothing_is_owed_nothing_when_its_connections_are_over() {
    let now = Instant::now();
    let (mut muxer, mut stream) = wanted(now);
    muxer.poll(now + CONNECT_TIMEOUT).unwrap();
    assert_eq!(muxer.connection_count(), 0);
    assert_eq!(std::io::Read::read(&mut stream, &mut [0]).unwrap(), 0);
    assert_eq!(next(&mut muxer, now), None);
}

#[test]
fn a_guest_full_of_packets_is_asked_what_it_has_read() {
    use std::io::Write;
    let now = Instant::now();
    let (mut muxer, mut stream, request) = connecting(now);
    muxer.receive(&answer(&request, Operation::Response, 0), &Source::empty(), now).unwrap();
    let mut packets = 0;
    for _ in 0..200 {
        stream.write_all(&[1]).unwrap();
        muxer.poll(now).unwrap();
        packets += std::iter::from_fn(|| next(&mut muxer, now)).count();
    }
    assert_eq!(packets, 100, "64000 bytes of buffer hold a hundred packets");
    muxer.poll(now + CREDIT_REQUEST_INTERVAL).unwrap();
    assert_eq!(next(&mut muxer, now).unwrap().operation, Some(Operation::CreditRequest));
    assert_eq!(next(&mut muxer, now), None);
    muxer.receive(&answer(&request, Operation::CreditUpdate, 100), &Source::empty(), now).unwrap();
    assert_eq!(next(&mut muxer, now).unwrap().len, 100, "what waited comes at once");
}

proptest! {
    #[test]
    fn headers_survive_emit_and_parse(
        cids in any::<(u64, u64)>(), ports in any::<(u32, u32)>(), rest in any::<(u32, u32, u32, u32)>(),
        operation in 1u16..8,
    ) {
        let mut bytes = [0; HEADER_BYTES];
        bytes[28] = 1;
        bytes[30] = operation as u8;
        let header = Header {
            src_cid: cids.0, dst_cid: cids.1, src_port: ports.0, dst_port: ports.1,
            len: rest.0, flags: rest.1, buf_alloc: rest.2, fwd_cnt: rest.3, ..Header::parse(&bytes)
        };
        prop_assert!(header.operation.is_some());
        prop_assert_eq!(Header::parse(&header.emit()), header);
    }

    #[test]
    fn hostile_packets_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000), operations in any::<[u8; 8]>()) {
        let mut bytes = bytes;
        for (place, operation) in (0..bytes.len()).step_by(HEADER_BYTES).zip(operations.iter().cycle()) {
            if let Some(header) = bytes[place..].first_chunk_mut::<HEADER_BYTES>() {
                // A few ports, the host's own among them, right types, no payload.
                let ports = [operation & 3, 0, 0, 0, 2 | operation & 4, 0, 0, 0];
                header[16..24].copy_from_slice(&ports);
                header[24..32].copy_from_slice(&[0, 0, 0, 0, 1, 0, operation >> 4, 0]);
            }
        }
        crate::device::fuzz::fuzz_vsock_packets(&bytes);
    }
}
