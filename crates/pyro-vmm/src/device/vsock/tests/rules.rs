//! Guests that break the rules, and limits.

use proptest::prelude::*;

use super::guest::CID;
use super::*;
use crate::vsock::HOST_CID;

fn last(guest: &Guest) -> (Operation, (u32, u32)) {
    let header = guest.log.last().expect("a packet for the guest");
    (header.operation.unwrap(), (header.dst_port, header.src_port))
}

fn is_at_end(mut stream: UnixStream) -> bool {
    stream.read(&mut [0; 1]).unwrap() == 0
}

#[test]
fn packets_of_unknown_connections_are_answered_with_a_reset() {
    let mut guest = Guest::new();
    for operation in [Operation::Response, Operation::Shutdown, Operation::Data, Operation::CreditUpdate] {
        guest.log.clear();
        guest.send_operation((77, 88), operation, 0);
        assert_eq!(last(&guest), (Operation::Reset, (77, 88)));
    }
    guest.log.clear();
    guest.send_operation((77, 88), Operation::Reset, 0);
    assert!(guest.log.is_empty(), "a reset is not answered");
}

#[test]
fn connections_to_closed_ports_are_refused() {
    let mut guest = Guest::new();
    guest.connect((1024, OPEN_PORT + 1));
    assert_eq!(last(&guest), (Operation::Reset, (1024, OPEN_PORT + 1)));
    assert_eq!(guest.device.muxer.connection_count(), 0);
}

#[test]
fn wrong_addresses_types_and_operations_do_no_harm() {
    let (mut guest, stream) = connected();
    guest.log.clear();
    let right = guest.header(PORTS, Operation::Data);
    guest.send(&Header { src_cid: CID + 1, ..right }, &[]);
    guest.send(&Header { dst_cid: HOST_CID + 1, ..right }, &[]);
    assert!(guest.log.is_empty(), "packets for nobody are dropped");
    guest.send(&Header { operation: None, ..right }, &[]);
    assert_eq!(last(&guest), (Operation::Reset, PORTS));
    assert!(is_at_end(stream));
}

#[test]
fn a_guest_beyond_its_credit_is_reset() {
    let (mut guest, _stream) = connected();
    let data = vec![0; 64 << 10];
    let header = Header { len: data.len() as u32, ..guest.header(PORTS, Operation::Data) };
    for packet in 0.. {
        assert!(packet < 64, "the host buffers without bound");
        guest.send(&header, &data);
        if guest.sockets[&PORTS].reset {
            break;
        }
    }
}

#[test]
fn broken_data_packets_reset_their_connection_alone() {
    let broken: [(u32, usize); 3] = [(100, 99), (65_537, 65_537), (u32::MAX, 0)];
    for (claimed, given) in broken {
        let (mut guest, stream) = connected();
        let other = (1025, OPEN_PORT);
        guest.connect(other);
        let header = Header { len: claimed, ..guest.header(PORTS, Operation::Data) };
        guest.send(&header, &vec![1; given]);
        assert!(guest.sockets[&PORTS].reset, "{claimed} claimed, {given} given");
        assert!(is_at_end(stream));
        assert!(!guest.sockets[&other].reset);
    }
}

#[test]
fn data_after_the_end_of_sending_resets() {
    let (mut guest, _stream) = connected();
    guest.send_operation(PORTS, Operation::Shutdown, 2);
    let header = Header { len: 1, ..guest.header(PORTS, Operation::Data) };
    guest.send(&header, &[1]);
    assert!(guest.sockets[&PORTS].reset);
}

#[test]
fn a_second_request_for_the_same_ports_resets() {
    let (mut guest, stream) = connected();
    guest.send_operation(PORTS, Operation::Request, 0);
    assert!(guest.sockets[&PORTS].reset);
    assert!(is_at_end(stream));
}

#[test]
fn a_connection_that_the_guest_refuses_ends_at_once() {
    let mut guest = Guest::new();
    guest.listens = false;
    let stream = guest.host.connect(9999);
    guest.wait();
    assert!(is_at_end(stream));
    assert_eq!(guest.device.muxer.connection_count(), 0);
}

