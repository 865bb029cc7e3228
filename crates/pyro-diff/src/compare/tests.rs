use super::*;

const DAY_NS: i128 = 86_400_000_000_000;

/// A baseline in memory.
struct Fixed(Vec<Entry>);

impl BaselineTree for Fixed {
    fn walk(&self, _: &[u8], visit: &mut dyn FnMut(Entry) -> Result<(), DiskError>) -> Result<(), DiskError> {
        self.0.iter().cloned().try_for_each(visit)
    }

    fn read_file(&self, path: &[u8], _: u64) -> Result<Vec<u8>, DiskError> {
        Err(DiskError::not_found(path))
    }
}

fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry {
        path: path.into(),
        kind,
        mode: 0o644,
        size: 5,
        mtime_ns: DAY_NS,
        ctime_ns: Some(2 * DAY_NS),
        ino: Some(path.len() as u64 + 100),
        link_target: Vec::new(),
    }
}

fn file(path: &str) -> Entry {
    entry(path, EntryKind::File)
}

fn directory(path: &str) -> Entry {
    entry(path, EntryKind::Directory)
}

/// The differences between trees; the baseline's newest entry is another one, a day later.
fn compared(old: &[Entry], new: &[Entry]) -> Vec<Difference> {
    let newest = Entry { ctime_ns: Some(3 * DAY_NS), size: 0, ..file("~newest") };
    let baseline = Fixed(old.iter().cloned().chain([newest.clone()]).collect());
    let mut comparison = Comparison::open(&baseline, b"").unwrap();
    for entry in new.iter().cloned().chain([newest]) {
        comparison.observe(entry).unwrap();
    }
    comparison.finish()
}

fn told(old: &[Entry], new: &[Entry]) -> Vec<(String, Status, Certainty)> {
    compared(old, new)
        .into_iter()
        .map(|difference| {
            (String::from_utf8(difference.path).unwrap(), difference.status, difference.certainty)
        })
        .collect()
}

#[test]
fn what_agrees_in_everything_is_unchanged() {
    assert_eq!(
        told(&[file("a"), directory("d"), file("d/b")], &[file("d/b"), file("a"), directory("d")]),
        []
    );
}

#[test]
fn a_file_written_again_with_its_old_time_restored_is_suspected() {
    let touched = Entry { ctime_ns: Some(2 * DAY_NS + 1), ..file("a") };
    let found = compared(&[file("a")], &[touched]);
    assert_eq!((found.len(), found[0].certainty, found[0].needs_content), (1, Certainty::Suspected, true));
    assert_eq!(found[0].clone().settle(true), None);
    assert_eq!(found[0].clone().settle(false).unwrap().certainty, Certainty::Proven);
    let other_inode = Entry { ino: Some(7), ..file("a") };
    assert_eq!(told(&[file("a")], &[other_inode]).len(), 1);
    let unknown = Entry { ctime_ns: None, ino: None, ..file("a") };
    assert_eq!(told(&[file("a")], &[unknown])[0].2, Certainty::Suspected);
}

#[test]
fn the_newest_files_of_a_baseline_are_always_suspected() {
    let newest = Entry { ctime_ns: Some(3 * DAY_NS - 1), ..file("a") };
    assert_eq!(told(std::slice::from_ref(&newest), std::slice::from_ref(&newest))[0].2, Certainty::Suspected);
}

#[test]
fn sizes_modes_kinds_and_targets_prove_a_difference() {
    let link = |target: &str| Entry { link_target: target.into(), ..entry("a", EntryKind::Symlink) };
    let cases = [
        (file("a"), Entry { size: 6, ..file("a") }, Status::Modified),
        (file("a"), Entry { mode: 0o755, ..file("a") }, Status::Modified),
        (directory("a"), Entry { mode: 0o755, ..directory("a") }, Status::Modified),
        (file("a"), directory("a"), Status::TypeChanged),
        (link("x"), link("y"), Status::Modified),
    ];
    for (old, new, status) in cases {
        assert_eq!(told(&[old], &[new]), [("a".into(), status, Certainty::Proven)]);
    }
    assert_eq!(told(&[link("x")], &[Entry { mode: 0o777, ctime_ns: Some(9), ..link("x") }]), []);
}

#[test]
fn directories_that_come_or_go_are_told_only_if_they_are_empty() {
    let old = [directory("gone"), directory("gone/full"), file("gone/full/x"), directory("left")];
    let new = [
        file("came/full/y"),
        directory("came/full"),
        directory("came"),
        directory("fresh"),
        directory("left"),
        file("left/z"),
    ];
    let found: Vec<_> = told(&old, &new).into_iter().map(|(path, status, _)| (path, status)).collect();
    let expected = [
        ("came/full/y", Status::Added),
        ("fresh", Status::Added),
        ("gone/full/x", Status::Deleted),
        ("left/z", Status::Added),
    ];
    assert_eq!(found, expected.map(|(path, status)| (path.to_owned(), status)));
}

#[test]
fn impossible_lists_are_refused() {
    let mut comparison = Comparison::open(&Fixed(vec![file("a")]), b"").unwrap();
    assert!(matches!(comparison.observe(file("../a")), Err(CompareError::Path { .. })));
    comparison.observe(file("a")).unwrap();
    assert!(matches!(comparison.observe(file("a")), Err(CompareError::Twice { .. })));
    comparison.observe(file("b")).unwrap();
    assert!(matches!(comparison.observe(file("b")), Err(CompareError::Twice { .. })));
}
