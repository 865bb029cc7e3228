//! `THIRD-PARTY-LICENSES`: whose code is in the programs, and the texts that come with it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Somebody else's work that is distributed.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) name: String,
    pub(super) version: String,
    /// An SPDX expression.
    pub(super) licence: String,
    pub(super) texts: Vec<Text>,
}

/// A licence's text.
#[derive(Debug)]
pub(super) struct Text {
    /// The file it is in, below the work's source.
    pub(super) file: String,
    pub(super) text: String,
}

/// How the names of files begin that hold licences, and what belongs to them.
const NAMES: [&str; 6] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];
/// Endings of such names that are documents; others are code about licences.
const ENDINGS: [&str; 3] = [".md", ".txt", ".html"];

/// Every licence text in a source tree.
pub(super) fn texts(source: &Path) -> Result<Vec<Text>> {
    let mut files = Vec::new();
    collect(source, &mut files)?;
    files.sort();
    let name = |path: &Path| path.strip_prefix(source).unwrap_or(path).display().to_string();
    files.iter().map(|path| Text::read(path, name(path))).collect()
}

impl Text {
    /// The text in the file `path`, called `file`.
    pub(super) fn read(path: &Path, file: String) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let text = String::from_utf8_lossy(&bytes).replace("\r\n", "\n");
        Ok(Self { file, text: text.trim_end().to_owned() })
    }
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect(&entry.path(), files)?;
        } else if kind.is_file() && is_licence(&entry.file_name().to_string_lossy()) {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn is_licence(name: &str) -> bool {
    let upper = name.to_uppercase();
    let Some(rest) = NAMES.iter().find_map(|start| upper.strip_prefix(start)) else { return false };
    let lower = rest.to_lowercase();
    // `LICENSE-APACHE` and `LICENSE.BSD-3-Clause`, but neither `licenses.rs` nor `license.json`.
    ENDINGS.iter().any(|ending| lower.ends_with(ending))
        || lower.is_empty()
        || lower.starts_with('-')
        || lower.starts_with(".bsd")
}

/// The document. Equal texts are told once.
pub(super) fn document(works: &[Work]) -> String {
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    let mut order: Vec<&str> = Vec::new();
    let mut list = String::new();
    for work in works {
        let told: Vec<String> = work
            .texts
            .iter()
            .map(|text| {
                let number = *numbers.entry(&text.text).or_insert_with(|| {
                    order.push(&text.text);
                    order.len()
                });
                format!("[{number}] {}", text.file)
            })
            .collect();
        let told = if told.is_empty() { "its source has no text of it".to_owned() } else { told.join(", ") };
        let _ = writeln!(list, "{} {}: {}\n    {told}", work.name, work.version, work.licence);
    }
    let mut document = format!("{INTRODUCTION}\n{list}");
    for (index, text) in order.iter().enumerate() {
        let _ = write!(document, "\n{RULE}\n[{}]\n{RULE}\n\n{text}\n", index + 1);
    }
    document
}

const RULE: &str = "--------------------------------------------------------------------------------";
const INTRODUCTION: &str = "\
Third-party licences

pyro itself is licensed under Apache-2.0, see LICENSE. Its programs contain code of the works listed here, each with
its version and its licence. The numbers are those of the texts below the list, as the works' sources have them. Where
a work's licence is a choice, pyro takes Apache-2.0 if that is one of them. The file SOURCES tells of the guest kernel
and of the C library, which are separate works.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn work(name: &str, texts: &[(&str, &str)]) -> Work {
        let texts =
            texts.iter().map(|(file, text)| Text { file: (*file).into(), text: (*text).into() }).collect();
        Work { name: name.into(), version: "1.0.0".into(), licence: "MIT".into(), texts }
    }

    #[test]
    fn equal_texts_are_told_once() {
        let works = [
            work("a", &[("LICENSE", "permission of many")]),
            work("b", &[("LICENSE", "permission of b"), ("COPYING", "permission of many")]),
            work("c", &[]),
        ];
        let document = document(&works);
        assert!(document.contains("a 1.0.0: MIT\n    [1] LICENSE\n"), "{document}");
        assert!(document.contains("b 1.0.0: MIT\n    [2] LICENSE, [1] COPYING\n"), "{document}");
        assert!(document.contains("c 1.0.0: MIT\n    its source has no text of it\n"), "{document}");
        assert_eq!(document.matches("permission of many").count(), 1);
        assert_eq!(document.matches("permission of b").count(), 1);
    }

    #[test]
    fn texts_are_found_in_the_whole_source() {
        let source = tempfile::tempdir().unwrap();
        let nested = source.path().join("third_party/fiat");
        fs::create_dir_all(&nested).unwrap();
        for (path, text) in [
            ("LICENSE-MIT", "one\r\ntwo\n"),
            ("license.rs", "fn"),
            ("licensing.json", "{}"),
            ("third_party/fiat/LICENSE", "three"),
            ("readme.md", ""),
        ] {
            fs::write(source.path().join(path), text).unwrap();
        }
        let found: Vec<(String, String)> =
            texts(source.path()).unwrap().into_iter().map(|text| (text.file, text.text)).collect();
        let expected = [("LICENSE-MIT", "one\ntwo"), ("third_party/fiat/LICENSE", "three")];
        assert_eq!(found, expected.map(|(file, text)| (file.to_owned(), text.to_owned())));
    }

    #[test]
    fn names_of_licences_are_told_from_code() {
        for name in ["LICENSE", "LICENSE-APACHE", "LICENSE.BSD-3-Clause", "license-mit.md", "UNLICENSE"] {
            assert!(is_licence(name), "{name}");
        }
        for name in ["licenses.rs", "license.json", "copyingmachine", "notices"] {
            assert!(!is_licence(name), "{name}");
        }
    }
}
