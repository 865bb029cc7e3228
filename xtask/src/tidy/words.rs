//! Words that a committed file must not hold: hosts that only one machine's set-up knows, and its paths.

use super::{Finding, SourceFile};

/// Each word in two halves, so that this file does not find itself, with why it does not belong.
const FORBIDDEN: &[(&str, &str, &str)] = &[
    ("crates", ".io", HOST),
    ("pypi", ".org", HOST),
    ("pythonhosted", ".org", HOST),
    ("deb.debian", ".org", HOST),
    ("registry.npmjs", ".org", HOST),
    ("snapshot.debian", ".org", HOST),
    ("/work", "/", PATH),
];
const HOST: &str = "names a package registry's host: take it from the machine's own set-up";
const PATH: &str = "names a path of one machine";

/// The first forbidden word of each line. Lock files are cargo's and name its registry.
pub(super) fn check(file: &SourceFile) -> Vec<Finding> {
    if file.path.file_name().is_some_and(|name| name == "Cargo.lock") {
        return Vec::new();
    }
    let words: Vec<(String, &str)> =
        FORBIDDEN.iter().map(|(first, second, why)| (format!("{first}{second}"), *why)).collect();
    let mut findings = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        if let Some((word, why)) = words.iter().find(|(word, _)| holds(line, word)) {
            findings.push(Finding::new(
                format!("{}:{}", file.path.display(), number + 1),
                format!("\"{word}\" {why}"),
            ));
        }
    }
    findings
}

/// Whether `line` holds `word` by itself: a path only where it starts, a host not as the end of another name.
fn holds(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| {
            c.is_ascii_alphanumeric() || c == '_' || (word.starts_with('/') && "./-$}~)".contains(c))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::file;

    fn found(text: &str) -> usize {
        check(&file("docs/a.md", text)).len()
    }

    #[test]
    fn hosts_and_paths_are_found_in_their_lines() {
        for (first, second, _) in FORBIDDEN {
            assert_eq!(found(&format!("fine\nsee {first}{second} there\n")), 1, "{first}{second}");
            assert_eq!(found(&format!("\"{first}{second}\"")), 1, "{first}{second}");
        }
    }

    #[test]
    fn other_paths_and_hosts_are_accepted() {
        for text in
            ["/workspace/src", "target/work/x", "$HOME/work/x", "registry-1.docker.io", "mycrates.iota"]
        {
            assert_eq!(found(text), 0, "{text}");
        }
    }

    #[test]
    fn lock_files_are_cargos() {
        let text = format!("source = \"registry+https://{}{}\"", "crates", ".io");
        assert!(check(&file("fuzz/Cargo.lock", &text)).is_empty());
    }
}
