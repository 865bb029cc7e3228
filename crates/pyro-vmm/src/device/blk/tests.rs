use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::block::{BLOCK_BYTES, Durability, MemoryFile};
use crate::device::testing::{Driver, Memory, Piece, memory};

/// Where tests put the parts of a request.
const HEADER: u64 = 0x2_0000;
const STATUS: u64 = 0x2_1000;
const DATA: u64 = 0x3_0000;
const DISK_BYTES: u64 = 256 << 10;

struct Rig<D> {
    mem: Memory,
    driver: Driver,
    queues: Vec<Queue>,
    device: Blk<D>,
}

fn overlay(limit_bytes: u64) -> Overlay<MemoryFile> {
    let delta = MemoryFile::new(Vec::new());
    Overlay::create(Layers::empty(), delta, DISK_BYTES, Durability::Durable, limit_bytes).unwrap()
}

fn rig<D: Disk>(disk: D) -> Rig<D> {
    let (driver, queue) = Driver::new(0, QUEUE_SIZE);
    let mut device = Blk::new(disk, "root-disk");
    device.acknowledge(device.features());
    Rig { mem: memory(1 << 20), driver, queues: vec![queue], device }
}

impl<D: Disk> Rig<D> {
    /// Sends one request and returns its status and the used length.
    fn request(&mut self, kind: u32, sector: u64, data: &[Piece]) -> (u8, u32) {
        self.mem.write_obj(kind, GuestAddress(HEADER)).unwrap();
        self.mem.write_obj(sector, GuestAddress(HEADER + 8)).unwrap();
        self.mem.write_obj(0xffu8, GuestAddress(STATUS)).unwrap();
        let mut pieces = vec![Piece::Read(HEADER, 16)];
        pieces.extend(data);
        pieces.push(Piece::Write(STATUS, 1));
        let head = self.driver.add(&self.mem, &pieces);
        let outcome = self.device.process(0, &mut self.queues, &self.mem).unwrap();
        assert_eq!(outcome, Outcome { interrupt: 1, again: 0 });
        let (used, len) = self.driver.take_used(&self.mem).unwrap();
        assert_eq!(used, head);
        (self.mem.read_obj(GuestAddress(STATUS)).unwrap(), len)
    }

    fn segment(&mut self, sector: u64, sectors: u32, flags: u32) -> Piece {
        self.mem.write_obj(sector, GuestAddress(DATA)).unwrap();
        self.mem.write_obj(sectors, GuestAddress(DATA + 8)).unwrap();
        self.mem.write_obj(flags, GuestAddress(DATA + 12)).unwrap();
        Piece::Read(DATA, 16)
    }
}

const OK: u8 = VIRTIO_BLK_S_OK as u8;
const IO_ERROR: u8 = VIRTIO_BLK_S_IOERR as u8;
const UNSUPPORTED: u8 = VIRTIO_BLK_S_UNSUPP as u8;

#[test]
fn data_in_many_pieces_is_written_and_read_back() {
    let mut rig = rig(overlay(u64::MAX));
    let bytes: Vec<u8> = (0..4096u32).map(|n| (n * 7) as u8).collect();
    rig.mem.write_slice(&bytes, GuestAddress(DATA)).unwrap();
    let out = [Piece::Read(DATA, 100), Piece::Read(DATA + 100, 3000), Piece::Read(DATA + 3100, 996)];
    assert_eq!(rig.request(VIRTIO_BLK_T_OUT, 5, &out), (OK, 1));
    assert_eq!(rig.request(VIRTIO_BLK_T_FLUSH, 0, &[]), (OK, 1));
    let back = [Piece::Write(DATA + 0x8000, 1), Piece::Write(DATA + 0x8001, 4095)];
    assert_eq!(rig.request(VIRTIO_BLK_T_IN, 5, &back), (OK, 4097));
    let mut got = vec![0; 4096];
    rig.mem.read_slice(&mut got, GuestAddress(DATA + 0x8000)).unwrap();
    assert!(got == bytes);
}

