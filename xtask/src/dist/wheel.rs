//! The Python wheel: no Python in it, only the programs and their data, put where `pip` puts scripts and data.
//!
//! What is under `.data/scripts` goes to the environment's `bin`, what is under `.data/data` below its prefix, so that
//! `bin/pyro` finds `../share/pyro/guest` there.

use std::fmt::Write as _;
use std::io::{Cursor, Write};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::date::{Civil, Date};
use super::elf::Glibc;
use super::tree::{File, Tree};

/// The distribution's name, and the same as file names have it.
const NAME: &str = "pyro-mcp";
const FILE_NAME: &str = "pyro_mcp";

/// A wheel for one version of pyro.
pub(super) struct Wheel<'a> {
    pub(super) version: &'a str,
    pub(super) glibc: Glibc,
    /// What is read first on a package index, as Markdown.
    pub(super) description: &'a str,
    pub(super) date: Date,
}

impl Wheel<'_> {
    /// By the rules for names of wheels.
    pub(super) fn file_name(&self) -> String {
        format!("{FILE_NAME}-{}-{}.whl", self.version, self.tag())
    }

    fn tag(&self) -> String {
        format!("py3-none-manylinux_{}_{}_x86_64", self.glibc.major, self.glibc.minor)
    }

    /// The wheel's bytes. Of `tree`, `licences` and `bill` are copied to where Python's tools look for them.
    pub(super) fn pack(&self, tree: &Tree, licences: &[(&str, &[u8])], bill: &[u8]) -> Result<Vec<u8>> {
        let stem = format!("{FILE_NAME}-{}", self.version);
        let mut members = Tree::default();
        for (path, file) in tree.files() {
            add(&mut members, &stem, path, file);
        }
        // The rules ask for this directory to be the archive's last part.
        let mut about = Tree::default();
        about.add(format!("{stem}.dist-info/METADATA"), self.metadata(licences));
        about.add(format!("{stem}.dist-info/WHEEL"), self.wheel());
        about.add(format!("{stem}.dist-info/sboms/pyro.cdx.json"), bill);
        for (name, text) in licences {
            about.add(format!("{stem}.dist-info/licenses/{name}"), *text);
        }
        let record_path = format!("{stem}.dist-info/RECORD");
        let mut record = Tree::default();
        record.add(record_path.as_str(), record_of(&[&members, &about], &record_path));
        zip(&[&members, &about, &record], self.date)
    }

    fn metadata(&self, licences: &[(&str, &[u8])]) -> String {
        let mut text = format!(
            "\
Metadata-Version: 2.4
Name: {NAME}
Version: {}
Summary: Disposable Linux microVMs for AI agents
License-Expression: Apache-2.0 AND GPL-2.0-only AND LGPL-2.1-or-later
Requires-Python: >=3.8
Classifier: Environment :: Console
Classifier: Operating System :: POSIX :: Linux
Description-Content-Type: text/markdown
",
            self.version
        );
        for (name, _) in licences {
            let _ = writeln!(text, "License-File: {name}");
        }
        let _ = write!(text, "\n{}", self.description);
        text
    }

    fn wheel(&self) -> String {
        format!(
            "Wheel-Version: 1.0\nGenerator: cargo-xtask-dist ({})\nRoot-Is-Purelib: false\nTag: {}\n",
            self.version,
            self.tag()
        )
    }
}

fn add(members: &mut Tree, stem: &str, path: &str, file: &File) {
    match path.strip_prefix("bin/") {
        Some(name) => members.add_program(format!("{stem}.data/scripts/{name}"), file.contents.clone()),
        None => members.add(format!("{stem}.data/data/{path}"), file.contents.clone()),
    }
}

/// A line a file: its name, its digest and its size; the record's own line has neither.
fn record_of(trees: &[&Tree], own_path: &str) -> String {
    let mut record = String::new();
    for (path, file) in trees.iter().flat_map(|tree| tree.files()) {
        let digest = URL_SAFE_NO_PAD.encode(Sha256::digest(&file.contents));
        let _ = writeln!(record, "{path},sha256={digest},{}", file.contents.len());
    }
    record + own_path + ",,\n"
}

/// The earliest year that a zip archive can name.
const FIRST_ZIP_YEAR: u16 = 1980;

