//! Deltas that are sealed, by a live disk or offline, while the machine loses power or one call fails.

use std::cell::Cell;
use std::rc::Rc;

use super::*;
use crate::block::offline::seal_in;
use crate::block::{ReplaceError, format};

/// Lets a number of changes pass.
struct Fuse {
    left: Cell<u64>,
    /// Whether one call alone fails, or all from there on.
    once: bool,
}

impl Fuse {
    fn new(once: bool) -> Rc<Self> {
        Rc::new(Fuse { left: Cell::new(u64::MAX), once })
    }

    fn burn(&self) -> io::Result<()> {
        match self.left.get() {
            0 => {
                self.left.set(if self.once { u64::MAX } else { 0 });
                Err(io::Error::other("the fuse is blown"))
            }
            left => {
                self.left.set(left - 1);
                Ok(())
            }
        }
    }
}

/// A file whose changes burn a fuse. The change that fails may still reach the medium.
#[derive(Clone)]
struct Fused {
    file: Shared,
    fuse: Rc<Fuse>,
}

impl Fused {
    fn new(bytes: Vec<u8>, fuse: &Rc<Fuse>) -> Self {
        Fused { file: Shared::new(bytes), fuse: Rc::clone(fuse) }
    }

    fn now(&self) -> Vec<u8> {
        self.file.0.now.bytes()
    }
}

impl Storage for Fused {
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)?;
        self.fuse.burn()
    }
    fn read_at(&self, target: &mut Target<'_>, offset: u64) -> io::Result<usize> {
        self.file.read_at(target, offset)
    }
    fn write_at(&self, source: &Source<'_>, offset: u64) -> io::Result<usize> {
        let written = self.file.write_at(source, offset)?;
        self.fuse.burn().map(|()| written)
    }
    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.punch(offset, len)?;
        self.fuse.burn()
    }
    fn sync(&self) -> io::Result<()> {
        self.fuse.burn()?;
        self.file.sync()
    }
}

fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// Three kinds of luck: nothing late made it, everything did, or each sector by itself.
fn crashed(file: &Fused, luck: u64, random: &mut impl FnMut() -> u64) -> Vec<u8> {
    file.file.crash(|| match luck % 3 {
        0 => false,
        1 => true,
        _ => random().is_multiple_of(2),
    })
}

fn stack(sealed: &[Vec<u8>], fuse: &Rc<Fuse>) -> Layers<Fused> {
    let base = Layers::raw(Fused::new(base_bytes(), fuse)).unwrap();
    sealed.iter().fold(base, |layers, bytes| layers.push(Fused::new(bytes.clone(), fuse)).unwrap())
}

fn create_on(layers: Layers<Fused>, file: &Fused) -> Overlay<Fused> {
    Overlay::create(layers, file.clone(), SIZE, Durability::Durable, u64::MAX).unwrap()
}

fn is_sealed(delta: &[u8]) -> bool {
    format::load(&MemoryFile::new(delta.to_vec())).unwrap().0.sealed
}

