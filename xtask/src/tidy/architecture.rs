//! ARCHITECTURE.md stays short and names only what exists.

use super::Finding;

const MOST_LINES: usize = 120;

/// Top-level names that start a path of the tree.
const STARTS: &[&str] = &["crates/", "xtask/", "docs/", "guest/", "fuzz/", "examples/", ".ci/", ".cargo/"];

/// Its length, and every path in it that `exists` does not know.
pub(super) fn check(text: &str, exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lines = text.lines().count();
    if lines > MOST_LINES {
        findings
            .push(Finding::new("ARCHITECTURE.md", format!("{lines} lines, at most {MOST_LINES} are read")));
    }
    for path in paths(text).filter(|path| !exists(path)) {
        findings.push(Finding::new("ARCHITECTURE.md", format!("names {path}, which does not exist")));
    }
    findings
}

/// Words that are paths: those below a top-level directory, and names of files in capitals or with `.toml`.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || "/._-".contains(c)))
        .map(|word| word.trim_end_matches(['.', '/']))
        .filter(|word| {
            STARTS.iter().any(|start| word.starts_with(start))
                || (!word.contains('/')
                    && word.len() > 5
                    && (word.ends_with(".md") || word.ends_with(".toml")))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let known = ["crates/pyro-vmm", "docs/dependencies.md", "Cargo.toml"];
        check(text, |path| known.contains(&path)).iter().map(|finding| finding.text.clone()).collect()
    }

    #[test]
    fn paths_that_exist_are_accepted_in_any_dress() {
        let text =
            "`crates/pyro-vmm/` is, see [this](docs/dependencies.md), crates/pyro-vmm. And (Cargo.toml).";
        assert_eq!(found(text), [""; 0]);
    }

    #[test]
    fn paths_that_do_not_exist_are_found() {
        assert_eq!(found("`crates/pyro-moon/src`"), ["names crates/pyro-moon/src, which does not exist"]);
        assert_eq!(found("see MISSING.md"), ["names MISSING.md, which does not exist"]);
    }

    #[test]
    fn names_of_guest_paths_are_not_paths_of_the_tree() {
        assert_eq!(found("/workspace /run/pyro-secrets/NAME host/guest a.b"), [""; 0]);
    }

    #[test]
    fn a_long_page_is_found() {
        assert_eq!(found(&"line\n".repeat(121)), ["121 lines, at most 120 are read"]);
        assert_eq!(found(&"line\n".repeat(120)), [""; 0]);
    }
}