#[test]
fn a_request_beyond_the_disk_fails_and_writes_nothing() {
    let mut rig = rig(overlay(u64::MAX));
    let sectors = DISK_BYTES / SECTOR_BYTES;
    for sector in [sectors, sectors - 1, u64::MAX, u64::MAX / 512, 1 << 55] {
        assert_eq!(rig.request(VIRTIO_BLK_T_IN, sector, &[Piece::Write(DATA, 1024)]), (IO_ERROR, 1));
        assert_eq!(rig.request(VIRTIO_BLK_T_OUT, sector, &[Piece::Read(DATA, 1024)]), (IO_ERROR, 1));
    }
    assert_eq!(rig.request(VIRTIO_BLK_T_IN, 0, &[Piece::Write(DATA, 100)]), (IO_ERROR, 1));
    assert_eq!(rig.device.disk_mut().allocated_bytes(), 0);
}

#[test]
fn discard_and_write_zeroes_check_their_segments() {
    let mut rig = rig(overlay(u64::MAX));
    assert_eq!(rig.request(VIRTIO_BLK_T_OUT, 0, &[Piece::Read(DATA, 512)]), (OK, 1));
    let cases = [
        (VIRTIO_BLK_T_DISCARD, 0, 128, 1, UNSUPPORTED),
        (VIRTIO_BLK_T_DISCARD, 0, 128, 0, OK),
        (VIRTIO_BLK_T_DISCARD, 500, 128, 0, IO_ERROR),
        (VIRTIO_BLK_T_DISCARD, u64::MAX, 1, 0, IO_ERROR),
        (VIRTIO_BLK_T_DISCARD, 0, MAX_ZERO_SECTORS + 1, 0, IO_ERROR),
        (VIRTIO_BLK_T_WRITE_ZEROES, 3, 5, 1, OK),
        (VIRTIO_BLK_T_WRITE_ZEROES, 3, 5, 2, UNSUPPORTED),
    ];
    for (kind, sector, sectors, flags, status) in cases {
        let segment = rig.segment(sector, sectors, flags);
        assert_eq!(rig.request(kind, 0, &[segment]), (status, 1), "{kind} {sector} {sectors} {flags}");
    }
    assert_eq!(rig.request(VIRTIO_BLK_T_DISCARD, 0, &[]), (IO_ERROR, 1));
    assert_eq!(rig.request(VIRTIO_BLK_T_DISCARD, 0, &[Piece::Read(DATA, 15)]), (IO_ERROR, 1));
    assert_eq!(rig.request(VIRTIO_BLK_T_DISCARD, 0, &[Piece::Read(DATA, 17 * 16)]), (IO_ERROR, 1));
    assert_eq!(rig.device.disk_mut().allocated_bytes(), 0);
}

#[test]
fn a_read_only_disk_says_so_and_refuses_writes() {
    let mut rig = rig(Layers::raw(MemoryFile::new(vec![9; 4096])).unwrap());
    assert!(rig.device.features() & (1 << VIRTIO_BLK_F_RO) != 0);
    assert!(rig.device.features() & (1 << VIRTIO_BLK_F_DISCARD) == 0);
    assert_eq!(rig.request(VIRTIO_BLK_T_OUT, 0, &[Piece::Read(DATA, 512)]), (IO_ERROR, 1));
    assert_eq!(rig.request(VIRTIO_BLK_T_IN, 7, &[Piece::Write(DATA, 512)]), (OK, 513));
    assert_eq!(rig.mem.read_obj::<u8>(GuestAddress(DATA + 511)).unwrap(), 9);
    for sector in [8, u64::MAX / SECTOR_BYTES, u64::MAX] {
        assert_eq!(rig.request(VIRTIO_BLK_T_IN, sector, &[Piece::Write(DATA, 512)]), (IO_ERROR, 1));
    }
}

#[test]
fn a_full_disk_fails_the_write_alone() {
    let mut rig = rig(overlay(BLOCK_BYTES));
    assert_eq!(rig.request(VIRTIO_BLK_T_OUT, 0, &[Piece::Read(DATA, 512)]), (OK, 1));
    assert_eq!(rig.request(VIRTIO_BLK_T_OUT, 128, &[Piece::Read(DATA, 512)]), (IO_ERROR, 1));
    assert_eq!(rig.request(VIRTIO_BLK_T_OUT, 1, &[Piece::Read(DATA, 512)]), (OK, 1));
}

#[test]
fn identity_and_unknown_requests_are_answered() {
    let mut rig = rig(overlay(u64::MAX));
    assert_eq!(rig.request(VIRTIO_BLK_T_GET_ID, 0, &[Piece::Write(DATA, 20)]), (OK, 21));
    let id: [u8; 20] = rig.mem.read_obj(GuestAddress(DATA)).unwrap();
    assert_eq!(&id, b"root-disk\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(rig.request(77, 0, &[]), (UNSUPPORTED, 1));
    let mut capacity = [0; 8];
    rig.device.read_config(0, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), DISK_BYTES / 512);
    rig.device.read_config(u64::MAX, &mut capacity);
    assert_eq!(capacity, [0; 8]);
}

