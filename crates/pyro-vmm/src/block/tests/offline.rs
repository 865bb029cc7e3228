//! Disks of machines that do not run.

use super::*;
use crate::block::offline::{create_on, merge_into};
use crate::block::reader::export;

/// What one layer adds: how much larger it makes the disk, and what is written in it.
fn layer() -> impl Strategy<Value = (u64, Vec<Op>)> {
    let grow = prop_oneof![3 => Just(0), 1 => 1..300u64].prop_map(|sectors| sectors * 512);
    (grow, prop::collection::vec(op(), 0..8))
}

fn file(bytes: &[u8]) -> MemoryFile {
    MemoryFile::new(bytes.to_vec())
}

fn stack(deltas: &[Vec<u8>]) -> Layers<MemoryFile> {
    deltas.iter().fold(base(), |layers, bytes| layers.push(file(bytes)).unwrap())
}

fn all(layers: &Layers<MemoryFile>) -> Vec<u8> {
    let mut bytes = vec![0xaa; layers.size_bytes() as usize];
    layers.read(&mut Target::from_slice(&mut bytes), 0).unwrap();
    bytes
}

/// Sealed deltas as the layers say.
fn build(layers: &[(u64, Vec<Op>)]) -> Vec<Vec<u8>> {
    let mut sealed: Vec<Vec<u8>> = Vec::new();
    let mut size = SIZE;
    for (grow, ops) in layers {
        size += grow;
        let mut disk =
            Overlay::create(stack(&sealed), empty_file(), size, Durability::Durable, u64::MAX).unwrap();
        for op in ops {
            match *op {
                Op::Write { at, len, byte } => disk.write(&Source::from_slice(&vec![byte; len]), at).unwrap(),
                Op::Discard { at, len } => disk.discard(at, len).unwrap(),
                Op::Zero { at, len } => disk.write_zeroes(at, len).unwrap(),
                // Reaches what a larger disk has added.
                Op::Read { .. } => disk.write(&Source::from_slice(&[9; 512]), size - 512).unwrap(),
                Op::Flush | Op::Reopen | Op::SealAndStack => {}
            }
        }
        sealed.push(disk.seal().unwrap().bytes());
    }
    sealed
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_stack_with_two_deltas_merged_is_the_same_disk(
        layers in prop::collection::vec(layer(), 2..6),
        choice in any::<prop::sample::Index>(),
    ) {
        let mut sealed = build(&layers);
        let before = all(&stack(&sealed));
        let lower = choice.index(sealed.len() - 1);
        let out = empty_file();
        merge_into(file(&sealed[lower]), file(&sealed[lower + 1]), &out).unwrap();
        sealed.splice(lower..lower + 2, [out.bytes()]);
        prop_assert!(all(&stack(&sealed)) == before, "the merged stack reads differently");
    }

    #[test]
    fn a_reader_finds_all_data_and_an_export_is_the_disk(
        layers in prop::collection::vec(layer(), 0..4),
    ) {
        let sealed = build(&layers);
        let expected = all(&stack(&sealed));
        let deltas = sealed.iter().map(|bytes| file(bytes)).collect();
        let reader = DiskReader::open(file(&base_bytes()), deltas).unwrap();
        prop_assert_eq!(reader.size_bytes(), expected.len() as u64);
        let (mut found, mut at) = (vec![0; expected.len()], 0);
        while let Some(data) = reader.next_data(at).unwrap() {
            prop_assert!(data.start >= at && data.end > data.start && data.end <= reader.size_bytes());
            let place = data.start as usize..data.end as usize;
            reader.read_at(&mut found[place], data.start).unwrap();
            at = data.end;
        }
        prop_assert!(found == expected, "there is data outside of what was told");
        let out = file(b"old contents");
        let (mut told, mut written) = (Vec::new(), 0);
        written += export(&reader, &out, |at| told.push(at)).unwrap();
        prop_assert!(out.bytes() == expected, "the export differs");
        prop_assert!(written <= expected.len() as u64);
        prop_assert!(told.is_sorted() && told.last() == Some(&reader.size_bytes()));
    }
}

