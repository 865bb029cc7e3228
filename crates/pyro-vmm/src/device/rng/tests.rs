use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::device::testing::{Driver, Piece, memory};

#[test]
fn requests_are_filled_up_to_the_bound() {
    let mem = memory(1 << 20);
    let (mut driver, queue) = Driver::new(0, QUEUE_SIZE);
    let mut queues = [queue];
    for (asked, given) in [(1, 1), (64, 64), (4096, 4096), (100_000, 4096)] {
        driver.add(&mem, &[Piece::Write(0x4_0000, asked)]);
        assert_eq!(Rng.process(0, &mut queues, &mem).unwrap().interrupt, 1);
        assert_eq!(driver.take_used(&mem).unwrap().1, given);
    }
    let mut bytes = [0u8; 8192];
    mem.read_slice(&mut bytes, GuestAddress(0x4_0000)).unwrap();
    assert!(bytes[..4096].chunks(64).all(|chunk| chunk.iter().any(|byte| *byte != 0)));
    assert_eq!(bytes[4096..], [0; 4096]);
}
