//! What other programs write.

use std::process::Command;

use proptest::prelude::*;

use super::*;

fn tar(directory: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("tar").current_dir(directory).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn repack_all(bytes: &[u8]) -> Result<(TreeStats, Vec<u8>), TreeError> {
    let mut out = Vec::new();
    let options = PackOptions { fidelity: Fidelity::Portable, ..PackOptions::default() };
    let stats = repack(&mut &bytes[..], &mut out, &options)?;
    Ok((stats, out))
}

fn repacked_into(to: &Path, bytes: &[u8]) -> TreeStats {
    let (stats, out) = repack_all(bytes).unwrap();
    let options = UnpackOptions { fidelity: Fidelity::Portable, ..UnpackOptions::default() };
    let unpacked = unpack(to, &mut &out[..], &options).unwrap();
    assert_eq!((stats.entry_count, stats.bytes_written), (unpacked.entry_count, unpacked.bytes_written));
    stats
}

#[test]
fn archives_of_gnu_tar_in_every_format_are_read() {
    let from = tempfile::tempdir().unwrap();
    let a = from.path();
    fs::create_dir_all(a.join("d/empty")).unwrap();
    fs::write(a.join("d/run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(a.join("d/run"), fs::Permissions::from_mode(0o754)).unwrap();
    fs::hard_link(a.join("d/run"), a.join("d/same")).unwrap();
    symlink("../../out", a.join("d/link")).unwrap();
    fs::write(a.join(OsStr::from_bytes(b"\xff\n")), "odd").unwrap();
    for format in ["v7", "oldgnu", "gnu", "ustar", "pax"] {
        let to = tempfile::tempdir().unwrap();
        let bytes = tar(a, &["-cf", "-", &format!("--format={format}"), "."]);
        repacked_into(to.path(), &bytes);
        let meta = |name: &str| fs::symlink_metadata(to.path().join(name)).unwrap();
        assert_eq!(meta("d/run").mode() & 0o7777, 0o754, "{format}");
        assert_eq!(meta("d/run").ino(), meta("d/same").ino(), "{format}");
        assert_eq!(meta("d/run").mtime(), fs::metadata(a.join("d/run")).unwrap().mtime(), "{format}");
        assert!(meta("d/empty").is_dir(), "{format}");
        assert_eq!(fs::read_link(to.path().join("d/link")).unwrap(), Path::new("../../out"), "{format}");
        assert_eq!(fs::read(to.path().join(OsStr::from_bytes(b"\xff\n"))).unwrap(), b"odd", "{format}");
    }
}

#[test]
fn long_names_and_holes_of_gnu_and_pax_archives_are_read() {
    let from = tempfile::tempdir().unwrap();
    let long = format!("{0}/{0}/{0}", "n".repeat(120));
    fs::create_dir_all(from.path().join(&long)).unwrap();
    symlink(&long, from.path().join("link")).unwrap();
    let mut sparse = fs::File::create(from.path().join(&long).join("sparse")).unwrap();
    for at in 0..60u64 {
        sparse.seek(SeekFrom::Start(at << 20)).unwrap();
        sparse.write_all(b"some").unwrap();
    }
    sparse.set_len(1 << 30).unwrap();
    for format in ["gnu", "pax"] {
        let to = tempfile::tempdir().unwrap();
        let bytes = tar(from.path(), &["-cSf", "-", &format!("--format={format}"), "."]);
        repacked_into(to.path(), &bytes);
        let path = to.path().join(&long).join("sparse");
        assert_eq!(fs::metadata(&path).unwrap().len(), 1 << 30, "{format}");
        let mut text = [0; 4];
        let mut file = fs::File::open(&path).unwrap();
        file.seek(SeekFrom::Start(59 << 20)).unwrap();
        file.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"some", "{format}");
        assert_eq!(fs::read_link(to.path().join("link")).unwrap(), Path::new(&long), "{format}");
    }
    for version in ["0.0", "0.1"] {
        let option = format!("--sparse-version={version}");
        let bytes = tar(from.path(), &["-cSf", "-", "--format=pax", &option, "."]);
        let error = repack_all(&bytes).unwrap_err();
        assert!(error.to_string().contains("sparse formats 0.0 and 0.1 are not supported"), "{error}");
    }
}

#[test]
fn members_that_lead_out_and_devices_are_refused_but_links_are_not() {
    let refused = [
        vec![file("../x", "")],
        vec![file("/etc/x", "")],
        vec![file("a/../../x", "")],
        vec![bare("h", Kind::HardLink("../x".into()))],
        vec![bare("h", Kind::HardLink("/etc/passwd".into()))],
        vec![bare("h", Kind::HardLink(".".into()))],
        vec![file(".", "x")],
        vec![bare(&"d/".repeat(1000), Kind::Directory)],
    ];
    for members in refused {
        let error = repack_all(&archive(&members)).unwrap_err();
        assert!(matches!(error, TreeError::Refused { .. }), "{error}");
    }
    let links = ["/etc/passwd", "../../..", "."].map(|target| bare("l", Kind::Symlink(target.into())));
    assert_eq!(repack_all(&archive(&links)).unwrap().0.entry_count, 3);
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Char);
    header.set_size(0);
    header.set_cksum();
    builder.append_data(&mut header, "null", std::io::empty()).unwrap();
    let error = repack_all(&builder.into_inner().unwrap()).unwrap_err();
    assert!(error.to_string().contains("device"), "{error}");
}

#[test]
fn global_headers_may_comment_but_not_change_members() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("f"), "x").unwrap();
    let global = |records: &str| {
        tar(from.path(), &["-cf", "-", "--format=pax", &format!("--pax-option={records}"), "f"])
    };
    assert_eq!(repack_all(&global("comment=a commit")).unwrap().0.entry_count, 1);
    assert!(repack_all(&global("uid=7")).unwrap_err().to_string().contains("global"));
    // An endless row of them never becomes a member.
    let one = &global("comment=a")[..1024];
    let error = repack_all(&one.repeat(1000)).unwrap_err();
    assert!(error.to_string().contains("without a member"), "{error}");
}

