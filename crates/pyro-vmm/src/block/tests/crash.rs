//! A machine that loses power at any write: what was flushed is still there afterwards.

use std::cell::Cell;

use super::*;

mod seal;

/// One change to the file.
#[derive(Clone)]
enum Change {
    Len(u64),
    Write(u64, Vec<u8>),
    Punch(u64, u64),
}

/// Keeps what a medium may keep: everything before the last sync, and anything after it in any part.
struct Medium {
    now: MemoryFile,
    durable: RefCell<MemoryFile>,
    since: RefCell<Vec<Change>>,
    /// The next sync fails, and what it should have kept is lost.
    fails: Cell<bool>,
}

/// Hands the medium to the disk and keeps it.
#[derive(Clone)]
struct Shared(std::rc::Rc<Medium>);

impl Shared {
    fn new(bytes: Vec<u8>) -> Self {
        let durable = RefCell::new(MemoryFile::new(bytes.clone()));
        let now = MemoryFile::new(bytes);
        Shared(Medium { now, durable, since: RefCell::default(), fails: Cell::default() }.into())
    }

    /// The bytes after a crash: of what was not synced, each sector of each change may have made it.
    fn crash(&self, mut coin: impl FnMut() -> bool) -> Vec<u8> {
        let file = MemoryFile::new(self.0.durable.borrow().bytes());
        for change in self.0.since.borrow().iter() {
            match change {
                // A length is metadata that the file system keeps in order with what lies beyond.
                Change::Len(len) => file.set_len(*len).unwrap(),
                Change::Write(at, bytes) => {
                    for (n, sector) in bytes.chunks(512).enumerate() {
                        if coin() {
                            file.write_at(&Source::from_slice(sector), at + n as u64 * 512).unwrap();
                        }
                    }
                }
                Change::Punch(at, len) => {
                    for sector in (*at..at + len).step_by(512) {
                        if coin() {
                            file.punch(sector, (at + len - sector).min(512)).unwrap();
                        }
                    }
                }
            }
        }
        file.bytes()
    }

    fn record(&self, change: Change) {
        self.0.since.borrow_mut().push(change);
    }
}

impl Storage for Shared {
    fn size(&self) -> io::Result<u64> {
        self.0.now.size()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.record(Change::Len(len));
        self.0.now.set_len(len)
    }
    fn read_at(&self, target: &mut Target<'_>, offset: u64) -> io::Result<usize> {
        self.0.now.read_at(target, offset)
    }
    fn write_at(&self, source: &Source<'_>, offset: u64) -> io::Result<usize> {
        let mut bytes = vec![0; source.len()];
        source.copy_to(&mut bytes);
        self.record(Change::Write(offset, bytes));
        self.0.now.write_at(source, offset)
    }
    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.record(Change::Punch(offset, len));
        self.0.now.punch(offset, len)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.since.borrow_mut().clear();
        if self.0.fails.take() {
            return Err(io::Error::other("the medium is broken"));
        }
        *self.0.durable.borrow_mut() = MemoryFile::new(self.0.now.bytes());
        Ok(())
    }
}

/// For each sector, every content that it may have after a crash: the flushed one and all later ones.
struct Allowed {
    sectors: Vec<Vec<Vec<u8>>>,
}

impl Allowed {
    fn only(contents: &[u8]) -> Self {
        Allowed { sectors: contents.chunks(512).map(|sector| vec![sector.to_vec()]).collect() }
    }

    fn add(&mut self, contents: &[u8]) {
        for (allowed, sector) in self.sectors.iter_mut().zip(contents.chunks(512)) {
            if !allowed.iter().any(|one| one == sector) {
                allowed.push(sector.to_vec());
            }
        }
    }

    fn check(&self, contents: &[u8]) -> Result<(), TestCaseError> {
        for (number, (allowed, sector)) in self.sectors.iter().zip(contents.chunks(512)).enumerate() {
            prop_assert!(
                allowed.iter().any(|one| one == sector),
                "sector {number} holds what was never there"
            );
        }
        Ok(())
    }
}

