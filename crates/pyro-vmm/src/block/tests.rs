use std::cell::RefCell;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use proptest::prelude::*;

use super::storage::{MemoryFile, Storage};
use super::*;
use crate::device::iov::{Source, Target};

mod crash;
mod offline;

/// A disk of a few words of blocks, whose last one is short.
const SIZE: u64 = 80 * BLOCK_BYTES + 3 * 512;
/// A base that ends within a block.
const BASE: usize = 37 * BLOCK_BYTES as usize + 700;

fn base_bytes() -> Vec<u8> {
    (0..BASE).map(|at| (at % 251) as u8 + 1).collect()
}

fn base() -> Layers<MemoryFile> {
    Layers::raw(MemoryFile::new(base_bytes())).unwrap()
}

fn empty_file() -> MemoryFile {
    MemoryFile::new(Vec::new())
}

fn create(limit_bytes: u64) -> Overlay<MemoryFile> {
    Overlay::create(base(), empty_file(), SIZE, Durability::Durable, limit_bytes).unwrap()
}

fn contents<S: Storage>(disk: &Overlay<S>) -> Vec<u8> {
    let mut bytes = vec![0xaa; disk.size_bytes() as usize];
    disk.read(&mut Target::from_slice(&mut bytes), 0).unwrap();
    bytes
}

fn model() -> Vec<u8> {
    let mut model = base_bytes();
    model.resize(SIZE as usize, 0);
    model
}

#[derive(Clone, Debug)]
enum Op {
    Write { at: u64, len: usize, byte: u8 },
    Discard { at: u64, len: u64 },
    Zero { at: u64, len: u64 },
    Read { at: u64, len: usize },
    Flush,
    Reopen,
    SealAndStack,
}

fn op() -> impl Strategy<Value = Op> {
    // Places and lengths near the edges of blocks, and of words of the table, are the interesting ones.
    let near = |max: u64| {
        prop_oneof![
            0..max,
            (0..max / BLOCK_BYTES + 1, 0..1025u64)
                .prop_map(|(block, off)| (block * BLOCK_BYTES + off).saturating_sub(512)),
            (0..max / BLOCK_BYTES + 1).prop_map(|block| block * BLOCK_BYTES),
        ]
    };
    let range =
        (near(SIZE), prop_oneof![near(3 * BLOCK_BYTES), near(40 * BLOCK_BYTES)]).prop_map(|(at, len)| {
            let at = at.min(SIZE);
            (at, len.min(SIZE - at))
        });
    prop_oneof![
        6 => (range.clone(), 1u8..).prop_map(|((at, len), byte)| Op::Write { at, len: len as usize, byte }),
        2 => range.clone().prop_map(|(at, len)| Op::Discard { at, len }),
        2 => range.clone().prop_map(|(at, len)| Op::Zero { at, len }),
        2 => range.prop_map(|(at, len)| Op::Read { at, len: len as usize }),
        1 => Just(Op::Flush),
        1 => Just(Op::Reopen),
        1 => Just(Op::SealAndStack),
    ]
}

/// A disk whose sealed deltas are kept, to be stacked anew when it is reopened.
struct Rig {
    sealed: Vec<Vec<u8>>,
    disk: Option<Overlay<MemoryFile>>,
}

impl Rig {
    fn stack(&self) -> Layers<MemoryFile> {
        self.sealed.iter().fold(base(), |layers, bytes| layers.push(MemoryFile::new(bytes.clone())).unwrap())
    }

