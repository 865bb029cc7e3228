use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use pyro_agent::wire::{FailureCode, Operation};

use super::*;
use crate::harness::{Answer, Home, picture};

/// A tree as `TreeOut` sends it.
fn archive(home: &Home, path: &str) -> Vec<u8> {
    home.ask(Operation::TreeOut { path: home.path(path).to_string() }).data
}

fn sync(home: &Home, path: &str, data: &[u8]) -> Answer {
    let answer = home.send(Operation::SyncIn { root: home.root(), path: home.path(path) }, data);
    home.assert_no_stage();
    answer
}

/// A home whose workspace holds a tree to send, and the archive of it.
fn source() -> (Home, Vec<u8>) {
    let home = Home::new();
    let top = home.workspace();
    fs::create_dir_all(top.join("src/deep/er")).unwrap();
    fs::create_dir(top.join("src/empty")).unwrap();
    fs::write(top.join("src/a"), "new a").unwrap();
    fs::write(top.join("src/deep/b"), "new b").unwrap();
    fs::hard_link(top.join("src/a"), top.join("src/deep/er/a")).unwrap();
    symlink("deep", top.join("src/link")).unwrap();
    fs::set_permissions(top.join("src/deep"), fs::Permissions::from_mode(0o750)).unwrap();
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    for path in ["src/deep/er", "src/deep", "src/empty", "src"] {
        fs::File::open(top.join(path)).unwrap().set_modified(old).unwrap();
    }
    let bytes = archive(&home, "src");
    (home, bytes)
}

#[test]
fn a_new_directory_is_the_tree_as_it_was_sent() {
    let (home, bytes) = source();
    let stats: TreeStats = sync(&home, "some/where", &bytes).reply();
    assert_eq!(stats.entry_count, 8);
    assert_eq!(picture(&home.workspace().join("src")), picture(&home.workspace().join("some/where")));
    let mtime = |path: &str| fs::metadata(home.workspace().join(path)).unwrap().mtime();
    assert_eq!((mtime("some/where/deep"), mtime("some/where")), (1_000_000, 1_000_000));
}

#[test]
fn an_existing_directory_is_merged_with() {
    let (home, bytes) = source();
    let to = home.workspace().join("to");
    fs::create_dir_all(to.join("deep/mine")).unwrap();
    fs::write(to.join("a"), "old a").unwrap();
    fs::write(to.join("kept"), "kept").unwrap();
    fs::write(to.join("deep/mine/c"), "kept").unwrap();
    symlink("nowhere", to.join("link")).unwrap();
    sync(&home, "to", &bytes).reply::<TreeStats>();
    let text = |path: &str| fs::read_to_string(to.join(path)).unwrap();
    assert_eq!(
        (text("a"), text("deep/b"), text("kept"), text("deep/mine/c")),
        ("new a".into(), "new b".into(), "kept".into(), "kept".into())
    );
    assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("deep"));
    assert!(to.join("empty").is_dir());
    let meta = |path: &str| fs::metadata(to.join(path)).unwrap();
    assert_eq!(meta("a").ino(), meta("deep/er/a").ino());
    assert_eq!((meta("deep").mode() & 0o7777, meta("deep").mtime()), (0o750, 1_000_000));
    assert_eq!(meta("").mtime(), 1_000_000);
}

#[test]
fn directories_that_the_archive_does_not_name_keep_their_mode() {
    let home = Home::new();
    let to = home.workspace().join("to");
    fs::create_dir_all(to.join("d")).unwrap();
    fs::set_permissions(to.join("d"), fs::Permissions::from_mode(0o700)).unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    header.set_uid(rustix::process::getuid().as_raw().into());
    header.set_gid(rustix::process::getgid().as_raw().into());
    builder.append_data(&mut header, "d/f", &b"x"[..]).unwrap();
    sync(&home, "to", &builder.into_inner().unwrap()).reply::<TreeStats>();
    assert_eq!(fs::metadata(to.join("d")).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(fs::read(to.join("d/f")).unwrap(), b"x");
}

#[test]
fn conflicts_are_refused_before_anything_is_changed() {
    for (blocked, directory) in [("deep", false), ("a", true), ("link", true), ("deep/er/a", true)] {
        let (home, bytes) = source();
        let to = home.workspace().join("to");
        fs::create_dir_all(to.join("deep")).unwrap();
        fs::remove_dir(to.join("deep")).unwrap();
        match directory {
            true => fs::create_dir_all(to.join(blocked).join("x")).unwrap(),
            false => symlink("elsewhere", to.join(blocked)).unwrap(),
        }
        let before = picture(&home.workspace());
        let answer = sync(&home, "to", &bytes);
        assert_eq!(answer.failure().code, FailureCode::Conflict, "{answer:?}");
        assert!(answer.failure().message.contains("conflicts with existing path: "), "{answer:?}");
        assert_eq!(picture(&home.workspace()), before);
    }
    let (home, bytes) = source();
    assert_eq!(sync(&home, "src/a", &bytes).failure().code, FailureCode::Conflict);
    assert_eq!(sync(&home, "src/link/x", &bytes).failure().code, FailureCode::BadRequest);
}

#[test]
fn an_incomplete_archive_changes_nothing() {
    let (home, bytes) = source();
    fs::create_dir(home.workspace().join("to")).unwrap();
    let before = picture(&home.workspace());
    for at in [0, 1, 700, bytes.len() / 2, bytes.len() - 1024] {
        assert!(sync(&home, "to", &bytes[..at]).result.is_err(), "cut at {at}");
        let operation = Operation::SyncIn { root: home.root(), path: home.path("to") };
        home.leave_after(operation, &bytes[..at.max(1)]);
        home.assert_no_stage();
        assert_eq!(picture(&home.workspace()), before);
    }
}

#[test]
fn what_an_earlier_boot_left_is_cleared() {
    let home = Home::new();
    let staging = Staging::new(home.staging());
    fs::create_dir_all(home.staging().join("old/tree/deep")).unwrap();
    fs::write(home.staging().join("old/tree/deep/f"), "x").unwrap();
    staging.clear_in_background();
    let stage = staging.create().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while home.staging().join("old").exists() {
        assert!(std::time::Instant::now() < deadline, "the old stage stays");
        std::thread::yield_now();
    }
    assert!(stage.path().is_dir());
    drop(stage);
    home.assert_no_stage();
    Staging::new(home.workspace().join("none/at/all")).clear_in_background();
}
