use std::ops::Range;
use std::sync::Arc;

use vm_memory::{
    Bytes as _, FileOffset, GuestMemoryBackend as _, GuestMemoryMmap, GuestRegionMmap, MmapRegion,
};

use super::*;
use crate::device::testing::{Driver, Memory, Piece, memory};

const MIB: u64 = 1 << 20;

/// Remembers what is given back.
#[derive(Default)]
struct Log(Vec<(u64, u64)>);

impl Reclaim for Log {
    fn reclaim(&mut self, address: GuestAddress, len: u64) {
        self.0.push((address.0, len));
    }
}

/// A device with its three queues, whose rings lie in the first MiB.
struct Rig<R> {
    device: Balloon<R>,
    mem: Arc<Memory>,
    drivers: [Driver; 3],
    queues: [Queue; 3],
}

impl<R: Reclaim> Rig<R> {
    fn new(memory: R, mem: Arc<Memory>) -> Self {
        let mut device = Balloon::new(memory);
        device.acknowledge(device.features());
        let [inflate, deflate, reporting] = [0, 1, 2].map(|n| Driver::new(n * Driver::BYTES, QUEUE_SIZE));
        Rig {
            device,
            mem,
            drivers: [inflate.0, deflate.0, reporting.0],
            queues: [inflate.1, deflate.1, reporting.1],
        }
    }

    /// Adds a chain to a queue and has it served.
    fn request(&mut self, queue: u16, pieces: &[Piece]) {
        let driver = &mut self.drivers[usize::from(queue)];
        let head = driver.add(&self.mem, pieces);
        let outcome = self.device.process(queue, &mut self.queues, &*self.mem).unwrap();
        assert_eq!(outcome, Outcome { interrupt: 1 << queue, again: 0 });
        assert_eq!(driver.take_used(&self.mem), Some((head, 0)));
    }

    fn report(&mut self, ranges: &[(u64, u32)]) {
        let pieces: Vec<Piece> = ranges.iter().map(|(address, len)| Piece::Write(*address, *len)).collect();
        self.request(REPORTING, &pieces);
    }
}

fn log_rig() -> Rig<Log> {
    Rig::new(Log::default(), Arc::new(memory(MIB as usize)))
}

#[test]
fn whole_pages_of_what_the_guest_reports_are_given_back() {
    let mut rig = log_rig();
    rig.report(&[(0x20_0000, 0x20_0000), (0x1001, 0x2000), (0x1fff, 0x1002), (0x5000, 0x1fff)]);
    assert_eq!(
        rig.device.memory.0,
        [(0x20_0000, 0x20_0000), (0x2000, 0x1000), (0x2000, 0x1000), (0x5000, 0x1000)]
    );
}

#[test]
fn ranges_that_hold_no_page_are_left_alone() {
    let mut rig = log_rig();
    rig.report(&[
        (0x1000, 0xfff),
        (0x1001, 0x1ffe),
        (0x1000, 0),
        (u64::MAX, 0x1000),
        (u64::MAX - 0xfff, u32::MAX),
    ]);
    rig.request(REPORTING, &[Piece::Read(0x1000, 0x1000)]);
    assert_eq!(rig.device.memory.0, []);
}

#[test]
fn a_whole_reports_ranges_fit_the_queue() {
    let mut rig = log_rig();
    rig.report(&[(0x40_0000, 0x40_0000); 32]);
    assert_eq!(rig.device.memory.0.len(), 32);
}

#[test]
fn requests_for_a_balloon_are_answered_and_change_nothing() {
    let mut rig = log_rig();
    for queue in [0, 1] {
        rig.request(queue, &[Piece::Read(0x1000, 1024)]);
        rig.request(queue, &[Piece::Write(0x1000, 0x1000)]);
    }
    assert_eq!(rig.device.memory.0, []);
    let absent = rig.device.process(3, &mut rig.queues, &*rig.mem);
    assert!(matches!(absent, Err(DeviceError::NoSuchQueue(3))));
}

#[test]
fn a_guest_that_poisons_its_pages_keeps_them() {
    let mut rig = log_rig();
    rig.device.write_config(12, &[0xaa; 4]);
    rig.report(&[(0x1000, 0x1000)]);
    assert_eq!(rig.device.memory.0, []);

    // One that clears them finds what it expects.
    rig.device.write_config(12, &[0; 4]);
    rig.report(&[(0x1000, 0x1000)]);
    assert_eq!(rig.device.memory.0.len(), 1);

    // Without the feature the value says nothing.
    rig.device.write_config(12, &[0xaa; 4]);
    rig.device.acknowledge(COMMON_FEATURES | 1 << VIRTIO_BALLOON_F_REPORTING);
    rig.report(&[(0x1000, 0x1000)]);
    assert_eq!(rig.device.memory.0.len(), 2);
}

