use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use pyro_agent::wire::{FailureCode, FileTime, Operation};

use super::*;
use crate::harness::{Answer, Home, picture};

/// Changes as the host sends them.
#[derive(Default)]
struct Script(Vec<u8>);

impl Script {
    fn change(mut self, path: &str, expected: Expected, action: ChangeAction) -> Self {
        ChangeItem::Change(Change { path: path.into(), expected, action }).emit(&mut self.0);
        self
    }

    fn write_if(self, path: &str, expected: Expected, content: &[u8], mode: Option<u32>) -> Self {
        let mut script = self.change(path, expected, ChangeAction::Write { mode });
        for chunk in content.chunks(pyro_agent::wire::DATA_CHUNK_BYTES) {
            ChangeItem::Chunk(chunk.to_vec()).emit(&mut script.0);
        }
        ChangeItem::End.emit(&mut script.0);
        script
    }

    fn write(self, path: &str, content: &str) -> Self {
        self.write_if(path, Expected::Any, content.as_bytes(), None)
    }

    fn remove(self, path: &str) -> Self {
        self.change(path, Expected::Any, ChangeAction::Remove)
    }

    fn chmod(self, path: &str, mode: u32) -> Self {
        self.change(path, Expected::Any, ChangeAction::Chmod { mode })
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.change(path, Expected::Any, ChangeAction::Symlink { target: target.into() })
    }

    fn run(&self, home: &Home) -> Answer {
        let answer = home.send(Operation::Apply { root: home.root(), prune: true }, &self.0);
        home.assert_no_stage();
        answer
    }
}

fn sample() -> Home {
    let home = Home::new();
    let top = home.workspace();
    fs::create_dir_all(top.join("d/e")).unwrap();
    for (path, text) in [("a", "a"), ("d/b", "b"), ("d/e/c", "c"), ("run", "#!")] {
        fs::write(top.join(path), text).unwrap();
    }
    fs::set_permissions(top.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("a", top.join("l")).unwrap();
    home
}

fn sha(text: &str) -> Expected {
    Expected::Content(Sha256::digest(text).into())
}

#[test]
fn a_transaction_of_every_sort_is_applied() {
    let home = sample();
    let big = vec![b'x'; 200_000];
    let script = Script::default()
        .write_if("a", sha("a"), b"new a", None)
        .write_if("n/m/new", Expected::Absent, &big, Some(0o600))
        .write("run", "#!/bin/sh")
        .remove("d/e/c")
        .chmod("d/b", 0o755)
        .change("l", sha("a"), ChangeAction::Symlink { target: b"d/b".to_vec() });
    let applied: Applied = script.run(&home).reply();
    assert_eq!((applied.written_count, applied.removed_count, applied.chmod_count), (4, 1, 1));
    assert_eq!(applied.bytes_written, 200_000 + 5 + 9);
    let top = home.workspace();
    let mode = |path: &str| fs::metadata(top.join(path)).unwrap().mode() & 0o7777;
    assert_eq!(fs::read(top.join("a")).unwrap(), b"new a");
    assert!(fs::read(top.join("n/m/new")).unwrap() == big);
    assert_eq!((mode("a"), mode("n/m/new"), mode("run"), mode("d/b")), (0o644, 0o600, 0o755, 0o755));
    assert!(!top.join("d/e").exists() && top.join("d").exists());
    assert_eq!(fs::read_link(top.join("l")).unwrap(), std::path::Path::new("d/b"));
}

#[test]
fn files_and_directories_change_places() {
    let home = sample();
    let script = Script::default()
        .remove("d/b")
        .remove("d/e/c")
        .write("d", "a file now")
        .remove("a")
        .write("a/b/c", "a directory now");
    script.run(&home).reply::<Applied>();
    assert_eq!(fs::read(home.workspace().join("d")).unwrap(), b"a file now");
    assert_eq!(fs::read(home.workspace().join("a/b/c")).unwrap(), b"a directory now");
}

#[test]
fn a_failure_takes_every_change_back() {
    let home = sample();
    fs::create_dir(home.workspace().join("d/keep")).unwrap();
    fs::set_permissions(home.workspace().join("d/e"), fs::Permissions::from_mode(0o711)).unwrap();
    let before = picture(&home.workspace());
    let started = || {
        Script::default()
            .remove("d/b")
            .remove("d/e/c")
            .write("d/e", "a file where a directory was")
            .write("a", "changed")
            .write("x/y/z", "new")
            .symlink("l", "elsewhere")
            .chmod("run", 0o600)
    };
    // Each fails only after all the others have happened.
    for script in [started().write("d", "not empty"), started().write("l/x", "through a link")] {
        let answer = script.run(&home);
        assert!(answer.result.is_err(), "{answer:?}");
        assert_eq!(picture(&home.workspace()), before);
    }
    home.leave_after(Operation::Apply { root: home.root(), prune: true }, &started().0);
    home.assert_no_stage();
    assert_eq!(picture(&home.workspace()), before);
}

#[test]
fn what_has_changed_meanwhile_is_refused() {
    let home = sample();
    let metadata = fs::metadata(home.workspace().join("a")).unwrap();
    let nanos = u32::try_from(metadata.mtime_nsec()).unwrap();
    let mtime = FileTime { seconds: metadata.mtime(), nanos };
    let same = Expected::Unchanged { size_bytes: 1, mtime };
    let before = picture(&home.workspace());
    let cases = [
        ("a", Expected::Absent, FailureCode::Conflict),
        ("none", sha("x"), FailureCode::NotFound),
        ("a", sha("x"), FailureCode::Conflict),
        ("d", sha("x"), FailureCode::Conflict),
        ("l", sha("x"), FailureCode::Conflict),
        ("a", Expected::Unchanged { size_bytes: 2, mtime }, FailureCode::Conflict),
        ("a", Expected::Unchanged { size_bytes: 1, mtime: FileTime::default() }, FailureCode::Conflict),
    ];
    for (path, expected, code) in cases {
        let answer = Script::default().write("z", "z").write_if(path, expected, b"y", None).run(&home);
        assert_eq!(answer.failure().code, code, "{path} {expected:?} {answer:?}");
        assert!(answer.failure().message.ends_with(path), "{answer:?}");
        assert_eq!(picture(&home.workspace()), before);
    }
    Script::default().write_if("a", same, b"y", None).run(&home).reply::<Applied>();
}

#[test]
fn bad_transactions_are_refused() {
    let home = sample();
    let before = picture(&home.workspace());
    let mut unfinished = Script::default().change("u", Expected::Any, ChangeAction::Write { mode: None });
    ChangeItem::Chunk(b"x".to_vec()).emit(&mut unfinished.0);
    let mut orphan = Script::default();
    ChangeItem::End.emit(&mut orphan.0);
    let scripts = [
        Script::default().write("a", "1").write("./a", "2"),
        Script::default().write("../a", "1"),
        Script::default().write("/a", "1"),
        Script::default().remove("none"),
        Script::default().remove("d"),
        Script::default().chmod("d", 0o700),
        Script::default().chmod("l", 0o700),
        Script::default().write("d", "x"),
        Script::default().write("l/x", "x"),
        Script::default().write("a/x", "x"),
        unfinished,
        orphan,
        Script(vec![1, 0, 0, 0, 77]),
    ];
    for (index, script) in scripts.iter().enumerate() {
        let answer = script.run(&home);
        assert!(answer.result.is_err(), "{index}: {answer:?}");
        assert_eq!(picture(&home.workspace()), before, "{index}");
    }
}
