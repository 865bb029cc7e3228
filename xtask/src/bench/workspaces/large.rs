//! A tree as large as a package registry: there and back again, bit for bit, with its times and memory.

use std::fs::{self, File, Metadata, Permissions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use super::client::{Client, peak_kibibytes};
use super::{Bound, CHANGED_FILES, Diff, Table, parse, text, trees};

/// Files of the tree, of [`FILE_BYTES`] each.
const FILES: usize = 100_000;
const FILE_BYTES: usize = 3000;
/// Every so many files one has a link beside it, another mode, another time.
const SPECIAL: usize = 50;
/// A time long ago, in seconds since the Unix epoch.
const LONG_AGO: Duration = Duration::new(1_000_000_000, 123_456_789);
const MODES: [u32; 4] = [0o755, 0o600, 0o444, 0o640];

/// Measures seed, diff and export of the tree, and fails where it does not come back as it was.
pub(super) fn measure(client: &Client, table: &mut Table) -> Result<()> {
    let tree = client.place().join("large");
    trees::write(&tree, FILES, FILE_BYTES)?;
    vary(&tree).context("cannot vary the tree")?;
    let create = ["create", "debian:12", "--id-only", "--ttl-seconds", "0", "--seed-path", text(&tree)?];
    let created = client.run(&create)?;
    let id = created.stdout.trim();
    let name = |what: &str| format!("{what}, {FILES} files");
    table.add(&name("workspace create"), created.took.as_secs_f64(), "s", Bound::None);
    let mebibytes = |kibibytes: u64| kibibytes as f64 / 1024.0;
    table.add("memory of that", mebibytes(created.peak_kibibytes), "MiB", Bound::AtMost(64.0));

    let exported = client.place().join("large back");
    let ran = client.run(&["export", id, ".", "--output", text(&exported)?])?;
    table.add(&name("workspace export"), ran.took.as_secs_f64(), "s", Bound::None);
    table.add("memory of that", mebibytes(ran.peak_kibibytes), "MiB", Bound::AtMost(64.0));
    let seen = compare(&tree, &exported)?;
    ensure!(seen > FILES, "only {seen} entries were compared");

    let change = format!("for n in $(seq 0 {}); do echo changed >> d1/f10$n; done", CHANGED_FILES - 1);
    client.shell(id, &change)?;
    let ran = client.run(&["diff", id, "--json"])?;
    let found = parse::<Diff>(&ran.stdout)?.summary.total;
    ensure!(found == CHANGED_FILES, "the diff tells {found} changes of {CHANGED_FILES}");
    let diff = format!("workspace diff, {CHANGED_FILES} files of {FILES} changed");
    table.add(&diff, ran.took.as_secs_f64(), "s", Bound::None);
    table.add("memory of that", mebibytes(ran.peak_kibibytes), "MiB", Bound::AtMost(256.0));
    let supervisor = client.supervisor().context("the workspace's supervisor is not to be found")?;
    let peak = peak_kibibytes(supervisor).context("the supervisor's memory is not to be read")?;
    table.add("memory of the supervisor at last", mebibytes(peak), "MiB", Bound::AtMost(64.0));
    client.run(&["delete", id]).map(|_| ())
}

/// Gives some files of a tree of [`trees::write`] other modes, times and names.
fn vary(tree: &Path) -> std::io::Result<()> {
    for directory in fs::read_dir(tree)? {
        let directory = directory?.path();
        for (number, file) in
            fs::read_dir(&directory)?.collect::<std::io::Result<Vec<_>>>()?.iter().enumerate()
        {
            match number % SPECIAL {
                0 => symlink(file.file_name(), directory.join(format!("link{number}")))?,
                1 => fs::hard_link(file.path(), directory.join(format!("name{number}")))?,
                2 => File::open(file.path())?.set_modified(UNIX_EPOCH + LONG_AGO)?,
                mode => fs::set_permissions(file.path(), Permissions::from_mode(MODES[mode % MODES.len()]))?,
            }
        }
    }
    Ok(())
}

/// Fails at the first difference: names, kinds, modes, times, contents, targets, other names. Gives how many
/// entries are alike.
fn compare(one: &Path, other: &Path) -> Result<usize> {
    let (here, there) = (facts(one)?, facts(other)?);
    ensure!(here == there, "{} has {there:?} instead of {here:?}", other.display());
    if one.symlink_metadata()?.is_dir() {
        let (names, others) = (names(one)?, names(other)?);
        ensure!(names == others, "{} has other names", other.display());
        return names
            .iter()
            .try_fold(1, |seen, name| compare(&one.join(name), &other.join(name)).map(|below| seen + below));
    }
    Ok(1)
}

/// What must be the same of one entry.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    mode: u32,
    modified: (i64, i64),
    names: u64,
    content_hash: Vec<u8>,
}

fn facts(path: &Path) -> Result<Facts> {
    use sha2::{Digest as _, Sha256};
    let told = || format!("cannot read {}", path.display());
    let found: Metadata = path.symlink_metadata().with_context(told)?;
    let content = match (found.is_file(), found.is_symlink()) {
        (true, _) => fs::read(path).with_context(told)?,
        (_, true) => fs::read_link(path).with_context(told)?.as_os_str().as_bytes().to_vec(),
        _ => Vec::new(),
    };
    Ok(Facts {
        mode: found.mode(),
        modified: (found.mtime(), found.mtime_nsec()),
        names: if found.is_dir() { 0 } else { found.nlink() },
        content_hash: Sha256::digest(&content).to_vec(),
    })
}

fn names(directory: &Path) -> Result<Vec<std::ffi::OsString>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let mut names = entries.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(place: &Path) {
        trees::write(place, 120, 10).unwrap();
        vary(place).unwrap();
        for directory in ["d0", "d1", ""] {
            File::open(place.join(directory)).unwrap().set_modified(UNIX_EPOCH + LONG_AGO).unwrap();
        }
    }

    #[test]
    fn trees_that_differ_in_anything_are_told_apart() {
        let top = tempfile::tempdir().unwrap();
        let (one, other) = (top.path().join("one"), top.path().join("other"));
        let copy = || {
            let _ = fs::remove_dir_all(&other);
            let copied = std::process::Command::new("cp").arg("-a").args([&one, &other]).status();
            assert!(copied.unwrap().success());
        };
        tree(&one);
        copy();
        assert_eq!(compare(&one, &other).unwrap(), 3 + 120 + 6);
        let file = other.join("d0/f7");
        fs::write(other.join("d0/more"), "").unwrap();
        assert!(compare(&one, &other).is_err());
        copy();
        fs::set_permissions(&file, Permissions::from_mode(0o700)).unwrap();
        assert!(compare(&one, &other).is_err());
        copy();
        File::open(&file).unwrap().set_modified(UNIX_EPOCH).unwrap();
        assert!(compare(&one, &other).is_err());
        copy();
        fs::hard_link(&file, top.path().join("another name")).unwrap();
        assert!(compare(&one, &other).is_err());
    }
}