fn zip(trees: &[&Tree], date: Date) -> Result<Vec<u8>> {
    let Civil { year, month, day, hour, minute, second } = date.civil();
    ensure!(year >= FIRST_ZIP_YEAR, "a wheel cannot be older than {FIRST_ZIP_YEAR}: see SOURCE_DATE_EPOCH");
    let time = DateTime::from_date_and_time(year, month, day, hour, minute, second)
        .with_context(|| format!("a zip archive cannot name the moment {}", date.rfc3339()))?;
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (path, file) in trees.iter().flat_map(|tree| tree.files()) {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .compression_level(Some(9))
            .last_modified_time(time)
            .unix_permissions(file.mode);
        archive.start_file(path, options).with_context(|| format!("cannot add {path}"))?;
        archive.write_all(&file.contents)?;
    }
    Ok(archive.finish().context("an archive in memory cannot fail")?.into_inner())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use super::*;

    const DATE: Date = Date(1_700_000_000);

    fn wheel() -> Wheel<'static> {
        Wheel { version: "1.2.3", glibc: Glibc { major: 2, minor: 34 }, description: "# pyro\n", date: DATE }
    }

    fn made() -> Vec<u8> {
        let mut tree = Tree::default();
        tree.add_program("bin/pyro", "program");
        tree.add("share/pyro/guest/vmlinux", "kernel");
        wheel().pack(&tree, &[("LICENSE", b"terms".as_slice())], b"{}").unwrap()
    }

    /// Modes and contents by name.
    type Members = BTreeMap<String, (u32, Vec<u8>)>;

    /// The names in the archive's order, and the members.
    fn members(wheel: Vec<u8>) -> (Vec<String>, Members) {
        let mut archive = zip::ZipArchive::new(Cursor::new(wheel)).unwrap();
        let mut names = Vec::new();
        let mut found = Members::new();
        for index in 0..archive.len() {
            let mut member = archive.by_index(index).unwrap();
            let mut contents = Vec::new();
            member.read_to_end(&mut contents).unwrap();
            let name = member.name().unwrap().into_owned();
            names.push(name.clone());
            found.insert(name, (member.unix_mode().unwrap() & 0o777, contents));
        }
        (names, found)
    }

    #[test]
    fn programs_are_scripts_and_the_bundle_is_data_of_the_prefix() {
        let (names, members) = members(made());
        assert_eq!(members["pyro_mcp-1.2.3.data/scripts/pyro"], (0o755, b"program".to_vec()));
        let bundle = &members["pyro_mcp-1.2.3.data/data/share/pyro/guest/vmlinux"];
        assert_eq!(bundle, &(0o644, b"kernel".to_vec()));
        assert_eq!(names.last().unwrap(), "pyro_mcp-1.2.3.dist-info/RECORD");
        assert_eq!(wheel().file_name(), "pyro_mcp-1.2.3-py3-none-manylinux_2_34_x86_64.whl");
    }

    #[test]
    fn the_record_has_every_file_with_its_digest_and_size() {
        let (names, members) = members(made());
        let record = String::from_utf8(members["pyro_mcp-1.2.3.dist-info/RECORD"].1.clone()).unwrap();
        let lines: Vec<&str> = record.lines().collect();
        assert_eq!(lines.len(), names.len());
        for line in lines {
            let fields: Vec<&str> = line.split(',').collect();
            let contents = &members[fields[0]].1;
            if fields[0].ends_with("/RECORD") {
                assert_eq!(fields[1..], ["", ""]);
            } else {
                let digest = URL_SAFE_NO_PAD.encode(Sha256::digest(contents));
                assert_eq!(fields[1..], [format!("sha256={digest}"), contents.len().to_string()]);
            }
        }
        // By `printf program | sha256sum`, in base64 with the alphabet for URLs.
        let known = "scripts/pyro,sha256=ExDKLIky29EYZovZdEJVij4fVGteFcaWmd-9YCT1SNg,7\n";
        assert!(record.contains(known), "{record}");
    }

    #[test]
    fn metadata_names_the_distribution_and_its_licences() {
        let (_, members) = members(made());
        let metadata = String::from_utf8(members["pyro_mcp-1.2.3.dist-info/METADATA"].1.clone()).unwrap();
        let (headers, body) = metadata.split_once("\n\n").unwrap();
        assert!(headers.contains("\nName: pyro-mcp\nVersion: 1.2.3\n"), "{headers}");
        assert!(headers.ends_with("License-File: LICENSE"), "{headers}");
        assert_eq!(body, "# pyro\n");
        assert_eq!(members["pyro_mcp-1.2.3.dist-info/licenses/LICENSE"].1, b"terms");
    }

    #[test]
    fn the_same_files_give_the_same_bytes_and_no_wheel_is_too_old() {
        assert_eq!(made(), made());
        let old = Wheel { date: Date(0), ..wheel() };
        let error = old.pack(&Tree::default(), &[], b"").unwrap_err().to_string();
        assert!(error.contains("SOURCE_DATE_EPOCH"), "{error}");
    }
}
