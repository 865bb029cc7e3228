use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use pyro_agent::wire::{self, Decoder, FrameKind};
use pyro_tree::pax::{Content, Kind, Member, Reader, Time, Writer};

use super::*;

#[test]
fn transfers_go_through_frames_both_ways() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(from.path().join("big"), vec![7; 300_000]).unwrap();
    let (mut host, guest) = UnixStream::pair().unwrap();
    let source = from.path().to_str().unwrap().to_owned();
    let sender = std::thread::spawn(move || send(&mut Connection::new(guest.into()), &source).unwrap());
    let mut stream = Vec::new();
    host.read_to_end(&mut stream).unwrap();
    assert_eq!(sender.join().unwrap().entry_count, 2);
    let mut decoder = Decoder::new();
    decoder.feed(&stream);
    let mut archive = Vec::new();
    while let Some((kind, payload)) = decoder.next_frame().unwrap() {
        assert!(kind == FrameKind::Data && payload.len() <= wire::DATA_CHUNK_BYTES);
        archive.extend(payload);
    }
    assert_eq!(Reader::new(&archive[..]).next_member().unwrap().unwrap().path, b".");

    let (mut host, guest) = UnixStream::pair().unwrap();
    let writer = std::thread::spawn(move || host.write_all(&stream));
    let stats = receive(&mut Connection::new(guest.into()), to.path().to_str().unwrap()).unwrap();
    writer.join().unwrap().unwrap();
    assert_eq!((stats.entry_count, stats.bytes_written), (2, 300_000));
    assert_eq!(fs::read(to.path().join("big")).unwrap(), vec![7; 300_000]);
}

#[test]
fn what_is_sent_lies_below_the_root_and_no_link_leads_elsewhere() {
    let lab = tempfile::tempdir().unwrap();
    let root = lab.path().join("root");
    fs::create_dir_all(root.join("directory")).unwrap();
    fs::write(root.join("directory/file"), "inside").unwrap();
    fs::write(lab.path().join("secret"), "outside").unwrap();
    std::os::unix::fs::symlink("..", root.join("up")).unwrap();
    std::os::unix::fs::symlink("directory", root.join("link")).unwrap();
    let sent = |path: &str| {
        let (_host, guest) = UnixStream::pair().unwrap();
        send_from(&mut Connection::new(guest.into()), &root, &root.join(path))
    };
    for (path, entries) in [("", 4 + 1), ("directory", 2), ("directory/file", 1), ("link", 1)] {
        assert_eq!(sent(path).unwrap().entry_count, entries, "{path}");
    }
    for path in ["up/secret", "link/file"] {
        assert!(sent(path).unwrap_err().message.contains("symlinked parent"), "{path}");
    }
    let missing = sent("directory/none").unwrap_err();
    assert_eq!(missing.code, FailureCode::NotFound);
    let told = format!("workspace path does not exist: {}/directory/none", root.display());
    assert_eq!(missing.message, told);
}

#[test]
fn a_host_that_leaves_in_the_middle_is_an_error() {
    let to = tempfile::tempdir().unwrap();
    let (mut host, guest) = UnixStream::pair().unwrap();
    let mut writer = Writer::new(Vec::new());
    let member = Member {
        path: b"a".to_vec(),
        kind: Kind::File(Content::solid(5000)),
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        xattrs: Vec::new(),
    };
    writer.start_member(&member).unwrap();
    let bytes = writer.finish().unwrap();
    host.write_all(&wire::emit_frame(FrameKind::Data, &bytes[..2000])).unwrap();
    drop(host);
    assert!(receive(&mut Connection::new(guest.into()), to.path().to_str().unwrap()).is_err());
    assert!(receive(&mut Connection::new(UnixStream::pair().unwrap().0.into()), "relative").is_err());
}