fn layers() -> Layers<Shared> {
    Layers::raw(Shared::new(base_bytes())).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Write { sector: u64, sectors: u64, byte: u8 },
    Discard { sector: u64, sectors: u64 },
    Zero { sector: u64, sectors: u64 },
    Flush,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let all = SIZE / 512;
    let range = (0..all, prop_oneof![1..20u64, 100..300u64])
        .prop_map(move |(sector, sectors)| (sector, sectors.min(all - sector)));
    prop_oneof![
        5 => (range.clone(), 1u8..).prop_map(|((sector, sectors), byte)| Step::Write { sector, sectors, byte }),
        1 => range.clone().prop_map(|(sector, sectors)| Step::Discard { sector, sectors }),
        2 => range.prop_map(|(sector, sectors)| Step::Zero { sector, sectors }),
        2 => Just(Step::Flush),
        2 => Just(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn flushed_data_survives_a_crash_at_any_write(
        steps in prop::collection::vec(step(), 1..30),
        seed in any::<u64>(),
    ) {
        // Three kinds of luck: nothing late made it, everything did, or each sector by itself.
        let mut state = seed | 1;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let file = Shared::new(Vec::new());
        let mut disk = Overlay::create(layers(), file.clone(), SIZE, Durability::Durable, u64::MAX).unwrap();
        disk.flush().unwrap();
        let (mut file, mut disk) = (file, disk);
        let mut allowed = Allowed::only(&contents(&disk));
        for step in steps {
            match step {
                Step::Write { sector, sectors, byte } => {
                    let bytes: Vec<u8> = (0..sectors * 512).map(|n| byte ^ (n / 512) as u8).collect();
                    disk.write(&Source::from_slice(&bytes), sector * 512).unwrap();
                }
                Step::Discard { sector, sectors } => disk.discard(sector * 512, sectors * 512).unwrap(),
                Step::Zero { sector, sectors } => disk.write_zeroes(sector * 512, sectors * 512).unwrap(),
                Step::Flush => disk.flush().unwrap(),
                Step::Crash => {
                    let luck = random() % 3;
                    let bytes = file.crash(|| match luck { 0 => false, 1 => true, _ => random() % 2 == 0 });
                    file = Shared::new(bytes);
                    disk = Overlay::open(layers(), file.clone(), Durability::Durable, u64::MAX).unwrap();
                    let found = contents(&disk);
                    allowed.check(&found)?;
                    // What is read once stays: nothing may come back later.
                    allowed = Allowed::only(&found);
                    continue;
                }
            }
            match step {
                Step::Flush => allowed = Allowed::only(&contents(&disk)),
                _ => allowed.add(&contents(&disk)),
            }
        }
        let bytes = file.crash(|| random() % 2 == 0);
        let disk = Overlay::open(layers(), Shared::new(bytes), Durability::Durable, u64::MAX).unwrap();
        allowed.check(&contents(&disk))?;
    }
}

#[test]
fn a_first_write_of_whole_blocks_copies_nothing() {
    let file = Shared::new(Vec::new());
    let mut disk = Overlay::create(layers(), file.clone(), SIZE, Durability::Durable, u64::MAX).unwrap();
    let writes_of = |disk: &mut Overlay<Shared>, at: u64, len: usize| {
        file.0.since.borrow_mut().clear();
        disk.write(&Source::from_slice(&vec![1; len]), at).unwrap();
        let lens = |change: &Change| match change {
            Change::Write(_, bytes) => bytes.len(),
            Change::Len(_) | Change::Punch(..) => usize::MAX,
        };
        file.0.since.borrow().iter().map(lens).collect::<Vec<_>>()
    };
    let block = BLOCK_BYTES as usize;
    assert_eq!(writes_of(&mut disk, 3 * BLOCK_BYTES, block), [block]);
    assert_eq!(writes_of(&mut disk, 2 * BLOCK_BYTES, 3 * block), [3 * block]);
    // What is not whole is filled up, once.
    assert_eq!(writes_of(&mut disk, 7 * BLOCK_BYTES + 512, block), [block, block]);
    assert_eq!(writes_of(&mut disk, 7 * BLOCK_BYTES + 1024, block), [block]);
    assert_eq!(disk.allocated_bytes(), 5 * BLOCK_BYTES);
    let mut expected = model();
    expected[2 * block..5 * block].fill(1);
    expected[7 * block + 512..8 * block + 1024].fill(1);
    assert!(contents(&disk) == expected);
}

#[test]
fn after_a_failed_flush_no_later_one_claims_success() {
    let file = Shared::new(Vec::new());
    let mut disk = Overlay::create(layers(), file.clone(), SIZE, Durability::Durable, u64::MAX).unwrap();
    disk.flush().unwrap();
    disk.write(&Source::from_slice(&[1; 512]), 0).unwrap();
    file.0.fails.set(true);
    assert!(disk.flush().is_err());
    // The medium works again and knows nothing of what it lost.
    disk.write(&Source::from_slice(&[2; 512]), 512).unwrap();
    assert!(disk.flush().is_err() && disk.seal().is_err());
}

#[test]
fn a_write_lost_in_a_crash_does_not_come_back_with_the_next_one() {
    for (below, over_zero) in [(true, true), (false, false)] {
        let layers = || if below { layers() } else { Layers::empty() };
        let file = Shared::new(Vec::new());
        let mut disk = Overlay::create(layers(), file.clone(), SIZE, Durability::Durable, u64::MAX).unwrap();
        if over_zero {
            disk.discard(0, BLOCK_BYTES).unwrap();
        }
        disk.flush().unwrap();
        disk.write(&Source::from_slice(&[1; 512]), 0).unwrap();
        // The block reached the medium, the table did not.
        let file = Shared::new(file.crash(|| true));
        let mut disk = Overlay::open(layers(), file, Durability::Durable, u64::MAX).unwrap();
        disk.write(&Source::from_slice(&[2; 512]), 1024).unwrap();
        let found = contents(&disk);
        assert_eq!((found[0], found[1024]), (0, 2));
    }
}
