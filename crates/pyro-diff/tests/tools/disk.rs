//! Images of mke2fs, read as they are, after a crash, and damaged.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use pyro_diff::ext4::{Depth, fuzz_image};
use pyro_diff::{BaselineTree, Comparison, DiskError, Entry, EntryKind, Ext4, Status};

use crate::has;

struct Lab {
    place: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let tree = place.path().join("tree");
        fs::create_dir_all(tree.join("workspace/deep/er")).unwrap();
        fs::create_dir(tree.join("workspace/empty")).unwrap();
        fs::create_dir(tree.join("workspace/many")).unwrap();
        for number in 0..600 {
            fs::write(
                tree.join(format!("workspace/many/a-rather-long-name-{number:05}")),
                number.to_string(),
            )
            .unwrap();
        }
        fs::write(tree.join("workspace/small"), b"hello\n").unwrap();
        fs::write(tree.join("workspace/none"), b"").unwrap();
        let large: Vec<u8> =
            (0..3_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        fs::write(tree.join("workspace/deep/er/large"), &large).unwrap();
        let sparse = fs::File::create(tree.join("workspace/sparse")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"start", 0).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"middle", 700_001).unwrap();
        sparse.set_len(2_000_000).unwrap();
        let link = |target: &str, name: &str| symlink(target, tree.join("workspace").join(name)).unwrap();
        link("small", "link");
        link("/workspace/deep/../deep", "around");
        link("../../../../workspace/small", "clamped");
        link(&"x/".repeat(60), "long");
        link("loop", "loop");
        fs::write(tree.join("workspace").join(std::ffi::OsStr::from_bytes(b"odd\n\xff")), b"odd").unwrap();
        Self { place }
    }

    fn tree(&self) -> PathBuf {
        self.place.path().join("tree")
    }

    fn image(&self, options: &[&str]) -> PathBuf {
        let image = self.place.path().join("image");
        fs::remove_file(&image).ok();
        let output = Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-d"])
            .arg(self.tree())
            .args(options)
            .arg(&image)
            .arg("64M")
            .output()
            .unwrap();
        assert!(output.status.success(), "{options:?}: {}", String::from_utf8_lossy(&output.stderr));
        image
    }
}

fn debugfs(image: &Path, commands: &str) -> String {
    let script = image.with_extension("commands");
    fs::write(&script, commands).unwrap();
    let output = Command::new("debugfs").arg("-w").arg("-f").arg(&script).arg(image).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn open(image: &Path) -> Ext4<fs::File> {
    Ext4::open(fs::File::open(image).unwrap()).unwrap()
}

fn walk(disk: &dyn BaselineTree, root: &[u8]) -> BTreeMap<Vec<u8>, Entry> {
    let mut entries = BTreeMap::new();
    disk.walk(root, &mut |entry| {
        assert!(entries.insert(entry.path.clone(), entry).is_none());
        Ok(())
    })
    .unwrap();
    entries
}

/// Compares what the image holds with the directory it was made from; counts.
fn check_all(disk: &Ext4<fs::File>, tree: &Path) -> usize {
    let entries = walk(disk, b"workspace");
    let mut seen = 0;
    let mut left = vec![tree.join("workspace")];
    while let Some(directory) = left.pop() {
        for place in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            let meta = place.symlink_metadata().unwrap();
            let path = place.strip_prefix(tree.join("workspace")).unwrap().as_os_str().as_bytes().to_vec();
            let entry = &entries[&path];
            seen += 1;
            assert_eq!(entry.mode, meta.mode() & 0o7777);
            assert_eq!(entry.mtime_ns / 1_000_000_000, i128::from(meta.mtime()));
            assert!(entry.ino.is_some() && entry.ctime_ns.is_some());
            if meta.is_dir() {
                assert_eq!(entry.kind, EntryKind::Directory);
                left.push(place);
            } else if meta.is_symlink() {
                assert_eq!(entry.kind, EntryKind::Symlink);
                assert_eq!(entry.link_target, fs::read_link(&place).unwrap().as_os_str().as_bytes());
            } else {
                assert_eq!((entry.kind, entry.size), (EntryKind::File, meta.size()));
                let content = disk.read_file(&[b"/workspace/", path.as_slice()].concat(), 1 << 30).unwrap();
                assert!(content == fs::read(&place).unwrap(), "{}", path.escape_ascii());
            }
        }
    }
    assert_eq!(seen, entries.len());
    seen
}