#[test]
fn reads_beyond_the_end_fail() {
    let reader = DiskReader::open(file(&base_bytes()), vec![]).unwrap();
    for (at, len) in [(BASE as u64, 1), (BASE as u64 - 1, 2), (u64::MAX, 1)] {
        let error = reader.read_at(&mut vec![0; len], at).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
    reader.read_at(&mut [], BASE as u64).unwrap();
}

#[test]
fn only_neighbours_that_are_sealed_are_merged() {
    let sealed = build(&[(0, vec![]), (0, vec![]), (0, vec![])]);
    let merge = |parent: &[u8], child: &[u8], out| merge_into(file(parent), file(child), &file(out));
    assert!(matches!(merge(&sealed[0], &sealed[2], b""), Err(OpenError::WrongParent)));
    assert!(matches!(merge(&sealed[1], &sealed[0], b""), Err(OpenError::WrongParent)));
    assert!(matches!(merge(&sealed[0], &sealed[1], b"full"), Err(OpenError::NotEmpty(4))));
    let open = create(u64::MAX).into_storage().bytes();
    assert!(matches!(merge(&open, &sealed[0], b""), Err(OpenError::NotSealed)));
}

#[test]
fn a_delta_is_made_only_where_it_belongs() {
    let sealed = build(&[(512, vec![])]);
    let make = |parent: &[u8], size| create_on(empty_file(), Some(file(parent)), size);
    let shrinks = make(&sealed[0], SIZE);
    assert!(matches!(shrinks, Err(OpenError::Shrinks { below_bytes, .. }) if below_bytes == SIZE + 512));
    let open = create(u64::MAX).into_storage().bytes();
    assert!(matches!(make(&open, SIZE), Err(OpenError::NotSealed)));
    assert!(matches!(create_on(file(b"x"), None, SIZE), Err(OpenError::NotEmpty(1))));
}

#[test]
fn a_full_stack_takes_no_other_layer() {
    let mut disk = create(u64::MAX);
    for _ in 0..MAX_LAYERS {
        disk.replace_delta(empty_file()).unwrap();
    }
    let error = disk.replace_delta(empty_file()).unwrap_err();
    assert!(matches!(error, ReplaceError::New(OpenError::TooMany)) && error.is_survivable(), "{error}");
    disk.write(&Source::from_slice(&[1; 512]), 0).unwrap();
    assert_eq!(contents(&disk)[..513], [&[1; 512][..], &base_bytes()[512..513]].concat());
}

#[test]
fn a_file_in_use_is_not_taken_for_a_new_delta() {
    let file = tempfile::tempfile().unwrap();
    let again = file.try_clone().unwrap();
    let mut disk = Overlay::create(Layers::empty(), file, SIZE, Durability::Durable, u64::MAX).unwrap();
    disk.write(&Source::from_slice(&[1; 512]), 0).unwrap();
    assert!(matches!(disk.replace_delta(again), Err(ReplaceError::New(OpenError::NotEmpty(_)))));
    let mut got = [0; 512];
    disk.read(&mut Target::from_slice(&mut got), 0).unwrap();
    assert_eq!(got, [1; 512]);
}

#[test]
fn real_files_are_made_sealed_merged_and_exported_sparsely() {
    let size = 1 << 30;
    let base = tempfile::tempfile().unwrap();
    base.write_all_at(&[1; 4096], 512 << 20).unwrap();
    base.set_len(size).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        let path = directory.path().join(name);
        std::fs::File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap()
    };
    let (one, two) = (open("one"), open("two"));
    let fill = |delta: &str, below: &[&str], at: u64, byte: u8| {
        let layers = Layers::raw(base.try_clone().unwrap()).unwrap();
        let layers = below.iter().fold(layers, |layers, name| layers.push(open(name)).unwrap());
        let mut disk = Overlay::open(layers, open(delta), Durability::Durable, u64::MAX).unwrap();
        disk.write(&Source::from_slice(&[byte; 8192]), at).unwrap();
        disk.flush().unwrap();
    };
    let first = create_delta(&one, None, size).unwrap();
    fill("one", &[], 0, 2);
    assert_eq!(seal(&one).unwrap(), first);
    assert_eq!(seal(&one).unwrap(), first, "sealing twice is the same");
    let second = create_delta(&two, Some(&one), size).unwrap();
    assert!(matches!(merge(&one, &two, &open("out")), Err(OpenError::NotSealed)));
    fill("two", &["one"], 4096, 3);
    seal(&two).unwrap();
    let facts = inspect(&two).unwrap();
    assert_eq!((facts.id, facts.parent, facts.sealed, facts.size_bytes), (second, first, true, size));
    assert_eq!(allocated_bytes(&two).unwrap(), 2 * BLOCK_BYTES);

    assert_eq!(merge(&one, &two, &open("out")).unwrap(), second);
    let merged = inspect(&open("out")).unwrap();
    assert_eq!((merged.id, merged.parent, merged.sealed), (second, [0; 16], true));
    assert!(open("out").metadata().unwrap().blocks() * 512 < 128 << 10, "the merged delta is sparse");

    let reader = DiskReader::open(base.try_clone().unwrap(), vec![open("out")]).unwrap();
    let raw = open("raw");
    assert_eq!(export_raw(&reader, &raw, |_| {}).unwrap(), 12288 + 4096);
    assert_eq!(raw.metadata().unwrap().len(), size);
    assert!(raw.metadata().unwrap().blocks() * 512 < 64 << 10, "the image is sparse");
    let mut bytes = [0; 16384];
    raw.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, *[[2; 4096], [3; 4096], [3; 4096], [0; 4096]].concat());
    raw.read_exact_at(&mut bytes[..8192], 512 << 20).unwrap();
    assert_eq!(bytes[..8192], [[1; 4096], [0; 4096]].concat());
}
