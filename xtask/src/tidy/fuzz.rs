//! Every fuzz target is a program of the fuzz workspace, and every program there has its target.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Finding, SourceFile};

const PLACE: &str = "fuzz/Cargo.toml";

/// Targets without a `[[bin]]`, which nothing would run, and the reverse, which nothing can build.
pub(super) fn check(files: &[SourceFile]) -> Vec<Finding> {
    let Some(manifest) = files.iter().find(|file| file.path == Path::new(PLACE)) else { return Vec::new() };
    let named: BTreeSet<&str> = manifest
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("path = \"fuzz_targets/")?.strip_suffix(".rs\""))
        .collect();
    let present: BTreeSet<&str> = files
        .iter()
        .filter_map(|file| file.path.strip_prefix("fuzz/fuzz_targets").ok()?.to_str()?.strip_suffix(".rs"))
        .collect();
    let missing = named.difference(&present).map(|name| format!("{name} has no source in fuzz/fuzz_targets"));
    let unnamed = present.difference(&named).map(|name| format!("has no [[bin]] for fuzz_targets/{name}.rs"));
    missing.chain(unnamed).map(|text| Finding::new(PLACE, text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::file;

    const MANIFEST: &str = "[[bin]]\nname = \"a\"\npath = \"fuzz_targets/a.rs\"\n";

    #[test]
    fn targets_and_programs_that_match_are_accepted() {
        assert!(check(&[file("fuzz/Cargo.toml", MANIFEST), file("fuzz/fuzz_targets/a.rs", "")]).is_empty());
        assert!(check(&[file("Cargo.toml", "")]).is_empty());
    }

    #[test]
    fn either_without_the_other_is_found() {
        let found = check(&[file("fuzz/Cargo.toml", MANIFEST), file("fuzz/fuzz_targets/b.rs", "")]);
        let texts: Vec<_> = found.iter().map(|finding| finding.text.as_str()).collect();
        assert_eq!(texts, ["a has no source in fuzz/fuzz_targets", "has no [[bin]] for fuzz_targets/b.rs"]);
    }
}
