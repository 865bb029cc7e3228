use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use pyro_agent::wire::{FailureCode, FileWritten, Operation};

use super::*;
use crate::harness::{Answer, Home, picture};

fn write(home: &Home, path: &str, data: &[u8], mode: Option<u32>, create_parents: bool) -> Answer {
    home.send(Operation::FileWrite { root: home.root(), path: home.path(path), mode, create_parents }, data)
}

fn read(home: &Home, path: &str, offset: u64, max_bytes: u64) -> Answer {
    home.ask(Operation::FileRead { root: home.root(), path: home.path(path), offset, max_bytes })
}

fn pipe(home: &Home, name: &str) {
    let mode = Mode::from_raw_mode(0o600);
    let path = home.workspace().join(name);
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
}

#[test]
fn a_stat_tells_all_there_is() {
    let home = Home::new();
    fs::write(home.workspace().join("f"), "hello").unwrap();
    fs::hard_link(home.workspace().join("f"), home.workspace().join("g")).unwrap();
    symlink("f", home.workspace().join("l")).unwrap();
    let stat = |path: GuestPath| home.ask(Operation::FileStat { root: home.root(), path });
    let facts: FileFacts = stat(home.path("f")).reply();
    let metadata = fs::metadata(home.workspace().join("f")).unwrap();
    assert_eq!((facts.kind, facts.size_bytes, facts.link_count), (FileKind::File, 5, 2));
    assert_eq!((facts.ino, facts.mode), (metadata.ino(), metadata.mode() & 0o7777));
    assert_eq!((facts.mtime.seconds, facts.uid), (metadata.mtime(), metadata.uid()));
    assert_eq!(stat(home.path("l")).reply::<FileFacts>().link_target, Some(GuestPath::from("f")));
    assert_eq!(stat(home.root()).reply::<FileFacts>().kind, FileKind::Directory);
    assert_eq!(stat(home.path("none")).failure().code, FailureCode::NotFound);
    assert_eq!(stat(GuestPath::from("/etc")).failure().code, FailureCode::BadRequest);
}

#[test]
fn a_read_gives_a_part_and_says_whether_more_follows() {
    let home = Home::new();
    let content: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
    fs::write(home.workspace().join("f"), &content).unwrap();
    for (offset, max, truncated) in
        [(0, 300_000, false), (0, 200_000, false), (7, 100_000, true), (1 << 40, 5, false)]
    {
        let answer = read(&home, "f", offset, max);
        let start = usize::try_from(offset).unwrap().min(content.len());
        let end = (start + usize::try_from(max).unwrap()).min(content.len());
        assert!(answer.data == content[start..end]);
        let reply: FileRead = answer.reply();
        assert_eq!((reply.size_bytes, reply.truncated), (200_000, truncated));
    }
    assert!(!read(&home, "f", u64::MAX, u64::MAX).reply::<FileRead>().truncated);
    assert!(read(&home, "f", 0, 0).reply::<FileRead>().truncated);
}

