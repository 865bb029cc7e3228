//! The driver's side of a queue, for tests: chains are added as a guest adds them, and completions read
//! back from the used ring.

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

pub(crate) type Memory = GuestMemoryMmap<()>;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// Guest memory of `len` bytes from address 0.
pub(crate) fn memory(len: usize) -> Memory {
    Memory::from_ranges(&[(GuestAddress(0), len)]).unwrap()
}

/// One queue as its driver sees it. It takes 64 KiB of memory from `base`.
pub(crate) struct Driver {
    base: u64,
    size: u16,
    free: Vec<u16>,
    next_avail: u16,
    next_used: u16,
    chains: std::collections::HashMap<u16, Vec<u16>>,
}

/// A piece of a chain: address, length, and who writes it.
#[derive(Clone, Copy)]
pub(crate) enum Piece {
    Read(u64, u32),
    Write(u64, u32),
}

impl Driver {
    /// Bytes of memory that a queue takes.
    pub(crate) const BYTES: u64 = 64 << 10;

    pub(crate) fn new(base: u64, size: u16) -> (Self, Queue) {
        let mut queue = Queue::new(size).unwrap();
        let driver = Driver {
            base,
            size,
            free: (0..size).rev().collect(),
            next_avail: 0,
            next_used: 0,
            chains: Default::default(),
        };
        queue.set_size(size);
        queue.set_event_idx(true);
        queue.set_desc_table_address(Some(base as u32), Some(0));
        queue.set_avail_ring_address(Some(driver.avail() as u32), Some(0));
        queue.set_used_ring_address(Some(driver.used() as u32), Some(0));
        queue.set_ready(true);
        (driver, queue)
    }

    pub(crate) fn avail(&self) -> u64 {
        self.base + 0x8000
    }

    pub(crate) fn used(&self) -> u64 {
        self.base + 0xa000
    }

    pub(crate) fn has_room_for(&self, pieces: usize) -> bool {
        self.free.len() >= pieces
    }

    /// Adds a chain and returns its head.
    pub(crate) fn add(&mut self, mem: &Memory, pieces: &[Piece]) -> u16 {
        let taken: Vec<u16> = pieces.iter().map(|_| self.free.pop().expect("the ring is full")).collect();
        for (n, (piece, at)) in pieces.iter().zip(&taken).enumerate() {
            let (addr, len, flags) = match *piece {
                Piece::Read(addr, len) => (addr, len, 0),
                Piece::Write(addr, len) => (addr, len, WRITE),
            };
            let next = taken.get(n + 1);
            let place = self.base + 16 * u64::from(*at);
            mem.write_obj(addr, GuestAddress(place)).unwrap();
            mem.write_obj(len, GuestAddress(place + 8)).unwrap();
            mem.write_obj(flags | next.map_or(0, |_| NEXT), GuestAddress(place + 12)).unwrap();
            mem.write_obj(next.copied().unwrap_or(0), GuestAddress(place + 14)).unwrap();
        }
        let slot = u64::from(self.next_avail % self.size);
        mem.write_obj(taken[0], GuestAddress(self.avail() + 4 + 2 * slot)).unwrap();
        self.next_avail = self.next_avail.wrapping_add(1);
        mem.write_obj(self.next_avail, GuestAddress(self.avail() + 2)).unwrap();
        let head = taken[0];
        self.chains.insert(head, taken);
        head
    }

    /// The next completion: the chain's head and the number of bytes written to it.
    pub(crate) fn take_used(&mut self, mem: &Memory) -> Option<(u16, u32)> {
        let index: u16 = mem.read_obj(GuestAddress(self.used() + 2)).unwrap();
        if index == self.next_used {
            return None;
        }
        let place = self.used() + 4 + 8 * u64::from(self.next_used % self.size);
        let head: u32 = mem.read_obj(GuestAddress(place)).unwrap();
        let len: u32 = mem.read_obj(GuestAddress(place + 4)).unwrap();
        self.next_used = self.next_used.wrapping_add(1);
        // Interrupt again for the next completion.
        let event = self.avail() + 4 + 2 * u64::from(self.size);
        mem.write_obj(self.next_used, GuestAddress(event)).unwrap();
        self.free.extend(self.chains.remove(&(head as u16)).expect("a chain was used twice"));
        Some((head as u16, len))
    }
}
