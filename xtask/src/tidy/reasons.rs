//! Every direct dependency has a reason in docs/dependencies.md, and no reason outlives its dependency.

use std::collections::BTreeSet;

use super::Finding;

const PLACE: &str = "docs/dependencies.md";

/// Dependencies without a line `| `name` | home | reason |`, and lines without a dependency.
pub(super) fn check(text: &str, dependencies: &BTreeSet<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut explained = BTreeSet::new();
    for row in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let name = cells[0].trim_matches('`');
        if cells.len() < 3 || cells[1..].iter().any(|cell| cell.is_empty()) {
            findings.push(Finding::new(PLACE, format!("{name} needs a home crate and a reason")));
        }
        if !explained.insert(name.to_owned()) {
            findings.push(Finding::new(PLACE, format!("{name} has two lines")));
        }
    }
    for name in dependencies.difference(&explained) {
        findings.push(Finding::new(PLACE, format!("no reason is given for {name}")));
    }
    for name in explained.difference(dependencies) {
        findings.push(Finding::new(PLACE, format!("{name} is no longer a dependency")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, dependencies: &[&str]) -> Vec<String> {
        let dependencies = dependencies.iter().map(|name| (*name).to_owned()).collect();
        check(text, &dependencies).into_iter().map(|finding| finding.text).collect()
    }

    const TABLE: &str =
        "# Title\n\n| crate | home | reason |\n| --- | --- | --- |\n| `tar` | pyro-oci | reads layers |\n";

    #[test]
    fn a_dependency_with_a_reason_is_accepted() {
        assert_eq!(found(TABLE, &["tar"]), [""; 0]);
    }

    #[test]
    fn a_dependency_without_a_reason_is_found() {
        assert_eq!(found(TABLE, &["tar", "zip"]), ["no reason is given for zip"]);
        assert_eq!(found("| `tar` | pyro-oci | |", &["tar"]), ["tar needs a home crate and a reason"]);
        assert_eq!(found("| `tar` |", &["tar"]), ["tar needs a home crate and a reason"]);
    }

    #[test]
    fn a_reason_without_a_dependency_is_found() {
        assert_eq!(found(TABLE, &[]), ["tar is no longer a dependency"]);
        assert_eq!(found(&format!("{TABLE}| `tar` | a | b |"), &["tar"]), ["tar has two lines"]);
    }
}