    fn apply(&mut self, op: &Op, model: &mut [u8]) {
        let disk = self.disk.as_mut().unwrap();
        match *op {
            Op::Write { at, len, byte } => {
                let bytes: Vec<u8> = (0..len).map(|n| byte.wrapping_add(n as u8)).collect();
                let (one, two) = bytes.split_at(len / 3);
                let mut source = Source::from_slice(one);
                source.push_slice(two);
                disk.write(&source, at).unwrap();
                model[at as usize..][..len].copy_from_slice(&bytes);
            }
            Op::Discard { at, len } => {
                disk.discard(at, len).unwrap();
                let whole = super::layers::whole_blocks(at, at + len, SIZE);
                let (from, to) = (whole.start * BLOCK_BYTES, (whole.end * BLOCK_BYTES).min(SIZE));
                if from < to {
                    model[from as usize..to as usize].fill(0);
                }
            }
            Op::Zero { at, len } => {
                disk.write_zeroes(at, len).unwrap();
                model[at as usize..][..len as usize].fill(0);
            }
            Op::Read { at, len } => {
                let mut got = vec![0xaa; len];
                disk.read(&mut Target::from_slice(&mut got), at).unwrap();
                assert!(got == model[at as usize..][..len], "read of {len} at {at} differs");
            }
            Op::Flush => disk.flush().unwrap(),
            Op::Reopen => {
                disk.flush().unwrap();
                let bytes = self.disk.take().unwrap().seal_not();
                let disk = Overlay::open(self.stack(), MemoryFile::new(bytes), Durability::Durable, u64::MAX);
                self.disk = Some(disk.unwrap());
            }
            Op::SealAndStack => {
                let sealed = self.disk.take().unwrap().seal().unwrap();
                self.sealed.push(sealed.bytes());
                let disk = Overlay::create(self.stack(), empty_file(), SIZE, Durability::Durable, u64::MAX);
                self.disk = Some(disk.unwrap());
            }
        }
    }
}

impl Overlay<MemoryFile> {
    /// The delta's bytes as they are, as a reopening process finds them.
    fn seal_not(self) -> Vec<u8> {
        self.into_storage().bytes()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_disk_behaves_like_a_vector_of_bytes(ops in prop::collection::vec(op(), 1..40)) {
        let mut model = model();
        let mut rig = Rig { sealed: Vec::new(), disk: Some(create(u64::MAX)) };
        for op in &ops {
            rig.apply(op, &mut model);
        }
        prop_assert!(contents(rig.disk.as_ref().unwrap()) == model, "contents differ");
    }

    #[test]
    fn hostile_bytes_never_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..9000),
        changes in prop::collection::vec((0usize..72, any::<u8>()), 0..4),
        keep_header in any::<bool>(),
    ) {
        if keep_header {
            // A right header, damaged or not, with a hostile table after it.
            let header = create(u64::MAX).into_storage().bytes();
            let table = bytes.split_off(bytes.len().min(100));
            bytes = header[..4096].to_vec();
            bytes.extend(table);
            changes.iter().for_each(|(at, byte)| bytes[*at] = *byte);
        }
        fuzz_delta(&bytes);
    }
}

#[test]
fn a_real_file_stays_sparse_and_gives_discarded_space_back() {
    let base_file = tempfile::tempfile().unwrap();
    base_file.write_all_at(&base_bytes(), 0).unwrap();
    let delta = tempfile::tempfile().unwrap();
    let probe = delta.try_clone().unwrap();
    let size = 64 << 30;
    let layers = Layers::raw(base_file).unwrap();
    let mut disk = Overlay::create(layers, delta, size, Durability::Durable, u64::MAX).unwrap();
    assert!(probe.metadata().unwrap().blocks() * 512 < 64 << 10, "an empty delta takes no space");

    disk.write(&Source::from_slice(&[7; 4096]), size - 4096).unwrap();
    disk.flush().unwrap();
    let one = probe.metadata().unwrap().blocks() * 512;
    assert!(one <= 16 << 10, "4 KiB over nothing take {one} bytes");
    disk.write(&Source::from_slice(&vec![7; 8 << 20]), 1 << 30).unwrap();
    disk.flush().unwrap();
    assert!(probe.metadata().unwrap().blocks() * 512 > 8 << 20);
    disk.discard(1 << 30, 8 << 20).unwrap();
    disk.flush().unwrap();
    assert!(probe.metadata().unwrap().blocks() * 512 < 1 << 20);
    assert_eq!(disk.allocated_bytes(), BLOCK_BYTES);

    let mut got = [0; 8192];
    disk.read(&mut Target::from_slice(&mut got), size - 8192).unwrap();
    assert!(got[..4096] == [0; 4096] && got[4096..] == [7; 4096]);
    disk.read(&mut Target::from_slice(&mut got[..700]), 37 * BLOCK_BYTES).unwrap();
    assert_eq!(got[..700], base_bytes()[37 * BLOCK_BYTES as usize..]);
}

