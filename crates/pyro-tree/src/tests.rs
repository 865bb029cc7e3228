use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use crate::pax::{Content, Extent, Kind, MAX_EXTENTS, Member, Time, Writer};

use super::*;

mod archives;
mod portable;
mod random;

fn member(path: &str, kind: Kind) -> Member {
    Member {
        path: path.into(),
        kind,
        mode: 0o755,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        mtime: Time { seconds: 1_000_000, nanos: 5 },
        xattrs: Vec::new(),
    }
}

fn file(path: &str, text: &str) -> (Member, Vec<u8>) {
    (member(path, Kind::File(Content::solid(text.len() as u64))), text.into())
}

fn bare(path: &str, kind: Kind) -> (Member, Vec<u8>) {
    (member(path, kind), Vec::new())
}

/// What a hostile archive is called, and its members.
type Case = (&'static str, Vec<(Member, Vec<u8>)>);

fn archive(members: &[(Member, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (member, content) in members {
        writer.start_member(member).unwrap();
        writer.write_content(content).unwrap();
    }
    writer.finish().unwrap()
}

fn unpack_into(root: &Path, members: &[(Member, Vec<u8>)]) -> Result<TreeStats, TreeError> {
    unpack(root, &mut &archive(members)[..], &UnpackOptions::default())
}

fn copy(from: &Path, to: &Path) -> (TreeStats, TreeStats) {
    let mut bytes = Vec::new();
    let out = pack(from, &mut bytes, &PackOptions::default()).unwrap();
    (out, unpack(to, &mut &bytes[..], &UnpackOptions::default()).unwrap())
}

#[test]
fn a_tree_of_every_kind_comes_out_as_it_went_in() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (a, b) = (from.path(), &to.path().join("new/place"));
    fs::create_dir_all(a.join("dir/deep/er")).unwrap();
    fs::write(a.join("dir/run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(a.join("dir/run"), fs::Permissions::from_mode(0o4750)).unwrap();
    fs::hard_link(a.join("dir/run"), a.join("again")).unwrap();
    symlink("/nowhere/at all", a.join("dir/link")).unwrap();
    fs::write(a.join(OsStr::from_bytes(b"not \xff\xfe utf-8\n")), "x").unwrap();
    let long = "n".repeat(250);
    fs::write(a.join("dir/deep").join(&long), "long").unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        a.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o622),
        0,
    )
    .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(a.join("socket")).unwrap();
    fs::set_permissions(a.join("dir/deep"), fs::Permissions::from_mode(0o1555)).unwrap();
    let time = rustix::fs::Timespec { tv_sec: -5, tv_nsec: 123_456_789 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    for path in ["dir/deep", "dir/run", "dir"] {
        rustix::fs::utimensat(rustix::fs::CWD, a.join(path), &times, rustix::fs::AtFlags::empty()).unwrap();
    }

    let (out, into) = copy(a, b);
    assert_eq!((out.entry_count, out.skipped_count), (into.entry_count, 1));
    assert_eq!(out.bytes_written, into.bytes_written);
    let meta = |path: &str| fs::symlink_metadata(b.join(path)).unwrap();
    assert_eq!(meta("dir/run").mode() & 0o7777, 0o4750);
    assert_eq!(meta("dir/run").ino(), meta("again").ino());
    assert_eq!((meta("dir/deep").mtime(), meta("dir/deep").mtime_nsec()), (-5, 123_456_789));
    assert_eq!((meta("dir").mtime(), meta("dir/run").mtime()), (-5, -5));
    assert_eq!(meta("dir/deep").mode() & 0o7777, 0o1555);
    assert_eq!(fs::read_link(b.join("dir/link")).unwrap(), Path::new("/nowhere/at all"));
    assert_eq!(fs::read(b.join(OsStr::from_bytes(b"not \xff\xfe utf-8\n"))).unwrap(), b"x");
    assert_eq!(fs::read_to_string(b.join("dir/deep").join(&long)).unwrap(), "long");
    assert!(meta("pipe").file_type().is_fifo() && meta("dir/deep/er").is_dir());
    assert!(!b.join("socket").exists());
}

#[test]
fn extended_attributes_are_kept() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = from.path().join("file");
    fs::write(&path, "").unwrap();
    let value: &[u8] = b"\0binary=\n";
    if rustix::fs::setxattr(&path, "user.a=b", value, rustix::fs::XattrFlags::empty()).is_err() {
        println!("skipped (no user attributes on {})", path.display());
        return;
    }
    copy(from.path(), to.path());
    let mut read = [0u8; 64];
    let len = rustix::fs::getxattr(to.path().join("file"), "user.a=b", &mut read[..]).unwrap();
    assert_eq!(&read[..len], value);
}

#[test]
fn holes_stay_holes_however_large() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let size = 40u64 << 30;
    let mut file = fs::File::create(from.path().join("sparse")).unwrap();
    file.seek(SeekFrom::Start(20 << 30)).unwrap();
    file.write_all(b"middle").unwrap();
    file.set_len(size).unwrap();
    let (out, _) = copy(from.path(), to.path());
    assert!(out.bytes_written < 1 << 20, "{out:?}");
    let mut copied = fs::File::open(to.path().join("sparse")).unwrap();
    let metadata = copied.metadata().unwrap();
    assert!(metadata.len() == size && metadata.blocks() * 512 < 1 << 20);
    let mut middle = [0; 6];
    copied.seek(SeekFrom::Start(20 << 30)).unwrap();
    copied.read_exact(&mut middle).unwrap();
    assert_eq!(&middle, b"middle");
}

#[test]
fn a_file_with_more_holes_than_an_archive_can_name_still_arrives() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut file = fs::File::create(from.path().join("comb")).unwrap();
    for tooth in 0..MAX_EXTENTS as u64 + 50 {
        file.seek(SeekFrom::Start(tooth * 8192)).unwrap();
        file.write_all(&[1]).unwrap();
    }
    copy(from.path(), to.path());
    let read = |root: &Path| fs::read(root.join("comb")).unwrap();
    assert!(read(from.path()) == read(to.path()));
}

