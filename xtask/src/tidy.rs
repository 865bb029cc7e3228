//! `cargo xtask tidy`: rules about the tree that no compiler checks.
//!
//! Each rule is a pure function from text or from cargo's graph to findings; this file feeds them.

mod architecture;
mod edges;
mod exceptions;
mod fuzz;
mod lints;
mod reasons;
mod size;
mod unsafe_code;
mod words;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{output, root, steps};
use exceptions::Exceptions;

/// Crate edges, paths in ARCHITECTURE.md, reasons for dependencies, file sizes, places of `unsafe`
#[derive(clap::Args)]
pub(crate) struct Arguments {}

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    /// The file or crate it is about.
    place: String,
    text: String,
}

impl Finding {
    fn new(place: impl Into<String>, text: impl Into<String>) -> Self {
        Self { place: place.into(), text: text.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

/// A text file of the tree.
struct SourceFile {
    path: PathBuf,
    text: String,
}

/// Checks the tree and says that it is tidy.
pub(crate) fn run(_: &Arguments) -> Result<()> {
    check_tree()?;
    output::note("tidy: nothing to say");
    Ok(())
}

/// Checks the tree; every finding is shown.
pub(crate) fn check_tree() -> Result<()> {
    let mut findings = findings(&root::workspace())?;
    findings.sort();
    for finding in &findings {
        output::note(&finding.to_string());
    }
    if findings.is_empty() { Ok(()) } else { bail!("tidy: {} findings", findings.len()) }
}

fn findings(root: &Path) -> Result<Vec<Finding>> {
    let graph = edges::Graph::parse(&steps::read(&mut steps::cargo(&[
        "metadata",
        "--format-version=1",
        "--locked",
        // Without it, cargo would have to download what only other platforms use.
        "--filter-platform=x86_64-unknown-linux-gnu",
    ]))?)?;
    let files = read_texts(root)?;
    let text_of = |name: &str| {
        files
            .iter()
            .find(|file| file.path == Path::new(name))
            .map(|file| file.text.as_str())
            .with_context(|| format!("{name} is missing"))
    };

    let mut findings = edges::check(&graph);
    findings.extend(architecture::check(text_of("ARCHITECTURE.md")?, |path| root.join(path).exists()));
    findings.extend(reasons::check(text_of("docs/dependencies.md")?, &graph.direct_dependencies()));
    let mut exceptions = Exceptions::parse(text_of("xtask/tidy-exceptions.txt")?)?;
    for file in &files {
        findings.extend(size::check(file, &mut exceptions));
        findings.extend(unsafe_code::check(file));
        findings.extend(words::check(file));
        findings.extend(lints::check(file));
    }
    findings.extend(fuzz::check(&files));
    findings.extend(exceptions.check());
    Ok(findings)
}

fn read_texts(root: &Path) -> Result<Vec<SourceFile>> {
    let mut files = Vec::new();
    for path in root::files(root)? {
        let bytes = fs::read(root.join(&path)).with_context(|| format!("cannot read {}", path.display()))?;
        // What is not UTF-8 is not text: a picture, a test's archive. The rules are about text.
        if let Ok(text) = String::from_utf8(bytes) {
            files.push(SourceFile { path, text });
        }
    }
    Ok(files)
}

#[cfg(test)]
fn file(path: &str, text: &str) -> SourceFile {
    SourceFile { path: path.into(), text: text.into() }
}