#[test]
fn images_of_every_shape_read_as_the_trees_they_were_made_from() {
    if !has("mke2fs", "e2fsprogs") {
        return;
    }
    let lab = Lab::new();
    for options in [
        &[][..],
        &["-b", "1024"],
        &["-b", "1024", "-O", "^extents,^64bit"],
        &["-b", "4096", "-O", "^extents,^64bit,^has_journal"],
        &["-I", "128"],
        &["-O", "meta_bg,^resize_inode"],
        &["-b", "1024", "-g", "1024", "-O", "meta_bg,^resize_inode,^flex_bg"],
        &["-O", "sparse_super2"],
        &["-b", "2048", "-O", "bigalloc,^metadata_csum"],
    ] {
        let image = lab.image(options);
        assert!(check_all(&open(&image), &lab.tree()) > 600, "{options:?}");
        // Once more with directories that have an index.
        let output = Command::new("e2fsck").args(["-fyD"]).arg(&image).output().unwrap();
        assert!(
            output.status.code().is_some_and(|code| code <= 1),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
        check_all(&open(&image), &lab.tree());
    }
}

#[test]
fn numbers_and_change_times_of_inodes_are_those_on_the_disk() {
    if !has("mke2fs", "e2fsprogs") || !has("debugfs", "e2fsprogs") {
        return;
    }
    let lab = Lab::new();
    let image = lab.image(&[]);
    let told = debugfs(
        &image,
        "set_inode_field /workspace/small ctime @0x12345678\nset_inode_field /workspace/small ctime_extra 0x29\nstat /workspace/small\n",
    );
    let entry = open(&image).stat(b"workspace/small").unwrap();
    let number = told.split("Inode: ").nth(1).unwrap().split_whitespace().next().unwrap();
    assert_eq!(entry.ino.unwrap().to_string(), number);
    assert_eq!(entry.ctime_ns.unwrap(), (0x1234_5678_i128 + (1 << 32)) * 1_000_000_000 + 10, "{told}");
}

#[test]
fn paths_follow_links_inside_the_image_only() {
    if !has("mke2fs", "e2fsprogs") {
        return;
    }
    let lab = Lab::new();
    let disk = open(&lab.image(&[]));
    for path in
        ["/workspace/link", "workspace/around/../clamped", "/../..//workspace/./around/er/../../small"]
    {
        assert_eq!(disk.read(path.as_bytes(), 100).unwrap(), b"hello\n", "{path}");
    }
    assert!(matches!(disk.read(b"/workspace/loop", 100), Err(DiskError::Links { .. })));
    assert!(matches!(disk.read(b"/workspace/gone", 100), Err(DiskError::NotFound { .. })));
    assert!(matches!(disk.read(b"/workspace/small/x", 100), Err(DiskError::NotDirectory { .. })));
    assert!(matches!(disk.read(b"/workspace", 100), Err(DiskError::NotRegular { .. })));
    assert!(matches!(disk.read(b"/workspace/small", 5), Err(DiskError::TooLarge { size: 6, most: 5, .. })));
    assert!(matches!(disk.read_file(b"workspace/link", 100), Err(DiskError::NotRegular { .. })));
    let names = |path: &[u8], depth| -> Vec<Vec<u8>> {
        disk.list(path, depth, 10_000).unwrap().into_iter().map(|entry| entry.path).collect()
    };
    assert_eq!(names(b"/workspace/deep", Depth::Children), [b"workspace/deep/er"]);
    assert_eq!(
        names(b"/workspace/around/", Depth::All),
        [&b"workspace/around/er"[..], b"workspace/around/er/large"]
    );
    assert_eq!(names(b"/workspace/link", Depth::All), [b"workspace/link"]);
    assert!(matches!(disk.list(b"/", Depth::All, 100), Err(DiskError::Limit { most: 100, .. })));
    assert!(walk(&disk, b"nothing/here").is_empty());
}

#[test]
fn committed_blocks_of_the_journal_stand_in_for_those_on_the_disk() {
    if !has("mke2fs", "e2fsprogs") || !has("debugfs", "e2fsprogs") {
        return;
    }
    let lab = Lab::new();
    for (options, open_journal) in [
        (&["-b", "1024"][..], "jo"),
        (&["-b", "4096"], "jo -c"),
        (&["-b", "4096"], "jo -c -v 2"),
        (&["-b", "4096", "-O", "^64bit,^metadata_csum"], "jo"),
    ] {
        let image = lab.image(options);
        let size: usize = options[1].parse().unwrap();
        let told = debugfs(&image, "blocks /workspace/small\n");
        let block = told.lines().nth(1).unwrap().trim().to_owned();
        let content = lab.place.path().join("content");
        let write = |first: &[u8], commands: &str| {
            let mut bytes = first.to_vec();
            bytes.resize(size, 0);
            fs::write(&content, bytes).unwrap();
            debugfs(&image, &format!("{open_journal}\njw {commands} {}\njc\n", content.display()))
        };
        // The journal's own magic number at the start is escaped.
        let told = write(b"\xc0\x3b\x39\x98ab", &format!("-b {block}"));
        let after = open(&image).read(b"/workspace/small", 100).unwrap();
        assert_eq!(after, b"\xc0\x3b\x39\x98ab", "{options:?} {told}");
        let told = write(b"second", &format!("-b {block}"));
        assert_eq!(open(&image).read(b"/workspace/small", 100).unwrap(), b"second", "{told}");
        check_all_but_small(&open(&image), &lab.tree());
        let told = debugfs(&image, &format!("{open_journal}\njw -r {block}\njc\n"));
        assert_eq!(open(&image).read(b"/workspace/small", 100).unwrap(), b"hello\n", "{told}");
        let told = write(b"thirds", &format!("-b {block}"));
        assert_eq!(open(&image).read(b"/workspace/small", 100).unwrap(), b"thirds", "{told}");
        Command::new("e2fsck").args(["-fy"]).arg(&image).output().unwrap();
        assert_eq!(open(&image).read(b"/workspace/small", 100).unwrap(), b"thirds");
    }
}

fn check_all_but_small(disk: &Ext4<fs::File>, tree: &Path) {
    let before = fs::read(tree.join("workspace/small")).unwrap();
    fs::write(tree.join("workspace/small"), b"second").unwrap();
    let mtime = fs::File::open(tree.join("workspace/small")).unwrap();
    let stat = disk.stat(b"workspace/small").unwrap();
    let seconds = u64::try_from(stat.mtime_ns / 1_000_000_000).unwrap();
    mtime.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).unwrap();
    check_all(disk, tree);
    fs::write(tree.join("workspace/small"), before).unwrap();
    mtime.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).unwrap();
}