#[test]
fn the_guest_writes_its_own_fields_alone_and_a_reset_forgets_them() {
    let mut device = Balloon::new(Log::default());
    for offset in [0, 3, 14, 16, u64::MAX] {
        device.write_config(offset, &[7; 6]);
    }
    device.write_config(0, &[7; 100]);
    let mut space = [9; 20];
    device.read_config(0, &mut space);
    assert_eq!(space, [0, 0, 0, 0, 7, 7, 7, 7, 0, 0, 0, 0, 7, 7, 7, 7, 0, 0, 0, 0]);
    device.reset();
    device.read_config(0, &mut space);
    assert_eq!(space, [0; 20]);
}

/// Regions as an engine makes them: anonymous memory, a private file, and a hole between.
struct Ram {
    memory: Arc<Memory>,
    _file: tempfile::NamedTempFile,
}

const FILE_AT: u64 = 16 * MIB;

impl Ram {
    fn new() -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(MIB).unwrap();
        let anonymous = MmapRegion::new(8 * MIB as usize).unwrap();
        let offset = FileOffset::new(file.reopen().unwrap(), 0);
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
        let private = MmapRegion::build(Some(offset), MIB as usize, prot, flags).unwrap();
        let regions = [(anonymous, 0), (private, FILE_AT)];
        let regions = regions.map(|(region, at)| GuestRegionMmap::new(region, GuestAddress(at)).unwrap());
        Ram { memory: Arc::new(GuestMemoryMmap::from_regions(regions.into()).unwrap()), _file: file }
    }

    fn rig(&self) -> Rig<PrivateMemory> {
        Rig::new(PrivateMemory::new(self.memory.clone()), self.memory.clone())
    }

    fn fill(&self, range: Range<u64>) {
        self.memory
            .write_slice(&vec![7; (range.end - range.start) as usize], GuestAddress(range.start))
            .unwrap();
    }

    fn byte(&self, at: u64) -> u8 {
        self.memory.read_obj(GuestAddress(at)).unwrap()
    }

    /// Pages of a range that take memory.
    fn resident(&self, range: Range<u64>) -> usize {
        let region = self.memory.find_region(GuestAddress(range.start)).unwrap();
        sys::resident_pages(region, range.start as usize, (range.end - range.start) as usize)
    }
}

#[test]
fn reported_memory_goes_back_to_the_host_and_reads_as_zeroes() {
    let ram = Ram::new();
    let mut rig = ram.rig();
    ram.fill(MIB..8 * MIB);
    assert_eq!(ram.resident(MIB..8 * MIB), 7 * 256);

    rig.report(&[(2 * MIB, 2 * MIB as u32), (6 * MIB - 1, 0x1001)]);
    assert_eq!(ram.resident(2 * MIB..4 * MIB), 0);
    assert_eq!(ram.resident(MIB..8 * MIB), 5 * 256 - 1);
    assert_eq!(
        (ram.byte(2 * MIB - 1), ram.byte(2 * MIB), ram.byte(4 * MIB - 1), ram.byte(4 * MIB)),
        (7, 0, 0, 7)
    );
    assert_eq!((ram.byte(6 * MIB - 1), ram.byte(6 * MIB), ram.byte(6 * MIB + 0x1000)), (7, 0, 7));

    // The guest uses it again without a word.
    ram.fill(2 * MIB..3 * MIB);
    assert_eq!(ram.byte(2 * MIB), 7);
}

#[test]
fn files_and_what_is_no_memory_are_left_alone() {
    let ram = Ram::new();
    let mut rig = ram.rig();
    ram.fill(MIB..8 * MIB);
    ram.fill(FILE_AT..FILE_AT + MIB);
    // Over both ends of both regions, and all that there can be.
    rig.report(&[(7 * MIB, 10 * MIB as u32), (FILE_AT - 0x1000, u32::MAX), (u64::MAX - 0x3000, 0x2000)]);
    assert_eq!(ram.resident(7 * MIB..8 * MIB), 0);
    assert_eq!((ram.byte(7 * MIB - 1), ram.byte(FILE_AT), ram.byte(FILE_AT + MIB - 1)), (7, 7, 7));
}

#[test]
fn shared_memory_is_left_alone() {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    let region = MmapRegion::build(None, MIB as usize, libc::PROT_READ | libc::PROT_WRITE, flags).unwrap();
    let region = GuestRegionMmap::new(region, GuestAddress(0)).unwrap();
    let memory: Arc<Memory> = Arc::new(GuestMemoryMmap::from_regions(vec![region]).unwrap());
    memory.write_obj(7u8, GuestAddress(0)).unwrap();
    PrivateMemory::new(memory.clone()).reclaim(GuestAddress(0), MIB);
    assert_eq!(memory.read_obj::<u8>(GuestAddress(0)).unwrap(), 7);
}
