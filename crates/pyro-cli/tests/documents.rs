//! What the documents say, held against the sources: error codes, and links.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Files of `dir` and below that end in `suffix`.
fn files(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => open.push(entry.path()),
                false if entry.path().to_str().unwrap().ends_with(suffix) => found.push(entry.path()),
                false => {}
            }
        }
    }
    found
}

/// The texts of a source that are error codes, by what stands around them: a word with a [`Blame`] behind it, the
/// first argument of what makes a problem, or an arm of the match whose value is given to that.
fn codes(source: &str) -> BTreeSet<String> {
    const MAKERS: [&str; 6] = ["Problem::new(", "refused(", " tell(", "problem(", "| problem(", "code:"];
    let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let matched = source.contains("Problem::new(code");
    let mut found = BTreeSet::new();
    let mut at = 0;
    while let Some(begin) = source[at..].find('"').map(|quote| at + quote + 1) {
        let Some(len) = source[begin..].find('"') else { break };
        let (word, before, after) = (
            &source[begin..begin + len],
            source[..begin - 1].trim_end(),
            source[begin + len + 1..].trim_start(),
        );
        let is_code = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        if !is_code {
            // Perhaps the end of a text and the beginning of the next one: go on with that.
            at = begin;
            continue;
        }
        let blamed = after.strip_prefix(',').is_some_and(|rest| {
            let rest = rest.trim_start();
            rest.starts_with("Blame::") || rest.starts_with("pyro_core::Blame::")
        });
        let made = MAKERS.iter().any(|maker| before.ends_with(maker));
        if blamed || made || (matched && before.ends_with("=>")) {
            found.insert(word.to_owned());
        }
        at = begin + len + 1;
    }
    found
}

#[test]
fn every_error_code_is_in_the_public_contract() {
    let root = root();
    let mut in_sources = BTreeSet::new();
    for path in files(&root.join("crates"), ".rs") {
        let shown = path.strip_prefix(&root).unwrap().to_str().unwrap();
        if shown.contains("/src/") && !shown.contains("/tests") {
            in_sources.extend(codes(&fs::read_to_string(&path).unwrap()));
        }
    }
    let contract = fs::read_to_string(root.join("docs/public-contract.md")).unwrap();
    let rows = contract.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let told = ["caller ", "guest ", "remote ", "host ", "bug ", "*told* "];
    let in_contract: BTreeSet<String> = rows
        .filter(|(_, rest)| told.iter().any(|blame| rest.starts_with(blame)))
        .map(|(code, _)| code.to_owned())
        .collect();
    assert!(in_sources.len() > 140, "only {} codes were found", in_sources.len());
    let missing: Vec<_> = in_sources.difference(&in_contract).collect();
    let gone: Vec<_> = in_contract.difference(&in_sources).collect();
    assert!(missing.is_empty(), "docs/public-contract.md does not tell of {missing:?}");
    assert!(gone.is_empty(), "docs/public-contract.md tells of {gone:?}, which no source has");
}

#[test]
fn codes_are_found_by_what_stands_around_them() {
    let source = r#"
        let code = match self { A => "one", B { .. } => "two" };
        Problem::new(code, Blame::Host, self)
        Problem::new(
            "three",
            Blame::Bug, self) // "no"
        tell("text, \"quoted\"", "four", Blame::Guest); refused("five", "six")
    "#;
    assert_eq!(codes(source), ["five", "four", "one", "three", "two"].map(str::to_owned).into());
}

/// The name that a heading is linked by.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

fn anchors(document: &str) -> BTreeSet<String> {
    let mut in_block = false;
    let headings = document.lines().filter(|line| {
        in_block ^= line.starts_with("```");
        !in_block && line.starts_with('#')
    });
    headings.map(|line| anchor(line.trim_start_matches('#'))).collect()
}

#[test]
fn links_of_the_documents_lead_somewhere() {
    let root = root();
    let mut documents = files(&root.join("docs"), ".md");
    documents.extend(["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(|name| root.join(name)));
    let mut checked = 0;
    let mut broken = Vec::new();
    for path in documents {
        let document = fs::read_to_string(&path).unwrap();
        let targets = document.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0));
        for target in targets.filter(|target| !target.contains("://")) {
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let there = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            let leads = match heading {
                "" => there.exists(),
                heading => fs::read_to_string(&there).is_ok_and(|text| anchors(&text).contains(heading)),
            };
            checked += 1;
            if !leads {
                broken.push(format!("{}: {target}", path.strip_prefix(&root).unwrap().display()));
            }
        }
    }
    assert!(checked > 100, "only {checked} links were found");
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}