#[test]
fn only_regular_files_are_read() {
    let home = Home::new();
    fs::write(home.workspace().join("f"), "x").unwrap();
    symlink("f", home.workspace().join("link")).unwrap();
    symlink(".", home.workspace().join("here")).unwrap();
    pipe(&home, "pipe");
    fs::create_dir(home.workspace().join("d")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(home.workspace().join("s")).unwrap();
    for path in ["link", "pipe", "d", "s", ""] {
        let failure = read(&home, path, 0, 10).failure().clone();
        let wanted = "workspace file read only supports regular files: ";
        assert!(failure.message.starts_with(wanted), "{path}: {}", failure.message);
    }
    assert!(read(&home, "here/f", 0, 10).failure().message.contains("through a symlinked parent"));
    assert_eq!(read(&home, "f/x", 0, 10).failure().code, FailureCode::BadRequest);
}

#[test]
fn a_written_file_replaces_the_old_one_and_keeps_its_mode() {
    let home = Home::new();
    let content = vec![7; 200_000];
    let reply: FileWritten = write(&home, "f", &content, None, false).reply();
    assert_eq!(reply, FileWritten { bytes_written: 200_000, created: true });
    let at = home.workspace().join("f");
    assert_eq!(fs::metadata(&at).unwrap().mode() & 0o7777, 0o644);
    fs::set_permissions(&at, fs::Permissions::from_mode(0o4751)).unwrap();
    let _ = std::os::unix::fs::chown(&at, Some(12), Some(34));
    let owner = fs::metadata(&at).unwrap().uid();
    fs::set_permissions(&at, fs::Permissions::from_mode(0o4751)).unwrap();
    assert!(!write(&home, "f", b"new", None, false).reply::<FileWritten>().created);
    let metadata = fs::metadata(&at).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.uid()), (0o4751, owner));
    assert_eq!(fs::read(&at).unwrap(), b"new");
    write(&home, "f", b"", Some(0o600), false).reply::<FileWritten>();
    assert_eq!((fs::metadata(&at).unwrap().mode() & 0o7777, fs::metadata(&at).unwrap().len()), (0o600, 0));
    assert_eq!(fs::read_dir(home.workspace()).unwrap().count(), 1);
}

#[test]
fn missing_parents_are_made_only_when_asked_for() {
    let home = Home::new();
    assert_eq!(write(&home, "a/b/f", b"x", None, false).failure().code, FailureCode::NotFound);
    assert_eq!(picture(&home.workspace()).len(), 1);
    write(&home, "a/b/f", b"x", None, true).reply::<FileWritten>();
    assert_eq!(fs::read(home.workspace().join("a/b/f")).unwrap(), b"x");
}

#[test]
fn refused_writes_change_nothing() {
    let home = Home::new();
    fs::create_dir(home.workspace().join("d")).unwrap();
    fs::write(home.workspace().join("f"), "old").unwrap();
    symlink("f", home.workspace().join("link")).unwrap();
    symlink("d", home.workspace().join("ld")).unwrap();
    pipe(&home, "pipe");
    let before: Vec<String> = fs::read_dir(home.workspace())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for path in ["d", "link", "pipe", "ld/x", "f/x", "ld/n/x", ""] {
        let answer = write(&home, path, &vec![1; 300_000], None, true);
        assert_eq!(answer.failure().code, FailureCode::BadRequest, "{path}: {answer:?}");
    }
    home.leave_after(
        Operation::FileWrite {
            root: home.root(),
            path: home.path("n/m/f"),
            mode: None,
            create_parents: true,
        },
        b"half",
    );
    home.leave_after(
        Operation::FileWrite { root: home.root(), path: home.path("f"), mode: None, create_parents: true },
        b"half",
    );
    let after: Vec<String> = fs::read_dir(home.workspace())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(before, after);
    assert_eq!(fs::read(home.workspace().join("f")).unwrap(), b"old");
}

#[test]
fn removal_takes_trees_only_when_asked_for_and_follows_no_link() {
    let home = Home::new();
    let top = home.workspace();
    fs::create_dir_all(top.join("d/e")).unwrap();
    fs::write(top.join("d/e/f"), "").unwrap();
    fs::write(top.join("keep"), "kept").unwrap();
    symlink("../keep", top.join("d/link")).unwrap();
    let remove = |path: &str, recursive| {
        home.ask(Operation::FileRemove { root: home.root(), path: home.path(path), recursive })
    };
    let refused = remove("d", false);
    assert!(refused.failure().message.starts_with("workspace file delete does not support directories"));
    let reply: FileRemoved = remove("d", true).reply();
    assert_eq!(reply, FileRemoved { kind: FileKind::Directory, count: 4 });
    assert_eq!(fs::read(top.join("keep")).unwrap(), b"kept");
    assert_eq!(remove("d", true).failure().code, FailureCode::NotFound);
    assert_eq!(remove("", true).failure().code, FailureCode::BadRequest);
    assert_eq!(remove("keep", false).reply::<FileRemoved>().kind, FileKind::File);
}

