use std::io::Write as _;
use std::process::Command;

use proptest::prelude::*;

use super::*;

/// Builds archives member by member, honest or not.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn raw(mut self, name: &[u8], flag: u8, link: &[u8], claimed: u64, data: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        {
            let old = header.as_old_mut();
            old.name[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
            old.linkname[..link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
            old.linkflag = [flag];
        }
        header.set_size(claimed);
        header.set_mode(0o644);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_700_000_000);
        if matches!(flag, b'3' | b'4') {
            header.set_device_major(5).unwrap();
            header.set_device_minor(1).unwrap();
        }
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, data: &[u8]) -> Self {
        self.raw(name.as_bytes(), b'0', b"", data.len() as u64, data)
    }

    fn dir(self, name: &str) -> Self {
        self.raw(name.as_bytes(), b'5', b"", 0, b"")
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(name.as_bytes(), b'2', target.as_bytes(), 0, b"")
    }

    fn hard_link(self, name: &str, target: &str) -> Self {
        self.raw(name.as_bytes(), b'1', target.as_bytes(), 0, b"")
    }

    fn pax(self, records: &[(&str, &str)]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let mut len = key.len() + value.len() + 3;
            len += (len + 2).to_string().len();
            body.extend_from_slice(format!("{len} {key}={value}\n").as_bytes());
        }
        let len = body.len() as u64;
        self.raw(b"PaxHeaders/x", b'x', b"", len, &body)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn flatten_with(&self, layers: &[Vec<u8>], limits: &LayerLimits) -> Result<Flattened, FlattenError> {
        let sources = layers
            .iter()
            .map(|bytes| {
                let mut file = tempfile::tempfile_in(self.0.path()).unwrap();
                file.write_all(bytes).unwrap();
                LayerSource { file, diff_id: None }
            })
            .collect();
        flatten_to_ext4(sources, &self.image(), limits, &Work::default())
    }

    fn flatten(&self, layers: &[Vec<u8>]) -> Result<Flattened, FlattenError> {
        self.flatten_with(layers, &LayerLimits::default())
    }

    fn image(&self) -> PathBuf {
        self.0.path().join("rootfs.ext4")
    }

    fn read(&self, path: &str) -> Vec<u8> {
        let file = File::open(self.image()).unwrap();
        let fs = mkext4::reader::Fs::open(ReadFile(file)).unwrap();
        fs.read_file(fs.resolve(path).unwrap()).unwrap()
    }

    fn exists(&self, path: &str) -> bool {
        let fs = mkext4::reader::Fs::open(ReadFile(File::open(self.image()).unwrap())).unwrap();
        fs.resolve(path).is_ok()
    }
}

struct ReadFile(File);

impl mkext4::reader::ReadAt for ReadFile {
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.0, buffer, offset)
    }
}

fn refused(layers: &[Vec<u8>]) -> FlattenError {
    let scratch = Scratch::new();
    let error = scratch.flatten(layers).unwrap_err();
    assert_eq!(std::fs::read_dir(scratch.0.path()).unwrap().count(), 0, "something was left behind");
    error
}