fn apply(step: &Step, disk: &mut Overlay<Fused>, allowed: &mut Allowed) {
    match *step {
        Step::Write { sector, sectors, byte } => {
            let bytes: Vec<u8> = (0..sectors * 512).map(|n| byte ^ (n / 512) as u8).collect();
            disk.write(&Source::from_slice(&bytes), sector * 512).unwrap();
        }
        Step::Discard { sector, sectors } => disk.discard(sector * 512, sectors * 512).unwrap(),
        Step::Zero { sector, sectors } => disk.write_zeroes(sector * 512, sectors * 512).unwrap(),
        // Crashes have their own place in these tests.
        Step::Flush | Step::Crash => {
            disk.flush().unwrap();
            *allowed = Allowed::only(&contents(disk));
            return;
        }
    }
    allowed.add(&contents(disk));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_crash_while_a_delta_is_replaced_leaves_it_whole_or_open(
        rounds in prop::collection::vec((prop::collection::vec(step(), 0..8), 0u64..16), 1..5),
        seed in any::<u64>(),
    ) {
        let mut random = random(seed);
        let fuse = Fuse::new(false);
        let mut sealed: Vec<Vec<u8>> = Vec::new();
        let mut file = Fused::new(Vec::new(), &fuse);
        let mut disk = create_on(stack(&sealed, &fuse), &file);
        let mut allowed = Allowed::only(&contents(&disk));
        for (steps, cut) in rounds {
            steps.iter().for_each(|step| apply(step, &mut disk, &mut allowed));
            let written = contents(&disk);
            let new = Fused::new(Vec::new(), &fuse);
            fuse.left.set(cut);
            let replaced = disk.replace_delta(new.clone());
            if replaced.is_ok() {
                prop_assert!(contents(&disk) == written, "the disk changed");
            }
            fuse.left.set(u64::MAX);
            let luck = random();
            let (old, new) = (crashed(&file, luck, &mut random), crashed(&new, luck, &mut random));
            let whole = is_sealed(&old);
            prop_assert!(whole || replaced.is_err(), "replaced but not sealed");
            if whole {
                sealed.push(old);
                file = Fused::new(new, &fuse);
                // The new delta was durable before the seal.
                disk = Overlay::open(stack(&sealed, &fuse), file.clone(), Durability::Durable, u64::MAX).unwrap();
                prop_assert!(contents(&disk) == written, "sealed without all that was written");
            } else {
                file = Fused::new(old, &fuse);
                disk = Overlay::open(stack(&sealed, &fuse), file.clone(), Durability::Durable, u64::MAX).unwrap();
                allowed.check(&contents(&disk))?;
            }
            allowed = Allowed::only(&contents(&disk));
        }
    }

    #[test]
    fn a_call_that_fails_while_a_delta_is_replaced_loses_nothing(
        steps in prop::collection::vec(step(), 0..8),
        later in prop::collection::vec(step(), 0..8),
        cut in 0u64..16,
    ) {
        let fuse = Fuse::new(true);
        let file = Fused::new(Vec::new(), &fuse);
        let mut disk = create_on(stack(&[], &fuse), &file);
        let mut allowed = Allowed::only(&contents(&disk));
        steps.iter().for_each(|step| apply(step, &mut disk, &mut allowed));
        let written = contents(&disk);
        let new = Fused::new(Vec::new(), &fuse);
        fuse.left.set(cut);
        let replaced = disk.replace_delta(new.clone());
        fuse.left.set(u64::MAX);
        prop_assert!(contents(&disk) == written);
        prop_assert_eq!(is_sealed(&file.now()), replaced.is_ok());
        // One failure is always survived.
        prop_assert!(replaced.as_ref().err().is_none_or(ReplaceError::is_survivable));
        // A disk whose medium failed is flushed no more.
        if matches!(replaced, Err(ReplaceError::Flush(_))) && disk.flush().is_err() {
            return Ok(());
        }
        later.iter().for_each(|step| apply(step, &mut disk, &mut allowed));
        disk.flush().unwrap();
        let (sealed, top) = match replaced {
            Ok(()) => (vec![file.now()], new.now()),
            Err(_) => (vec![], file.now()),
        };
        let top = Fused::new(top, &fuse);
        let reopened = Overlay::open(stack(&sealed, &fuse), top, Durability::Durable, u64::MAX).unwrap();
        prop_assert!(contents(&reopened) == contents(&disk), "the disk differs when it is opened again");
    }

    #[test]
    fn a_crash_while_a_delta_is_sealed_offline_keeps_what_was_flushed(
        steps in prop::collection::vec(step(), 0..8),
        flush_cut in 0u64..4,
        cut in 0u64..4,
        seed in any::<u64>(),
    ) {
        let mut random = random(seed);
        let fuse = Fuse::new(false);
        let file = Fused::new(Vec::new(), &fuse);
        let mut disk = create_on(stack(&[], &fuse), &file);
        let mut allowed = Allowed::only(&contents(&disk));
        steps.iter().for_each(|step| apply(step, &mut disk, &mut allowed));
        // Its process is gone, perhaps in the middle of a flush.
        fuse.left.set(flush_cut);
        let _ = disk.flush();
        drop(disk);
        let found = Fused::new(file.now(), &Fuse::new(false));
        let found = Overlay::open(stack(&[], &fuse), found, Durability::Durable, u64::MAX).unwrap();
        fuse.left.set(cut);
        let done = seal_in(&file);
        fuse.left.set(u64::MAX);
        let luck = random();
        let bytes = crashed(&file, luck, &mut random);
        let whole = is_sealed(&bytes);
        prop_assert!(whole || done.is_err());
        let again = Fused::new(bytes, &fuse);
        seal_in(&again).unwrap();
        let top = Fused::new(Vec::new(), &fuse);
        let kept = contents(&create_on(stack(&[again.now()], &fuse), &top));
        allowed.check(&kept)?;
        prop_assert!(!whole || kept == contents(&found), "a sealed delta lost what was in it");
    }
}

#[test]
fn a_seal_that_can_be_neither_written_nor_taken_back_ends_the_disk() {
    let unknown = (0..16).filter(|cut| {
        let fuse = Fuse::new(false);
        let file = Fused::new(Vec::new(), &fuse);
        let mut disk = create_on(stack(&[], &fuse), &file);
        disk.write(&Source::from_slice(&[1; 512]), 0).unwrap();
        fuse.left.set(*cut);
        disk.replace_delta(Fused::new(Vec::new(), &fuse)).is_err_and(|error| !error.is_survivable())
    });
    // The header's write and the sync after it.
    assert_eq!(unknown.count(), 2);
}

#[test]
fn a_crash_right_after_a_delta_was_made_leaves_an_empty_one() {
    let fuse = Fuse::new(false);
    let file = Fused::new(Vec::new(), &fuse);
    let disk = create_on(stack(&[], &fuse), &file);
    let left = Fused::new(file.file.crash(|| false), &fuse);
    let again = Overlay::open(stack(&[], &fuse), left, Durability::Durable, u64::MAX).unwrap();
    assert!(contents(&again) == contents(&disk));
}

#[test]
fn a_seal_is_never_older_than_what_it_seals() {
    for (cut, seed) in (0..4).flat_map(|cut| (1..9).map(move |seed| (cut, seed * 7919))) {
        let fuse = Fuse::new(false);
        let file = Fused::new(Vec::new(), &fuse);
        let mut disk = create_on(stack(&[], &fuse), &file);
        disk.write(&Source::from_slice(&[1; 512]), 0).unwrap();
        // Its process ends before the table that it has written is durable.
        fuse.left.set(2);
        disk.flush().unwrap_err();
        fuse.left.set(cut);
        let _ = seal_in(&file);
        fuse.left.set(u64::MAX);
        let bytes = crashed(&file, 2, &mut random(seed));
        if is_sealed(&bytes) {
            let kept = contents(&create_on(stack(&[bytes], &fuse), &Fused::new(Vec::new(), &fuse)));
            assert_eq!(kept[..512], [1; 512], "cut {cut}, seed {seed}");
        }
    }
}