#[test]
fn a_full_disk_refuses_new_blocks_but_not_old_ones() {
    let mut disk = create(2 * BLOCK_BYTES);
    disk.write(&Source::from_slice(&vec![1; 2 * BLOCK_BYTES as usize]), 0).unwrap();
    let error = disk.write(&Source::from_slice(&[1; 512]), 2 * BLOCK_BYTES).unwrap_err();
    assert!(matches!(error, IoError::Full { limit_bytes } if limit_bytes == 2 * BLOCK_BYTES), "{error}");
    disk.write(&Source::from_slice(&[2; 512]), 512).unwrap();
    disk.discard(0, BLOCK_BYTES).unwrap();
    disk.write(&Source::from_slice(&[1; 512]), 2 * BLOCK_BYTES).unwrap();
}

#[test]
fn ranges_beyond_the_disk_are_refused() {
    let mut disk = create(u64::MAX);
    for (at, len) in [(SIZE, 1), (SIZE - 511, 512), (u64::MAX, 2), (u64::MAX - 1, 1)] {
        let mut bytes = vec![0; len];
        let is_range = |result| matches!(result, Err(IoError::OutOfRange { .. }));
        assert!(is_range(disk.read(&mut Target::from_slice(&mut bytes), at)));
        assert!(is_range(disk.write(&Source::from_slice(&bytes), at)));
        assert!(is_range(disk.discard(at, len as u64)));
        assert!(is_range(disk.write_zeroes(at, len as u64)));
    }
}

#[test]
fn deltas_only_stack_where_they_belong() {
    let open = |layers, bytes: &[u8]| {
        Overlay::open(layers, MemoryFile::new(bytes.to_vec()), Durability::Durable, u64::MAX).err()
    };
    let unsealed = create(u64::MAX).into_storage().bytes();
    assert!(matches!(base().push(MemoryFile::new(unsealed)), Err(OpenError::NotSealed)));

    let one = create(u64::MAX).seal().unwrap().bytes();
    let other = create(u64::MAX).seal().unwrap().bytes();
    assert!(matches!(open(base(), &one), Some(OpenError::Sealed)));

    let on_one = base().push(MemoryFile::new(one)).unwrap();
    let child = Overlay::create(on_one, empty_file(), SIZE, Durability::Durable, u64::MAX).unwrap();
    let child = child.into_storage().bytes();
    let on_other = base().push(MemoryFile::new(other)).unwrap();
    assert!(matches!(open(on_other, &child), Some(OpenError::WrongParent)));
}

#[test]
fn a_larger_disk_reads_zeroes_beyond_the_one_below() {
    let mut small = create(u64::MAX);
    small.write(&Source::from_slice(&[7; 512]), SIZE - 512).unwrap();
    let below = base().push(MemoryFile::new(small.seal().unwrap().bytes())).unwrap();
    let size = SIZE + 2 * BLOCK_BYTES;
    let mut disk = Overlay::create(below, empty_file(), size, Durability::Durable, u64::MAX).unwrap();
    // Into the block in which the one below ends, so that it is copied up.
    disk.write(&Source::from_slice(&[8; 512]), SIZE + 1024).unwrap();
    let found = contents(&disk);
    assert!(found[SIZE as usize - 512..SIZE as usize] == [7; 512]);
    assert!(found[SIZE as usize..][..1024] == [0; 1024] && found[SIZE as usize + 1024..][..512] == [8; 512]);
    assert!(found[SIZE as usize + 1536..].iter().all(|byte| *byte == 0));
}

#[test]
fn an_impossible_size_is_refused() {
    for size in [0, 511, 513, MAX_DISK_BYTES + 512, u64::MAX] {
        let made = Overlay::create(base(), empty_file(), size, Durability::Durable, u64::MAX);
        assert!(matches!(made, Err(OpenError::Format(FormatError::Size(got))) if got == size));
    }
}