fn e2fsck(image: &Path) {
    let output = Command::new("/usr/sbin/e2fsck").args(["-fn"]).arg(image).output();
    let Ok(output) = output else {
        assert!(!std::env::var("PYRO_REQUIRE").is_ok_and(|r| r.contains("e2fsprogs")), "no e2fsck");
        println!("skipped (no e2fsck on this machine)");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn upper_layers_hide_replace_and_add() {
    let scratch = Scratch::new();
    let lower = Archive::default()
        .dir("etc/")
        .file("etc/keep", b"lower")
        .file("etc/gone", b"x")
        .file("etc/changed", b"old")
        .dir("opaque/")
        .file("opaque/old", b"x")
        .file("was-file", b"f")
        .dir("was-dir/")
        .file("was-dir/inside", b"x")
        .end();
    let upper = Archive::default()
        .file("etc/changed", b"new")
        .file("opaque/new", b"n")
        .file("etc/.wh.gone", b"")
        .file("opaque/.wh..wh..opq", b"")
        .file("was-file/now-below", b"d")
        .file("was-dir", b"now a file")
        .file("etc/.wh.absent", b"")
        .end();
    scratch.flatten(&[lower, upper]).unwrap();
    assert_eq!(scratch.read("/etc/keep"), b"lower");
    assert_eq!(scratch.read("/etc/changed"), b"new");
    assert_eq!(scratch.read("/opaque/new"), b"n");
    assert_eq!(scratch.read("/was-file/now-below"), b"d");
    assert_eq!(scratch.read("/was-dir"), b"now a file");
    for gone in ["/etc/gone", "/opaque/old", "/was-dir/inside", "/etc/.wh.gone"] {
        assert!(!scratch.exists(gone), "{gone}");
    }
    e2fsck(&scratch.image());
}

#[test]
fn a_whiteout_spares_what_its_own_layer_brings() {
    let scratch = Scratch::new();
    let lower = Archive::default().file("d/old", b"1").end();
    let upper = Archive::default().file("d/new", b"2").file(".wh.d", b"").end();
    scratch.flatten(&[lower, upper]).unwrap();
    assert!(scratch.exists("/d/new") && !scratch.exists("/d/old"));
}

#[test]
fn hard_links_share_an_inode_across_layers() {
    let scratch = Scratch::new();
    let lower = Archive::default().file("a", b"same").end();
    let upper = Archive::default().hard_link("b", "a").hard_link("c", "./b").end();
    scratch.flatten(&[lower, upper]).unwrap();
    let fs = mkext4::reader::Fs::open(ReadFile(File::open(scratch.image()).unwrap())).unwrap();
    let inodes: Vec<u32> = ["/a", "/b", "/c"].iter().map(|p| fs.resolve(p).unwrap()).collect();
    assert!(inodes.iter().all(|i| *i == inodes[0]));
    assert_eq!(fs.inode(inodes[0]).unwrap().links_count, 3);
    e2fsck(&scratch.image());
}

#[test]
fn owners_modes_times_attributes_and_nodes_survive() {
    let scratch = Scratch::new();
    let acl = "\u{2}\0\0\0\u{1}\0\u{6}\0\u{1f}\u{1f}\u{1f}\u{1f}";
    let layer = Archive::default()
        .pax(&[
            ("mtime", "12.25"),
            ("uid", "70000"),
            ("SCHILY.xattr.user.note", "hi"),
            ("SCHILY.xattr.system.posix_acl_access", acl),
        ])
        .file("f", b"data")
        .raw(b"dev/tty9", b'3', b"", 0, b"")
        .raw(b"dev/disk", b'4', b"", 0, b"")
        .raw(b"dev/pipe", b'6', b"", 0, b"")
        .symlink("loop", "loop")
        .symlink("out", "/../../etc/passwd")
        .end();
    scratch.flatten(&[layer]).unwrap();
    let fs = mkext4::reader::Fs::open(ReadFile(File::open(scratch.image()).unwrap())).unwrap();
    let ino = fs.resolve("/f").unwrap();
    let inode = fs.inode(ino).unwrap();
    assert_eq!((inode.uid, inode.gid, inode.mode & 0o7777), (70000, 8, 0o644));
    let xattrs = fs.xattrs(ino).unwrap();
    assert!(xattrs.iter().any(|x| x.name == b"note" && x.value == b"hi"));
    assert!(xattrs.iter().any(|x| x.value == [1, 0, 0, 0, 1, 0, 6, 0]), "the list has ext4's form");
    assert_eq!(fs.inode(fs.resolve("/dev/tty9").unwrap()).unwrap().dev_numbers(), Some((5, 1)));
    assert_eq!(fs.symlink_target(fs.resolve("/out").unwrap()).unwrap(), b"/../../etc/passwd");
    e2fsck(&scratch.image());
}

#[test]
fn paths_that_leave_the_tree_are_refused() {
    for path in ["../x", "a/../../x", "a/..", "/etc/passwd"] {
        let error = refused(&[Archive::default().file(path, b"").end()]);
        assert!(matches!(&error, FlattenError::Path { path: p, .. } if p == path), "{error}");
        assert!(error.to_string().starts_with("unsafe archive member path: "));
    }
}

#[test]
fn names_that_are_not_utf8_are_named_in_the_error() {
    let error = refused(&[Archive::default().raw(b"caf\xe9", b'0', b"", 0, b"").end()]);
    assert_eq!(error.to_string(), "member name is not valid UTF-8: caf\\xe9");
}

#[test]
fn names_in_errors_cannot_write_to_the_terminal() {
    let error = refused(&[Archive::default().file("a\u{1b}[2J", b"").file("a\u{1b}[2J/x", b"").end()]);
    assert!(matches!(error, FlattenError::ThroughFile { .. }));
    assert!(!error.to_string().contains(char::is_control), "{error:?}");
}

#[test]
fn symlinks_are_never_followed() {
    let same_layer = Archive::default().symlink("evil", "/etc").file("evil/passwd", b"x").end();
    assert!(matches!(refused(&[same_layer]), FlattenError::ThroughSymlink { link, .. } if link == "evil"));
    let below_file = Archive::default().file("f", b"").file("f/x", b"").end();
    assert!(matches!(refused(&[below_file]), FlattenError::ThroughFile { parent, .. } if parent == "f"));

    let scratch = Scratch::new();
    let lower = Archive::default().dir("usr/lib/").symlink("lib", "usr/lib").end();
    let upper = Archive::default().file("lib/x", b"1").end();
    scratch.flatten(&[lower, upper]).unwrap();
    assert!(scratch.exists("/lib/x") && !scratch.exists("/usr/lib/x"));
}

#[test]
fn hard_links_need_a_target_inside() {
    for target in ["../../etc/shadow", "/etc/shadow", "missing", "d"] {
        let error = refused(&[Archive::default().dir("d/").hard_link("x", target).end()]);
        assert!(matches!(error, FlattenError::HardLink { .. }), "{target}: {error}");
    }
}

#[test]
fn entries_devices_bytes_and_implied_directories_are_bounded() {
    let small = LayerLimits { entries: 10, devices: 2, uncompressed_bytes: 64 << 10, metadata_bytes: 4096 };
    let refused = |layer: Vec<u8>, expected: &str| {
        let error = Scratch::new().flatten_with(&[layer], &small).unwrap_err();
        assert!(matches!(error, FlattenError::TooMuch { what, .. } if what == expected), "{error}");
    };
    let many = (0..11).fold(Archive::default(), |a, i| a.file(&format!("f{i}"), b""));
    refused(many.end(), "entries");
    let devices =
        (0..3).fold(Archive::default(), |a, i| a.raw(format!("n{i}").as_bytes(), b'4', b"", 0, b""));
    refused(devices.end(), "device nodes");
    refused(Archive::default().file("big", &[0; 70 << 10]).end(), "uncompressed bytes");
    let bomb = zstd::encode_all(&*Archive::default().file("big", &vec![0; 8 << 20]).end(), 3).unwrap();
    refused(bomb, "uncompressed bytes");
    refused(Archive::default().file(&"d/".repeat(40), b"").end(), "files and directories");
    let long = "x".repeat(5000);
    refused(
        Archive::default().pax(&[("SCHILY.xattr.user.a", &long)]).file("f", b"").end(),
        "bytes of names and attributes",
    );
}

/// Takes a minute unoptimised: `cargo test --release -p pyro-oci -- --ignored million`.
#[test]
#[ignore = "slow"]
fn a_million_entries_stay_within_memory_and_two_million_are_refused() {
    let dirs = (0..1000).fold(Archive::default(), |a, i| a.dir(&format!("d{i}/")));
    let mut archive = dirs;
    for i in 0..1_000_000 {
        archive = archive.raw(format!("d{}/f{i}", i % 1000).as_bytes(), b'0', b"", 0, b"");
    }
    let scratch = Scratch::new();
    let million = archive.end();
    let flattened = scratch.flatten(&[zstd::encode_all(&*million, 1).unwrap()]).unwrap();
    assert_eq!(flattened.inodes, 1_001_001);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap().trim().to_owned();
    println!("peak {peak}, of which {} kB are the archive", million.len() / 1024);
    e2fsck(&scratch.image());
    std::fs::remove_file(scratch.image()).unwrap();
    let error = scratch.flatten(&[million.clone(), million]).unwrap_err();
    assert_eq!(error.to_string(), "the layers hold more than 2000000 entries");
}

#[test]
fn enormous_sparse_members_are_refused_before_any_work() {
    let petabyte = (1_u64 << 50).to_string();
    let layer = Archive::default()
        .pax(&[
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.name", "huge"),
            ("GNU.sparse.realsize", &petabyte),
        ])
        .file("GNUSparseFile.0/huge", &[b"0\n".as_slice(), &[0; 510]].concat())
        .end();
    let error = refused(&[layer]);
    assert!(
        matches!(error, FlattenError::Tar { source: TarError::MemberTooLarge { bytes, .. }, .. } if bytes == 1 << 50)
    );
    let truncated = Archive::default().raw(b"huge", b'0', b"", 1 << 39, b"").end();
    assert!(matches!(refused(&[truncated]), FlattenError::Tar { source: TarError::Truncated { .. }, .. }));
}

#[test]
fn files_beyond_the_disk_are_refused() {
    let limits = LayerLimits { uncompressed_bytes: u64::MAX, ..LayerLimits::default() };
    let scratch = Scratch::new();
    let path = scratch.0.path().join("big.tar");
    let mut file = File::create_new(&path).unwrap();
    let header = Archive::default().raw(b"huge", b'0', b"", 70 << 30, b"").0;
    file.write_all(&header).unwrap();
    file.set_len((70 << 30) + 2048).unwrap();
    let file = File::open(&path).unwrap();
    // Hashing 70 GiB of zeros is not the point here: index the archive alone.
    let mut budget = layer::Budget::new(&limits);
    let entries = layer::index_plain_unhashed(&file, &mut budget).unwrap();
    let mut tree = Tree::new(10);
    tree.apply(entries).unwrap();
    let error = ext4::write(&tree, &[Arc::new(file)], &scratch.image(), &Digest::of(b""), &Work::default());
    assert!(matches!(error, Err(FlattenError::DiskFull { .. })));
    assert!(!scratch.image().exists());
}

#[test]
fn sparse_members_stay_sparse() {
    let scratch = Scratch::new();
    let source = scratch.0.path().join("holes");
    let file = File::create_new(&source).unwrap();
    let at = |offset, bytes: &[u8]| std::os::unix::fs::FileExt::write_all_at(&file, bytes, offset).unwrap();
    at(1000, b"first");
    at(300 << 20, b"second");
    file.set_len((1 << 30) + 77).unwrap();
    for format in ["gnu", "posix"] {
        let tar = scratch.0.path().join("s.tar");
        let status = Command::new("tar")
            .args(["--sparse", "--format", format, "-cf"])
            .arg(&tar)
            .arg("-C")
            .arg(scratch.0.path())
            .arg("holes")
            .status()
            .unwrap();
        assert!(status.success());
        let bytes = std::fs::read(&tar).unwrap();
        assert!(bytes.len() < 1 << 20, "tar kept the holes");
        let result = scratch.flatten(&[bytes]).unwrap();
        assert!(result.data_bytes < 1 << 20);
        let fs = mkext4::reader::Fs::open(ReadFile(File::open(scratch.image()).unwrap())).unwrap();
        let ino = fs.resolve("/holes").unwrap();
        let inode = fs.inode(ino).unwrap();
        assert_eq!(inode.size, (1 << 30) + 77);
        let extents = fs.extents(ino, &inode).unwrap();
        let mut buffer = [0; 8];
        let _ = fs.read_file_at(&inode, &extents, 998, &mut buffer).unwrap();
        assert_eq!(&buffer, b"\0\0first\0");
        let _ = fs.read_file_at(&inode, &extents, (300 << 20) - 1, &mut buffer).unwrap();
        assert_eq!(&buffer, b"\0second\0");
        e2fsck(&scratch.image());
        std::fs::remove_file(scratch.image()).unwrap();
    }
}

#[test]
fn equal_layers_give_equal_images_however_compressed() {
    let tar = Archive::default().dir("a/").file("a/b", &[7; 10_000]).end();
    let zst = zstd::encode_all(&*tar, 3).unwrap();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gz.write_all(&tar).unwrap();
    let gz = gz.finish().unwrap();
    let mut seen = None;
    for bytes in [tar.clone(), zst, gz] {
        let scratch = Scratch::new();
        let result = scratch.flatten(&[bytes]).unwrap();
        assert_eq!(result.diff_ids, [Digest::of(&tar)]);
        assert_eq!(scratch.read("/a/b"), [7; 10_000]);
        let key = result.key;
        assert_eq!(*seen.get_or_insert(key), key);
    }
}

#[test]
fn a_wrong_diff_id_is_refused() {
    let scratch = Scratch::new();
    for bytes in [Archive::default().end(), zstd::encode_all(&*Archive::default().end(), 1).unwrap()] {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let source = LayerSource { file, diff_id: Some(Digest::of(b"other")) };
        let limits = LayerLimits::default();
        let error = flatten_to_ext4(vec![source], &scratch.image(), &limits, &Work::default()).unwrap_err();
        assert!(matches!(error, FlattenError::DiffId { layer: 1, .. }), "{error}");
        assert!(!scratch.image().exists());
    }
}

#[test]
fn cancelled_work_leaves_nothing() {
    let scratch = Scratch::new();
    let work = Work::default();
    work.cancel();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&Archive::default().file("a", b"x").end()).unwrap();
    let source = LayerSource { file, diff_id: None };
    let error = flatten_to_ext4(vec![source], &scratch.image(), &LayerLimits::default(), &work).unwrap_err();
    assert!(matches!(error, FlattenError::Cancelled));
    assert_eq!(std::fs::read_dir(scratch.0.path()).unwrap().count(), 0);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(data in proptest::collection::vec(any::<u8>(), 0..4096)) {
        drop(fuzz_layer(&data));
    }

    #[test]
    fn damaged_archives_never_panic(at in 0_usize..4096, value: u8, cut in 0_usize..4096) {
        let mut bytes = Archive::default()
            .pax(&[("path", "a/long/path"), ("mtime", "-1.5"), ("GNU.sparse.map", "0,1,5,1"), ("GNU.sparse.size", "9")])
            .file("x", b"ab")
            .symlink("s", "t")
            .hard_link("h", "s")
            .raw(b"n", b'4', b"", 0, b"")
            .end();
        let len = bytes.len();
        bytes[at % len] = value;
        bytes.truncate(len - cut % 64);
        drop(fuzz_layer(&bytes));
    }
}
