use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;

use pyro_agent::wire::{Entry, FailureCode, Operation};

use super::*;
use crate::harness::{Answer, Home};

fn entries(answer: &Answer) -> Vec<Entry> {
    answer.records().iter().map(|body| Entry::parse(body).unwrap()).collect()
}

fn paths(answer: &Answer) -> Vec<String> {
    entries(answer).iter().map(|entry| entry.path.escape_ascii().to_string()).collect()
}

fn sample() -> Home {
    let home = Home::new();
    let top = home.workspace();
    std::fs::create_dir_all(top.join("b/inner")).unwrap();
    std::fs::write(top.join("b/inner/z"), "12345").unwrap();
    std::fs::write(top.join("b/a"), "").unwrap();
    std::fs::write(top.join("b.txt"), "x").unwrap();
    symlink("b/a", top.join("a")).unwrap();
    std::fs::write(top.join(OsStr::from_bytes(b"\xff\n")), "y").unwrap();
    home
}

fn list(home: &Home, path: GuestPath, recursive: bool, limit: u64) -> Answer {
    home.ask(Operation::FileList { root: home.root(), path, recursive, limit })
}

#[test]
fn a_listing_is_sorted_depth_first() {
    let home = sample();
    let answer = list(&home, home.root(), true, 100);
    let sorted = ["a", "b", "b/a", "b/inner", "b/inner/z", "b.txt", "\\xff\\n"];
    assert_eq!(paths(&answer), sorted);
    assert_eq!(answer.reply::<Listed>(), Listed { count: 7, truncated: false });
    let flat = list(&home, home.root(), false, 100);
    assert_eq!(paths(&flat), ["a", "b", "b.txt", "\\xff\\n"]);
    let entries = entries(&answer);
    assert_eq!(entries[0].facts.link_target, Some(GuestPath::from("b/a")));
    assert_eq!((entries[1].facts.kind, entries[1].facts.size_bytes), (FileKind::Directory, 0));
    assert_eq!(entries[4].facts.size_bytes, 5);
}

#[test]
fn a_walk_gives_what_a_recursive_listing_gives() {
    let home = sample();
    let walk = home.ask(Operation::Walk { path: home.root() });
    assert_eq!(walk.data, list(&home, home.root(), true, u64::MAX).data);
    assert_eq!(walk.reply::<Listed>().count, 7);
    let missing = home.ask(Operation::Walk { path: home.path("none") });
    assert_eq!(missing.failure().code, FailureCode::NotFound);
    assert!(missing.failure().message.starts_with("workspace path does not exist: "));
}

#[test]
fn a_limit_cuts_the_listing_and_says_so() {
    let home = sample();
    let answer = list(&home, home.root(), true, 3);
    assert_eq!(paths(&answer), ["a", "b", "b/a"]);
    assert_eq!(answer.reply::<Listed>(), Listed { count: 3, truncated: true });
    assert!(!list(&home, home.root(), true, 7).reply::<Listed>().truncated);
}

#[test]
fn listing_a_file_or_a_link_gives_that_one_entry() {
    let home = sample();
    for (path, kind) in [("b.txt", FileKind::File), ("a", FileKind::Symlink)] {
        let answer = list(&home, home.path(path), true, 10);
        let entries = entries(&answer);
        assert_eq!((entries.len(), &entries[0].path[..], entries[0].facts.kind), (1, &b""[..], kind));
    }
    assert!(list(&home, home.path("a/x"), false, 10).failure().message.contains("symlinked parent"));
    assert_eq!(list(&home, home.path("nope"), false, 10).failure().code, FailureCode::NotFound);
}

#[test]
fn ten_thousand_files_arrive_in_order() {
    let home = Home::new();
    for directory in 0..20 {
        let at = home.workspace().join(format!("d{directory:02}"));
        std::fs::create_dir(&at).unwrap();
        (0..500).for_each(|n| std::fs::write(at.join(format!("f{n:03}")), "").unwrap());
    }
    let answer = home.ask(Operation::Walk { path: home.root() });
    let paths = paths(&answer);
    assert_eq!(paths.len(), 20 * 501);
    assert!(paths.is_sorted());
}

#[test]
fn directories_nested_too_deep_are_refused() {
    let home = Home::new();
    let mut at =
        rustix::fs::open(home.workspace(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..=MAX_TREE_DEPTH {
        rustix::fs::mkdirat(&at, "d", Mode::from_raw_mode(0o755)).unwrap();
        at = open_below(at.as_fd(), b"d").unwrap();
    }
    let answer = home.ask(Operation::Walk { path: home.root() });
    assert!(answer.failure().message.starts_with("directories are nested too deep"), "{answer:?}");
    let removed =
        home.ask(Operation::FileRemove { root: home.root(), path: home.path("d"), recursive: true });
    assert_eq!(removed.reply::<pyro_agent::wire::FileRemoved>().count, MAX_TREE_DEPTH as u64 + 1);
}
