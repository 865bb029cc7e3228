//! Every crate takes the workspace's lints.

use super::{Finding, SourceFile};

/// A crate's manifest without `[lints] workspace = true`.
pub(super) fn check(file: &SourceFile) -> Option<Finding> {
    let is_crate = file.path.ends_with("Cargo.toml") && !file.path.starts_with("fuzz");
    let has_package = file.text.lines().any(|line| line == "[package]");
    let mut lines = file.text.lines().skip_while(|line| *line != "[lints]");
    let takes_lints = lines.nth(1).is_some_and(|line| line == "workspace = true");
    (is_crate && has_package && !takes_lints)
        .then(|| Finding::new(file.path.to_string_lossy(), "does not take the workspace's lints"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::file;

    #[test]
    fn a_crate_without_the_lints_is_found() {
        assert!(check(&file("crates/a/Cargo.toml", "[package]\nname = \"a\"\n")).is_some());
        assert!(check(&file("crates/a/Cargo.toml", "[package]\n\n[lints]\nworkspace = false\n")).is_some());
    }

    #[test]
    fn a_crate_with_the_lints_and_other_manifests_are_accepted() {
        assert!(check(&file("crates/a/Cargo.toml", "[package]\n\n[lints]\nworkspace = true\n")).is_none());
        assert!(check(&file("Cargo.toml", "[workspace]\n")).is_none());
        assert!(check(&file("fuzz/Cargo.toml", "[package]\n")).is_none());
    }
}