#[test]
fn chains_that_cannot_be_used_are_returned_empty() {
    let mut rig = rig(overlay(u64::MAX));
    let chains: [&[Piece]; 4] = [
        &[Piece::Read(HEADER, 16)],
        &[Piece::Write(STATUS, 1), Piece::Read(HEADER, 16)],
        &[Piece::Read(HEADER, 16), Piece::Write(1 << 40, 512), Piece::Write(STATUS, 1)],
        &[Piece::Read(u64::MAX - 3, 16), Piece::Write(STATUS, 1)],
    ];
    for chain in chains {
        rig.driver.add(&rig.mem, chain);
        let _ = rig.device.process(0, &mut rig.queues, &rig.mem).unwrap();
        assert_eq!(rig.driver.take_used(&rig.mem).unwrap().1, 0);
    }
    // A header that is cut off can still be answered.
    rig.driver.add(&rig.mem, &[Piece::Read(HEADER, 15), Piece::Write(STATUS, 1)]);
    let _ = rig.device.process(0, &mut rig.queues, &rig.mem).unwrap();
    assert_eq!(rig.driver.take_used(&rig.mem).unwrap().1, 1);
    assert_eq!(rig.mem.read_obj::<u8>(GuestAddress(STATUS)).unwrap(), IO_ERROR);
}

#[test]
fn one_interrupt_serves_a_batch() {
    let mut rig = rig(overlay(u64::MAX));
    for _ in 0..50 {
        rig.mem.write_obj(VIRTIO_BLK_T_FLUSH, GuestAddress(HEADER)).unwrap();
        rig.driver.add(&rig.mem, &[Piece::Read(HEADER, 16), Piece::Write(STATUS, 1)]);
    }
    let outcome = rig.device.process(0, &mut rig.queues, &rig.mem).unwrap();
    assert_eq!(outcome.interrupts().collect::<Vec<_>>(), [0]);
    assert_eq!(std::iter::from_fn(|| rig.driver.take_used(&rig.mem)).count(), 50);
    let outcome = rig.device.process(0, &mut rig.queues, &rig.mem).unwrap();
    assert_eq!(outcome, Outcome::NONE);
}

#[test]
fn a_ring_that_claims_more_than_it_holds_is_broken() {
    let mut rig = rig(overlay(u64::MAX));
    rig.mem.write_obj(QUEUE_SIZE + 1, GuestAddress(0x8002)).unwrap();
    let error = rig.device.process(0, &mut rig.queues, &rig.mem).unwrap_err();
    assert!(matches!(error, DeviceError::Queue { index: 0, .. }), "{error}");
    assert!(matches!(rig.device.process(1, &mut rig.queues, &rig.mem), Err(DeviceError::NoSuchQueue(1))));
}

#[test]
fn the_core_serves_memory_with_dirty_tracking_too() {
    use vm_memory::bitmap::{AtomicBitmap, Bitmap};
    use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
    let mem = GuestMemoryMmap::<AtomicBitmap>::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
    let plain = memory(1 << 20);
    let (mut driver, queue) = Driver::new(0, QUEUE_SIZE);
    plain.write_obj(VIRTIO_BLK_T_IN, GuestAddress(HEADER)).unwrap();
    driver.add(&plain, &[Piece::Read(HEADER, 16), Piece::Write(DATA, 512), Piece::Write(STATUS, 1)]);
    let mut page = vec![0; 4096];
    for at in (0..1 << 20).step_by(page.len()).map(GuestAddress) {
        plain.read_slice(&mut page, at).unwrap();
        if page.iter().any(|byte| *byte != 0) {
            mem.write_slice(&page, at).unwrap();
        }
    }
    let region = mem.find_region(GuestAddress(0)).unwrap();
    assert!(!region.bitmap().dirty_at(DATA as usize));
    let outcome = Blk::new(overlay(u64::MAX), "").process(0, &mut [queue], &mem).unwrap();
    assert_eq!(outcome.interrupt, 1);
    assert!(region.bitmap().dirty_at(DATA as usize), "what the device wrote is marked");
}
