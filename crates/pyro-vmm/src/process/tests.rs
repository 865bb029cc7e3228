use std::path::Path;

use super::*;
use crate::block::{self, DiskReader};

fn named(directory: &Path, name: &str) -> File {
    File::options().read(true).write(true).create(true).truncate(false).open(directory.join(name)).unwrap()
}

fn disk(
    directory: &Path,
    sealed: &[&str],
    delta: &str,
    size_bytes: Option<u64>,
) -> Result<Overlay, OpenError> {
    let base = tempfile::tempfile().unwrap();
    base.set_len(1 << 20).unwrap();
    let sealed = sealed.iter().map(|name| named(directory, name)).collect();
    open_disk(DiskFiles { base, sealed, delta: named(directory, delta) }, size_bytes, None)
}

#[test]
fn a_delta_has_one_machine_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let first = disk(directory, &[], "one", None).unwrap();
    assert!(matches!(disk(directory, &[], "one", None), Err(OpenError::Busy)));
    assert!(matches!(block::seal(&named(directory, "one")), Err(OpenError::Busy)));
    let reader = |name| DiskReader::open(tempfile::tempfile().unwrap(), vec![named(directory, name)]);
    assert!(matches!(reader("one"), Err(OpenError::Busy)));
    drop(first);
    let reading = reader("one").unwrap();
    assert!(matches!(disk(directory, &[], "one", None), Err(OpenError::Busy)));
    drop(reading);
    assert!(disk(directory, &[], "one", None).is_ok());
}

#[test]
fn a_replaced_delta_is_free_for_readers_and_the_new_one_is_locked() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let mut running = disk(directory, &[], "one", None).unwrap();
    running.replace_delta(named(directory, "two")).unwrap();
    // A fork while the first machine goes on.
    let fork = disk(directory, &["one"], "fork", None).unwrap();
    assert!(block::seal(&named(directory, "one")).is_ok());
    assert!(matches!(disk(directory, &["one"], "two", None), Err(OpenError::Busy)));
    drop((running, fork));
    assert!(disk(directory, &["one"], "two", None).is_ok());
    assert!(matches!(disk(directory, &[], "two", None), Err(OpenError::WrongParent)));
    assert!(matches!(disk(directory, &[], "one", None), Err(OpenError::Sealed)));
}

#[test]
fn a_disk_may_be_larger_than_its_base_but_not_smaller() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let large = disk(directory, &[], "large", Some(8 << 20)).unwrap();
    assert_eq!(large.size_bytes(), 8 << 20);
    drop(large);
    assert_eq!(disk(directory, &[], "large", None).unwrap().size_bytes(), 8 << 20);
    let other = disk(directory, &[], "large", Some(4 << 20));
    assert!(matches!(other, Err(OpenError::OtherSize { size_bytes, .. }) if size_bytes == 8 << 20));
    let small = disk(directory, &[], "small", Some(512 << 10));
    assert!(matches!(small, Err(OpenError::Shrinks { below_bytes, .. }) if below_bytes == 1 << 20));
}
