//! The Debian package: an `ar` archive of two tar archives and a version.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};

use super::date::Date;
use super::elf::{Glibc, Needs};
use super::tarball::{gzip, tar};
use super::tree::Tree;

/// The package of `tree`, installed below `/usr`.
pub(super) fn package(tree: &Tree, version: &str, needs: &Needs, date: Date) -> Result<Vec<u8>> {
    let mut control = Tree::default();
    control.add("control", control_file(tree, version, needs)?);
    let members = [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar.gz", gzip(&tar(&control, "./", date)?)?),
        ("data.tar.gz", gzip(&tar(tree, "./usr/", date)?)?),
    ];
    ar(&members, date)
}

fn control_file(tree: &Tree, version: &str, needs: &Needs) -> Result<String> {
    Ok(format!(
        "\
Package: pyro
Version: {version}
Architecture: amd64
Maintainer: pyro developers <pyro@localhost>
Installed-Size: {}
Depends: {}
Recommends: ca-certificates, git
Section: devel
Priority: optional
Description: disposable Linux microVMs for AI agents
 pyro runs commands in disposable Linux microVMs, or in workspaces that are kept,
 without root and without a daemon. Each machine has its own kernel, a
 copy-on-write disk, and no network but the one a policy gives it.
 .
 This package has the pyro command, the machine program and the guest kernel.
",
        tree.len_bytes().div_ceil(1024),
        depends(needs)?,
    ))
}

/// The packages that have what the programs load and start.
fn depends(needs: &Needs) -> Result<String> {
    // The emulated engine's processors; 7.2 is the oldest that was tried.
    let mut packages = BTreeSet::from(["qemu-system-x86 (>= 1:7.2)".to_owned()]);
    for library in &needs.libraries {
        packages.insert(package_of(library, needs.glibc)?);
    }
    Ok(packages.into_iter().collect::<Vec<_>>().join(", "))
}

fn package_of(library: &str, glibc: Glibc) -> Result<String> {
    match library {
        "libc.so.6" | "libm.so.6" | "ld-linux-x86-64.so.2" => Ok(format!("libc6 (>= {glibc})")),
        "libgcc_s.so.1" => Ok("libgcc-s1 (>= 4.2)".to_owned()),
        _ => bail!("a program needs {library}, and no Debian package is known for it"),
    }
}

/// Members as `ar` has them: sixty bytes about each, each on an even offset.
fn ar(members: &[(&str, Vec<u8>)], date: Date) -> Result<Vec<u8>> {
    let mut bytes = b"!<arch>\n".to_vec();
    for (name, contents) in members {
        let header =
            format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", date.0, 0, 0, "100644", contents.len());
        (header.len() == 60).then_some(()).with_context(|| format!("{name} does not fit into ar"))?;
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(contents);
        if contents.len() % 2 == 1 {
            bytes.push(b'\n');
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use super::*;

    fn needs() -> Needs {
        Needs {
            glibc: Glibc { major: 2, minor: 34 },
            libraries: ["libc.so.6", "libm.so.6", "libgcc_s.so.1"].map(str::to_owned).into(),
        }
    }

    fn made() -> Vec<u8> {
        let mut tree = Tree::default();
        tree.add_program("bin/pyro", "program");
        tree.add("share/pyro/guest/vmlinux", vec![7; 3000]);
        package(&tree, "1.2.3", &needs(), Date(1_700_000_000)).unwrap()
    }

    /// Name and contents of each member, by ar's own rules.
    fn members(package: &[u8]) -> Vec<(String, Vec<u8>)> {
        let mut rest = package.strip_prefix(b"!<arch>\n").unwrap();
        let mut members = Vec::new();
        while !rest.is_empty() {
            let (header, after) = rest.split_at(60);
            let header = std::str::from_utf8(header).unwrap();
            assert_eq!(&header[58..], "`\n");
            assert_eq!(header[16..28].trim(), "1700000000");
            let len: usize = header[48..58].trim().parse().unwrap();
            members.push((header[..16].trim().to_owned(), after[..len].to_vec()));
            rest = after.get(len.next_multiple_of(2)..).unwrap_or_default();
        }
        members
    }

    fn unpacked(member: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(member));
        let files = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
            let mut contents = Vec::new();
            entry.read_to_end(&mut contents).unwrap();
            (path, contents)
        });
        files.collect()
    }

    #[test]
    fn the_package_has_its_members_in_the_order_that_dpkg_wants() {
        let members = members(&made());
        let names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["debian-binary", "control.tar.gz", "data.tar.gz"]);
        assert_eq!(members[0].1, b"2.0\n");
        let control = unpacked(&members[1].1);
        let control = String::from_utf8(control["./control"].clone()).unwrap();
        assert!(control.contains("Version: 1.2.3\nArchitecture: amd64\n"), "{control}");
        assert!(control.contains("Installed-Size: 3\n"), "{control}");
        let depends = "Depends: libc6 (>= 2.34), libgcc-s1 (>= 4.2), qemu-system-x86 (>= 1:7.2)\n";
        assert!(control.contains(depends), "{control}");
        let data = unpacked(&members[2].1);
        assert_eq!(data["./usr/bin/pyro"], b"program");
        assert_eq!(data["./usr/share/pyro/guest/vmlinux"].len(), 3000);
    }

    #[test]
    fn dpkg_reads_the_package() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pyro.deb");
        std::fs::write(&path, made()).unwrap();
        let field = |field: &str| {
            std::process::Command::new("dpkg-deb").arg("--field").arg(&path).arg(field).output()
        };
        let Ok(version) = field("Version") else {
            println!("skipped (there is no dpkg-deb)");
            return;
        };
        assert_eq!(String::from_utf8_lossy(&version.stdout), "1.2.3\n", "{version:?}");
        assert_eq!(field("Package").unwrap().stdout, b"pyro\n");
    }

    #[test]
    fn a_library_that_no_package_is_known_for_stops_the_release() {
        let mut needs = needs();
        needs.libraries.insert("libssl.so.3".to_owned());
        assert!(depends(&needs).unwrap_err().to_string().contains("libssl.so.3"));
    }
}
