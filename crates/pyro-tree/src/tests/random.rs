//! Random trees come out as they went in.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Node {
    File(Vec<u8>),
    Sparse(u64, u64),
    Link(Vec<u8>),
    Name(prop::sample::Index),
    Directory(Vec<Entry>),
}

/// A name, what it is, its mode and its time.
type Entry = (Vec<u8>, Node, u32, (i64, u32));

fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_map(|byte| if matches!(byte, 0 | b'/') { b'x' } else { byte });
    prop_oneof!["[a-z]{1,8}".prop_map(String::into_bytes), prop::collection::vec(byte, 1..120),]
        .prop_filter("names the directory itself", |name| name != b"." && name != b"..")
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let leaf = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..3000).prop_map(Node::File),
        (0u64..100_000, 1u64..200_000).prop_map(|(at, len)| Node::Sparse(at, at + len)),
        prop::collection::vec(1u8..=255, 1..150).prop_map(Node::Link),
        any::<prop::sample::Index>().prop_map(Node::Name),
    ];
    let time = (-2_000_000_000i64..4_000_000_000, 0u32..1_000_000_000);
    let level = move |node: BoxedStrategy<Node>| {
        prop::collection::vec((name(), node, 0u32..=0o777, time.clone()), 0..6)
    };
    let directory = leaf.boxed().prop_recursive(4, 40, 6, {
        let level = level.clone();
        move |inner| level(inner).prop_map(Node::Directory)
    });
    level(directory.boxed())
}

/// Makes a tree; `files` are those that may get a second name.
fn make(root: &Path, entries: &[Entry], files: &mut Vec<PathBuf>) {
    for (name, node, mode, (seconds, nanos)) in entries {
        let path = root.join(OsStr::from_bytes(name));
        if path.symlink_metadata().is_ok() {
            continue;
        }
        match node {
            Node::File(bytes) => fs::write(&path, bytes).unwrap(),
            Node::Sparse(at, end) => {
                let mut file = fs::File::create(&path).unwrap();
                file.seek(SeekFrom::Start(*at)).unwrap();
                file.write_all(b"data").unwrap();
                file.set_len((*end).max(at + 4)).unwrap();
            }
            Node::Link(target) => symlink(OsStr::from_bytes(target), &path).unwrap(),
            Node::Name(index) => {
                if !files.is_empty() {
                    fs::hard_link(index.get(files), &path).unwrap();
                }
                continue;
            }
            Node::Directory(inner) => {
                fs::create_dir(&path).unwrap();
                make(&path, inner, files);
            }
        }
        if matches!(node, Node::File(_) | Node::Sparse(..)) {
            files.push(path.clone());
        }
        if !matches!(node, Node::Link(_)) {
            // Its owner must be able to read it back.
            let least = if matches!(node, Node::Directory(_)) { 0o500 } else { 0o400 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode | least)).unwrap();
        }
        let time = rustix::fs::Timespec { tv_sec: *seconds, tv_nsec: i64::from(*nanos) };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(rustix::fs::CWD, &path, &times, flags).unwrap();
    }
}

/// Mode, time, the first name of the same file, and contents.
type Seen = (u32, i64, i64, Vec<u8>, Vec<u8>);

/// Everything about a tree but inode numbers, for which the first name of each file stands.
fn look(root: &Path) -> BTreeMap<Vec<u8>, Seen> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let meta = path.symlink_metadata().unwrap();
        let contents = if meta.is_symlink() {
            fs::read_link(&path).unwrap().into_os_string().into_vec()
        } else if meta.is_file() {
            fs::read(&path).unwrap()
        } else {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        };
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        found.insert(name, (meta, contents));
    }
    let mut first = BTreeMap::new();
    for (name, (meta, _)) in &found {
        first.entry(meta.ino()).or_insert_with(|| name.clone());
    }
    let seen = found.into_iter().map(|(name, (meta, contents))| {
        let first = first[&meta.ino()].clone();
        (name, (meta.mode(), meta.mtime(), meta.mtime_nsec(), first, contents))
    });
    seen.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn random_trees_come_out_bit_for_bit(entries in entries(), again in any::<bool>()) {
        let place = tempfile::tempdir().unwrap();
        let (from, to) = (place.path().join("from"), place.path().join("to"));
        fs::create_dir(&from).unwrap();
        make(&from, &entries, &mut Vec::new());
        let mut bytes = Vec::new();
        let packed = pack(&from, &mut bytes, &PackOptions::default()).unwrap();
        if again {
            let mut repacked = Vec::new();
            let stats = repack(&mut &bytes[..], &mut repacked, &PackOptions::default()).unwrap();
            prop_assert_eq!(&stats, &packed);
            prop_assert!(repacked == bytes);
        }
        let options = UnpackOptions { fidelity: Fidelity::Portable, ..UnpackOptions::default() };
        let unpacked = unpack(&to, &mut &bytes[..], &options).unwrap();
        prop_assert_eq!(look(&from), look(&to));
        prop_assert_eq!(unpacked.entry_count, packed.entry_count);
        prop_assert_eq!(unpacked.bytes_written, packed.bytes_written);
        remove_tree(&from).unwrap();
        remove_tree(&to).unwrap();
        prop_assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn links_inside_never_lead_out(
        entries in prop::collection::vec(("[ab](/[ab]){0,3}", "(\\.\\./|[ab]/|\\./){0,5}[ab]?"), 1..12),
        hard in prop::collection::vec(("[cd](/[ab]){0,2}", any::<prop::sample::Index>()), 0..4),
    ) {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("x/y/root");
        // Somewhere to get to.
        for outside in ["a/a", "x/a/b", "x/b/a", "x/y/a/a", "x/y/b/b"] {
            fs::create_dir_all(place.path().join(outside)).unwrap();
        }
        let mut members: Vec<_> = entries
            .iter()
            .filter(|(_, target)| !target.is_empty())
            .map(|(path, target)| bare(path, Kind::Symlink(target.as_bytes().to_vec())))
            .collect();
        members.extend(hard.iter().map(|(path, of)| {
            bare(path, Kind::HardLink(of.get(&entries).0.as_bytes().to_vec()))
        }));
        let options = UnpackOptions {
            fidelity: Fidelity::Portable, links: LinkPolicy::InsideOnly, limits: Limits::default(),
        };
        // Some rows name members below links, which ends them early; what was made must hold as well.
        let _ = unpack(&root, &mut &archive(&members)[..], &options);
        for name in look(&root).into_keys() {
            if let Ok(real) = root.join(OsStr::from_bytes(&name)).canonicalize() {
                prop_assert!(real.starts_with(root.canonicalize().unwrap()), "{:?} -> {:?}", name, real);
            }
        }
    }
}
