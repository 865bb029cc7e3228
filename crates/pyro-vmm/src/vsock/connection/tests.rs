use proptest::prelude::*;

use super::*;

fn packet(operation: Operation) -> Header {
    Header {
        src_cid: 3,
        dst_cid: 2,
        src_port: 1,
        dst_port: 2,
        len: 0,
        operation: Some(operation),
        flags: 0,
        buf_alloc: 1000,
        fwd_cnt: 0,
    }
}

fn open() -> Connection {
    let mut connection = Connection::from_guest(&packet(Operation::Request));
    assert_eq!(connection.next_control(3).unwrap().operation, Some(Operation::Response));
    connection
}

#[test]
fn counters_may_wrap() {
    let mut connection = open();
    let start = Wrapping(u32::MAX - 100);
    (connection.sent, connection.guest_forwarded) = (start, start);
    (connection.received, connection.forwarded, connection.forwarded_told) = (start, start, start);
    connection.data(3, 600);
    assert_eq!(connection.credit(), 0, "one packet at a time with so small a buffer");
    let read = Header { fwd_cnt: (start + Wrapping(600)).0, ..packet(Operation::CreditUpdate) };
    assert_eq!(connection.receive(&read), Ok(Effect::None));
    assert_eq!(connection.credit(), 1000);
    for _ in 0..BUFFER_BYTES / 1024 {
        let data = Header { len: 1024, fwd_cnt: read.fwd_cnt, ..packet(Operation::Data) };
        assert_eq!(connection.receive(&data), Ok(Effect::Data));
    }
    let data = Header { len: 1, fwd_cnt: read.fwd_cnt, ..packet(Operation::Data) };
    assert_eq!(connection.receive(&data), Err(Violation));
}

#[test]
fn a_claim_to_have_read_more_than_was_sent_is_not_taken() {
    let mut connection = open();
    connection.data(3, 500);
    for claim in [501, 1000, u32::MAX] {
        let lie = Header { fwd_cnt: claim, ..packet(Operation::CreditUpdate) };
        connection.receive(&lie).unwrap();
        assert_eq!((connection.credit(), connection.unread.len()), (0, 1));
    }
}

#[test]
fn credit_is_told_before_the_guest_has_to_stop() {
    let mut connection = open();
    let data = Header { len: 64 << 10, ..packet(Operation::Data) };
    for _ in 0..2 {
        connection.receive(&data).unwrap();
        connection.forward(64 << 10);
        assert!(!connection.owes());
    }
    connection.receive(&data).unwrap();
    connection.forward(64 << 10);
    let told = connection.next_control(3).unwrap();
    assert_eq!((told.operation, told.fwd_cnt), (Some(Operation::CreditUpdate), 3 * (64 << 10)));
    assert!(!connection.owes());
}

#[test]
fn a_response_is_only_taken_while_connecting() {
    let mut connection = Connection::to_guest(1, 2);
    assert_eq!(connection.receive(&packet(Operation::Data)), Err(Violation));
    let mut connection = Connection::to_guest(1, 2);
    assert_eq!(connection.receive(&packet(Operation::Response)), Ok(Effect::None));
    assert_eq!(connection.phase(), Phase::Open);
    assert_eq!(connection.receive(&packet(Operation::Response)), Err(Violation));
}

#[test]
fn each_end_is_told_once() {
    let mut connection = open();
    connection.end_by_host(SHUTDOWN_SEND);
    assert_eq!(connection.next_control(3).unwrap().flags, SHUTDOWN_SEND);
    assert_eq!(connection.phase(), Phase::Open);
    connection.end_by_host(SHUTDOWN_BOTH);
    assert_eq!(connection.next_control(3).unwrap().flags, SHUTDOWN_RECEIVE);
    assert_eq!(connection.phase(), Phase::Closing);
    connection.end_by_host(SHUTDOWN_BOTH);
    assert_eq!(connection.next_control(3), None);
}

proptest! {
    #[test]
    fn any_order_of_packets_keeps_the_bounds(
        packets in prop::collection::vec((0usize..8, any::<u32>(), 0u32..200_000, any::<u32>(), 0usize..70_000), 0..50),
    ) {
        let mut connection = open();
        for (operation, flags, len, claim, sent) in packets {
            let operation = match operation {
                0 => None,
                1 => Some(Operation::Shutdown),
                2 | 3 => Some(Operation::Data),
                4 => Some(Operation::CreditRequest),
                5 => Some(Operation::Response),
                _ => Some(Operation::CreditUpdate),
            };
            let packet = Header { flags, len, operation, fwd_cnt: claim, buf_alloc: claim, ..packet(Operation::Data) };
            let _ = connection.receive(&packet);
            let held = (connection.received - connection.forwarded).0;
            prop_assert!(held <= BUFFER_BYTES);
            connection.forward(held as usize / 2);
            let credit = connection.credit();
            prop_assert!(credit <= MAX_PAYLOAD_BYTES);
            if credit > 0 {
                connection.data(3, credit.min(sent as u32).max(1));
            }
            prop_assert!(connection.unread.len() <= MAX_PACKETS_UNREAD);
            connection.next_control(3);
        }
    }
}