#[test]
fn a_tree_compared_with_its_own_image_shows_exactly_what_was_changed() {
    if !has("mke2fs", "e2fsprogs") {
        return;
    }
    let lab = Lab::new();
    let disk = open(&lab.image(&[]));
    let mut comparison = Comparison::open(&disk, b"workspace").unwrap();
    for (path, mut entry) in walk(&disk, b"workspace") {
        match path.as_slice() {
            b"none" => continue,
            b"small" => entry.mode = 0o755,
            _ => {}
        }
        comparison.observe(entry).unwrap();
    }
    let differences: Vec<_> = comparison
        .finish()
        .into_iter()
        .filter(|difference| difference.certainty == pyro_diff::Certainty::Proven)
        .map(|difference| (difference.path, difference.status))
        .collect();
    assert_eq!(differences, [(b"none".to_vec(), Status::Deleted), (b"small".to_vec(), Status::Modified)]);
}

#[test]
fn damaged_images_give_errors_and_never_a_panic() {
    if !has("mke2fs", "e2fsprogs") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let tree = place.path().join("tree");
    fs::create_dir_all(tree.join("a/b/c")).unwrap();
    for number in 0..40 {
        fs::write(tree.join(format!("a/file-{number}")), vec![7; number * 300]).unwrap();
    }
    symlink("x".repeat(100), tree.join("a/b/link")).unwrap();
    let image = place.path().join("image");
    for features in ["extents", "^extents,^64bit"] {
        fs::remove_file(&image).ok();
        let made = Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-b", "1024", "-N", "128", "-O", features, "-d"])
            .arg(&tree)
            .arg(&image)
            .arg("2M")
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let bytes = fs::read(&image).unwrap();
        fuzz_image(&bytes);
        let interesting: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        let mut state = 12345_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap()
        };
        for _ in 0..300 {
            let mut damaged = bytes.clone();
            for _ in 0..=random() % 8 {
                let at = if random() % 2 == 0 {
                    interesting[random() % interesting.len()]
                } else {
                    1024 + random() % 60_000
                };
                damaged[at] = [0, 0xff, 1, 0x80, (random() & 0xff) as u8][random() % 5];
            }
            fuzz_image(&damaged);
        }
    }
}

#[test]
fn ten_thousand_files_are_compared_in_no_time() {
    if !has("mke2fs", "e2fsprogs") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let tree = place.path().join("tree");
    for directory in 0..100 {
        let parent = tree.join(format!("workspace/{:02}/directory-{directory}", directory % 40));
        fs::create_dir_all(&parent).unwrap();
        for file in 0..100 {
            fs::write(parent.join(format!("some-module-{file}.js")), b"x").unwrap();
        }
    }
    let image = place.path().join("image");
    let output = Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-N", "20000", "-d"])
        .arg(&tree)
        .arg(&image)
        .arg("128M")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let disk = open(&image);
    let present = walk(&disk, b"workspace");
    assert_eq!(present.len(), 10_140);
    let start = std::time::Instant::now();
    let mut comparison = Comparison::open(&disk, b"workspace").unwrap();
    let read = start.elapsed();
    for (path, entry) in present {
        if !path.ends_with(b"directory-7/some-module-3.js") {
            comparison.observe(entry).unwrap();
        }
    }
    let proven = comparison
        .finish()
        .into_iter()
        .filter(|difference| difference.certainty == pyro_diff::Certainty::Proven)
        .count();
    assert_eq!(proven, 1);
    println!("baseline read in {read:?}, compared in {:?}", start.elapsed());
    assert!(start.elapsed() < std::time::Duration::from_secs(20));
}