#[test]
fn what_is_there_is_replaced_but_a_full_directory_is_not() {
    let to = tempfile::tempdir().unwrap();
    let root = to.path();
    fs::write(root.join("a"), "a longer old text").unwrap();
    fs::set_permissions(root.join("a"), fs::Permissions::from_mode(0o400)).unwrap();
    symlink("/etc/passwd", root.join("b")).unwrap();
    fs::create_dir(root.join("c")).unwrap();
    unpack_into(root, &[file("a", "new"), file("b", "plain"), file("./c", "file")]).unwrap();
    assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "new");
    assert!(fs::symlink_metadata(root.join("b")).unwrap().is_file());
    fs::create_dir_all(root.join("d/e")).unwrap();
    let error = unpack_into(root, &[file("d", "x")]).unwrap_err();
    assert!(matches!(error, TreeError::Refused { .. }), "{error}");
    assert!(root.join("d/e").is_dir());
}

#[test]
fn hostile_archives_stay_inside() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    let out = outside.path().to_str().unwrap();
    let link = |target: &str| Kind::Symlink(target.into());
    let hard = |target: &str| Kind::HardLink(target.into());
    let cases: Vec<Case> = vec![
        ("dot-dot", vec![file("../escaped", "x")]),
        ("dot-dot inside", vec![file("a/../../escaped", "x")]),
        ("absolute", vec![file(&format!("{out}/escaped"), "x")]),
        ("through an absolute link", vec![bare("l", link(out)), file("l/escaped", "x")]),
        ("through a relative link", vec![bare("l", link("..")), file("l/escaped", "x")]),
        ("directory over a link's inside", vec![bare("l", link(out)), bare("l/d", Kind::Directory)]),
        ("hard link out", vec![bare("h", hard(&format!("{out}/secret")))]),
        ("hard link up", vec![bare("h", hard("../secret"))]),
        ("hard link through a link", vec![bare("l", link(out)), bare("h", hard("l/secret"))]),
        ("hard link to the root", vec![bare("h", hard("."))]),
        ("root that is a file", vec![file(".", "x")]),
        ("too deep", vec![bare(&"d/".repeat(2000), Kind::Directory)]),
        ("loop", vec![bare("l", link("l")), file("l/x", "x")]),
    ];
    for (name, members) in cases {
        let to = tempfile::tempdir_in(outside.path()).unwrap();
        assert!(unpack_into(to.path(), &members).is_err(), "{name} was accepted");
        let mut left: Vec<_> = fs::read_dir(outside.path()).unwrap().map(|e| e.unwrap().path()).collect();
        left.retain(|path| path != to.path());
        assert_eq!(left, [outside.path().join("secret")], "{name}");
        assert_eq!(fs::metadata(outside.path().join("secret")).unwrap().nlink(), 1, "{name}");
    }
}

#[test]
fn a_link_over_a_directory_of_the_archive_does_not_redirect_its_finish() {
    let outside = tempfile::tempdir().unwrap();
    fs::set_permissions(outside.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let to = tempfile::tempdir().unwrap();
    let target = Kind::Symlink(outside.path().as_os_str().as_bytes().to_vec());
    let mut directory = member("d", Kind::Directory);
    directory.mode = 0o777;
    let before = fs::metadata(outside.path()).unwrap();
    // Not depth first: "d" becomes a link while it is still open.
    let _ = unpack_into(to.path(), &[(directory, Vec::new()), bare("d", target)]);
    let after = fs::metadata(outside.path()).unwrap();
    assert_eq!((before.mode(), before.mtime()), (after.mode(), after.mtime()));
}

#[test]
fn devices_are_neither_sent_nor_made() {
    let to = tempfile::tempdir().unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Block);
    header.set_size(0);
    header.set_cksum();
    builder.append_data(&mut header, "sda", std::io::empty()).unwrap();
    let bytes = builder.into_inner().unwrap();
    let error = unpack(to.path(), &mut &bytes[..], &UnpackOptions::default()).unwrap_err();
    assert!(error.to_string().contains("device"), "{error}");
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0);
}

#[test]
fn parents_that_the_archive_does_not_name_are_made() {
    let to = tempfile::tempdir().unwrap();
    let sparse = Content { size: 100, extents: vec![Extent { offset: 50, len: 2 }] };
    let stats =
        unpack_into(to.path(), &[file("x/y/z", "deep"), (member("x/s", Kind::File(sparse)), b"ab".to_vec())])
            .unwrap();
    assert_eq!(stats.bytes_written, 6);
    assert_eq!(fs::read_to_string(to.path().join("x/y/z")).unwrap(), "deep");
    let bytes = fs::read(to.path().join("x/s")).unwrap();
    assert!(bytes.len() == 100 && &bytes[50..52] == b"ab");
}