#[test]
fn gnu_tar_reads_what_is_packed() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir(from.path().join("d")).unwrap();
    fs::write(from.path().join("d").join("l".repeat(200)), "long").unwrap();
    symlink("d", from.path().join("s")).unwrap();
    let mut sparse = fs::File::create(from.path().join("sparse")).unwrap();
    sparse.seek(SeekFrom::Start(5 << 20)).unwrap();
    sparse.write_all(b"middle").unwrap();
    sparse.set_len(9 << 20).unwrap();
    let path = to.path().join("a.tar");
    pack(from.path(), &mut fs::File::create(&path).unwrap(), &PackOptions::default()).unwrap();
    tar(to.path(), &["-xf", "a.tar"]);
    assert_eq!(fs::read(to.path().join("d").join("l".repeat(200))).unwrap(), b"long");
    assert_eq!(fs::read_link(to.path().join("s")).unwrap(), Path::new("d"));
    let read = |root: &Path| fs::read(root.join("sparse")).unwrap();
    assert!(read(from.path()) == read(to.path()));
}

proptest! {
    #[test]
    fn damaged_archives_are_refused_or_come_out_stable(
        format in prop::sample::select(&["gnu", "pax"][..]),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let archives = std::sync::LazyLock::force(&DAMAGED);
        let mut bytes = archives[usize::from(format == "pax")].clone();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            // A right checksum lets the damage through to what lies behind it.
            let header = &mut bytes[at / 512 * 512..][..512];
            header[148..156].fill(b' ');
            let sum: u32 = header.iter().copied().map(u32::from).sum();
            header[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
        }
        fuzz_repack(&bytes);
    }
}

static DAMAGED: std::sync::LazyLock<[Vec<u8>; 2]> = std::sync::LazyLock::new(|| {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("n".repeat(150)), "x").unwrap();
    symlink("t".repeat(120), from.path().join("l")).unwrap();
    let mut sparse = fs::File::create(from.path().join("s")).unwrap();
    for at in 0..6u64 {
        sparse.seek(SeekFrom::Start(at << 16)).unwrap();
        sparse.write_all(b"some").unwrap();
    }
    ["gnu", "pax"]
        .map(|format| tar(from.path(), &["-cSf", "-", "-b", "1", &format!("--format={format}"), "."]))
});