#[test]
fn directories_are_made_with_or_without_parents() {
    let home = Home::new();
    let make = |path: &str, parents| {
        home.ask(Operation::FileMkdir { root: home.root(), path: home.path(path), parents })
    };
    fs::write(home.workspace().join("f"), "").unwrap();
    assert!(make("d", false).reply::<DirectoryMade>().created);
    assert_eq!(make("d", false).failure().code, FailureCode::Conflict);
    assert!(!make("d", true).reply::<DirectoryMade>().created);
    assert_eq!(make("x/y", false).failure().code, FailureCode::NotFound);
    assert!(make("x/y/z", true).reply::<DirectoryMade>().created);
    assert_eq!(make("f", true).failure().code, FailureCode::Conflict);
    assert_eq!(make("f/x", true).failure().code, FailureCode::BadRequest);
    assert!(!make("", true).reply::<DirectoryMade>().created);
}

#[test]
fn a_move_replaces_only_when_asked_for() {
    let home = Home::new();
    let top = home.workspace();
    fs::create_dir_all(top.join("d/e")).unwrap();
    fs::write(top.join("a"), "a").unwrap();
    fs::write(top.join("b"), "b").unwrap();
    let rename = |from: &str, to: &str, replace| {
        let (from, to) = (home.path(from), home.path(to));
        home.ask(Operation::FileMove { root: home.root(), from, to, replace })
    };
    assert_eq!(rename("a", "b", false).failure().code, FailureCode::Conflict);
    assert!(rename("a", "b", true).reply::<FileMoved>().replaced);
    assert_eq!(fs::read(top.join("b")).unwrap(), b"a");
    assert_eq!(rename("a", "c", true).failure().code, FailureCode::NotFound);
    assert_eq!(rename("b", "no/c", true).failure().code, FailureCode::NotFound);
    assert_eq!(rename("d", "d/e/x", true).failure().code, FailureCode::BadRequest);
    assert_eq!(rename("b", "d", true).failure().code, FailureCode::Conflict);
    assert_eq!(rename("d/e", "moved", false).reply::<FileMoved>().kind, FileKind::Directory);
}

#[test]
fn many_named_files_come_in_one_connection() {
    use pyro_agent::wire::{FetchItem, emit_path};
    let home = Home::new();
    let top = home.workspace();
    fs::write(top.join("a"), vec![b'a'; 150_000]).unwrap();
    fs::write(top.join("empty"), "").unwrap();
    fs::write(top.join("huge"), vec![0; 300_000]).unwrap();
    symlink("a", top.join("link")).unwrap();
    fs::create_dir(top.join("d")).unwrap();
    let mut request = Vec::new();
    for path in ["a", "none", "empty", "huge", "link", "d", "link/x", "a/b"] {
        emit_path(path.as_bytes(), &mut request);
    }
    let operation = Operation::FilesOut { root: home.root(), max_bytes: 200_000 };
    let answer = home.send(operation.clone(), &request);
    assert!(answer.result.is_ok());
    let items: Vec<FetchItem> = answer.records().iter().map(|body| FetchItem::parse(body).unwrap()).collect();
    let (mut kinds, mut bytes) = (String::new(), 0);
    for item in &items {
        kinds.push(match item {
            FetchItem::Absent => '-',
            FetchItem::Content(_) => '(',
            FetchItem::TooLarge(_) => '!',
            FetchItem::Bare(facts) => {
                if facts.link_target.is_some() {
                    'l'
                } else {
                    'b'
                }
            }
            FetchItem::Chunk(chunk) => {
                bytes += chunk.len();
                '.'
            }
            FetchItem::End => ')',
        });
    }
    assert_eq!((kinds.as_str(), bytes), ("(...)-()!lb--", 150_000));
    let mut bad = Vec::new();
    emit_path(b"../etc/passwd", &mut bad);
    assert_eq!(home.send(operation.clone(), &bad).failure().code, FailureCode::BadRequest);
    assert_eq!(home.send(operation, &[9, 0, 0, 0]).failure().code, FailureCode::BadRequest);
}
