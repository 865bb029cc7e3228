//! Archives whose bytes come from the files alone: sorted, owned by root, all of one time.

use std::io::Write;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

use super::date::Date;
use super::tree::Tree;

/// `tree` below `prefix`, whose own directories come first, as a tar archive.
pub(super) fn tar(tree: &Tree, prefix: &str, date: Date) -> Result<Vec<u8>> {
    let mut archive = Builder::new(Vec::new());
    let above: Vec<&str> = prefix.match_indices('/').map(|(at, _)| &prefix[..at]).collect();
    for directory in above {
        append(&mut archive, EntryType::Directory, &format!("{directory}/"), 0o755, &[], date)?;
    }
    for directory in tree.directories() {
        append(&mut archive, EntryType::Directory, &format!("{prefix}{directory}/"), 0o755, &[], date)?;
    }
    for (path, file) in tree.files() {
        append(
            &mut archive,
            EntryType::Regular,
            &format!("{prefix}{path}"),
            file.mode,
            &file.contents,
            date,
        )?;
    }
    archive.into_inner().context("an archive in memory cannot fail")
}

fn append(
    archive: &mut Builder<Vec<u8>>,
    kind: EntryType,
    path: &str,
    mode: u32,
    contents: &[u8],
    date: Date,
) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_username("root")?;
    header.set_groupname("root")?;
    header.set_mtime(date.0);
    header.set_size(contents.len() as u64);
    // `set_path` would drop the `./` that members of Debian packages begin with.
    let name = &mut header.as_gnu_mut().context("the header was made as GNU's")?.name;
    let target = name.get_mut(..path.len()).with_context(|| format!("{path} is too long for its archive"))?;
    target.copy_from_slice(path.as_bytes());
    header.set_cksum();
    archive.append(&header, contents).with_context(|| format!("cannot add {path}"))
}

/// `bytes` compressed, without name and time.
pub(super) fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().write(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::default();
        tree.add_program("bin/pyro", "program");
        tree.add("share/pyro/guest/vmlinux", vec![0; 1000]);
        tree
    }

    #[test]
    fn the_archive_has_all_files_with_fixed_owners_times_and_modes() {
        let bytes = tar(&tree(), "./usr/", Date(77)).unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut seen = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let header = entry.header().clone();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 77));
            let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
            let mut contents = Vec::new();
            entry.read_to_end(&mut contents).unwrap();
            seen.push(format!("{path} {:o} {}", header.mode().unwrap(), contents.len()));
        }
        assert_eq!(
            seen,
            [
                "./ 755 0",
                "./usr/ 755 0",
                "./usr/bin/ 755 0",
                "./usr/share/ 755 0",
                "./usr/share/pyro/ 755 0",
                "./usr/share/pyro/guest/ 755 0",
                "./usr/bin/pyro 755 7",
                "./usr/share/pyro/guest/vmlinux 644 1000",
            ]
        );
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let make = |date| gzip(&tar(&tree(), "pyro/", Date(date)).unwrap()).unwrap();
        assert_eq!(make(5), make(5));
        assert_ne!(make(5), make(6));
        assert_eq!(make(5)[4..8], [0; 4], "gzip's header has no time");
    }

    #[test]
    fn a_path_that_does_not_fit_is_refused() {
        let mut tree = Tree::default();
        tree.add("x".repeat(101), "");
        assert!(tar(&tree, "", Date(0)).unwrap_err().to_string().contains("too long"));
    }
}
