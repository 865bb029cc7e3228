use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::device::testing::{Driver, Piece, memory};

#[test]
fn the_log_keeps_the_end_and_counts_the_rest() {
    let mut log = ConsoleLog::new(8);
    log.push(b"abc");
    assert_eq!((log.tail(2), log.tail(99), log.dropped()), (b"bc".to_vec(), b"abc".to_vec(), 0));
    log.push(b"defghi");
    assert_eq!((log.tail(99), log.dropped()), (b"bcdefghi".to_vec(), 1));
    log.push(b"0123456789");
    assert_eq!((log.tail(99), log.dropped()), (b"23456789".to_vec(), 11));
    log.push(b"");
    assert_eq!((log.tail(0), log.dropped()), (Vec::new(), 11));
}

#[test]
fn a_log_without_room_only_counts() {
    let mut log = ConsoleLog::new(0);
    log.push(b"abc");
    assert_eq!((log.tail(9), log.dropped()), (Vec::new(), 3));
}

#[test]
fn output_reaches_the_log_and_input_stays_empty() {
    let mem = memory(1 << 20);
    let (mut input, in_queue) = Driver::new(0, QUEUE_SIZE);
    let (mut output, out_queue) = Driver::new(Driver::BYTES, QUEUE_SIZE);
    let mut queues = [in_queue, out_queue];
    let log = SharedLog::new(100);
    let mut device = Console::new(log.clone());
    mem.write_slice(b"hello world", GuestAddress(0x4_0000)).unwrap();
    input.add(&mem, &[Piece::Write(0x5_0000, 64)]);
    output.add(&mem, &[Piece::Read(0x4_0000, 6), Piece::Read(0x4_0006, 5)]);
    assert_eq!(device.process(0, &mut queues, &mem).unwrap(), Outcome::NONE);
    assert_eq!(device.process(1, &mut queues, &mem).unwrap().interrupt, 2);
    assert_eq!(log.lock().tail(100), b"hello world");
    assert!(input.take_used(&mem).is_none());
    output.add(&mem, &[Piece::Read(0x2_0000, 70_000)]);
    let _ = device.process(1, &mut queues, &mem).unwrap();
    assert_eq!(log.lock().dropped(), 70_000 + 11 - 100);
}