#[test]
fn more_connections_than_allowed_are_refused_until_one_ends() {
    let mut guest = Guest::new();
    for port in 0..MAX_CONNECTIONS as u32 {
        guest.connect((port, OPEN_PORT));
        assert!(guest.sockets[&(port, OPEN_PORT)].established, "connection {port}");
    }
    guest.connect((5000, OPEN_PORT));
    assert!(guest.sockets[&(5000, OPEN_PORT)].reset);
    let stream = guest.host.connect(5005);
    guest.run();
    assert!(is_at_end(stream), "the host's 1024th is refused too");

    guest.send_operation((7, OPEN_PORT), Operation::Reset, 0);
    guest.connect((5001, OPEN_PORT));
    assert!(guest.sockets[&(5001, OPEN_PORT)].established);
    assert!(guest.sockets[&(5001, OPEN_PORT)].reset.eq(&false));
}

#[test]
fn a_connection_left_by_the_host_gives_way_when_places_run_out() {
    let mut guest = Guest::new();
    for port in 0..MAX_CONNECTIONS as u32 {
        guest.connect((port, OPEN_PORT));
    }
    let first = guest.host.got.lock().unwrap().remove(0);
    drop(first);
    guest.wait();
    assert_eq!(guest.sockets[&(0, OPEN_PORT)].ended, 3);
    guest.connect((5000, OPEN_PORT));
    assert!(guest.sockets[&(5000, OPEN_PORT)].established);
    assert!(guest.sockets[&(0, OPEN_PORT)].reset);
}

#[test]
fn refusals_that_nobody_takes_hold_the_guest_up_not_the_host() {
    use crate::device::testing::{Driver, Piece, memory};
    use vm_memory::{Bytes, GuestAddress};
    let guest = Guest::new();
    let mut device = Vsock::new(CID, guest.host.clone()).unwrap();
    let mem = memory(1 << 20);
    let (_, no_buffers) = Driver::new(0, QUEUE_SIZE);
    let (mut tx, tx_queue) = Driver::new(Driver::BYTES, QUEUE_SIZE);
    let mut queues = [no_buffers, tx_queue];
    mem.write_slice(&guest.header((1, 2), Operation::Data).emit(), GuestAddress(0x5_0000)).unwrap();
    let mut taken = 0;
    for _ in 0..4 {
        while tx.has_room_for(1) {
            tx.add(&mem, &[Piece::Read(0x5_0000, HEADER_BYTES as u32)]);
        }
        let _ = device.process(TRANSMIT, &mut queues, &mem).unwrap();
        taken += std::iter::from_fn(|| tx.take_used(&mem)).count();
    }
    assert_eq!(taken, crate::vsock::limits::MAX_RESETS);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn hostile_packets_neither_panic_nor_buffer_without_bound(
        packets in prop::collection::vec(
            (0u32..3, 0u32..3, 0u16..10, 0u32..5, prop_oneof![0u32..70_000, any::<u32>()], any::<u32>(), any::<u32>()),
            1..60,
        ),
    ) {
        let (mut guest, stream) = connected();
        let host_streams = [guest.host.connect(5005), stream];
        guest.run();
        let sockets: Vec<_> = guest.sockets.keys().copied().collect();
        for (src, dst, operation, flags, len, buf_alloc, fwd_cnt) in packets {
            let ports = sockets.get(src as usize).copied().unwrap_or((src, OPEN_PORT + dst));
            let mut bytes = Header {
                len, flags, buf_alloc, fwd_cnt, ..guest.header(ports, Operation::Data)
            }.emit();
            bytes[30..32].copy_from_slice(&operation.to_le_bytes());
            let header = Header::parse(&bytes);
            guest.send(&header, &vec![5; (len as usize).min(66_000)]);
        }
        prop_assert!(guest.device.muxer.connection_count() <= 20);
        drop(host_streams);
    }
}

/// What lies in a test's own hands: a host that is silent never makes the device ready.
#[test]
fn an_idle_device_is_not_ready() {
    let (mut guest, _stream) = connected();
    guest.run();
    assert!(!guest.is_host_ready(std::time::Duration::ZERO));
    let _: &TestHost = &guest.host;
}
