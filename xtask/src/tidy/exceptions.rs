//! The one list of exceptions from the rules: `xtask/tidy-exceptions.txt`. It can only shrink.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::Finding;

const PLACE: &str = "xtask/tidy-exceptions.txt";

/// How many exceptions there are. Lower it with the list; a change that raises it needs a better idea instead.
const COUNT: usize = 0;

/// Rules that know exceptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    LongFile,
}

impl Rule {
    fn parse(name: &str) -> Result<Self> {
        match name {
            "long-file" => Ok(Self::LongFile),
            _ => bail!("{PLACE}: no rule is called {name}"),
        }
    }
}

/// The list, with a mark at each exception that was needed.
pub(super) struct Exceptions(Vec<Exception>);

struct Exception {
    rule: Rule,
    path: PathBuf,
    limit: usize,
    used: bool,
}

impl Exceptions {
    /// Lines of `RULE PATH LIMIT REASON`; lines that start with `#` are remarks.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut list = Vec::new();
        for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            let mut words = line.splitn(4, ' ');
            let (Some(rule), Some(path), Some(limit), Some(_reason)) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                bail!("{PLACE}: not `RULE PATH LIMIT REASON`: {line}");
            };
            let limit = limit.parse().with_context(|| format!("{PLACE}: {limit} is not a number"))?;
            list.push(Exception { rule: Rule::parse(rule)?, path: path.into(), limit, used: false });
        }
        Ok(Self(list))
    }

    /// The limit that holds for `path` instead of the rule's own.
    pub(super) fn take(&mut self, rule: Rule, path: &Path) -> Option<usize> {
        let exception = self.0.iter_mut().find(|one| one.rule == rule && one.path == path)?;
        exception.used = true;
        Some(exception.limit)
    }

    /// Exceptions that nothing needed, and a list that grew.
    pub(super) fn check(&self) -> Vec<Finding> {
        let mut findings: Vec<Finding> = self
            .0
            .iter()
            .filter(|one| !one.used)
            .map(|one| Finding::new(PLACE, format!("{} needs no exception any more", one.path.display())))
            .collect();
        if self.0.len() != COUNT {
            findings.push(Finding::new(PLACE, format!("{} exceptions, {COUNT} are agreed", self.0.len())));
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exception_that_nothing_needs_is_found() {
        let mut list = Exceptions::parse("# remark\n\nlong-file a.rs 800 a table of codes\n").unwrap();
        assert!(list.check().iter().any(|finding| finding.text == "a.rs needs no exception any more"));
        assert_eq!(list.take(Rule::LongFile, Path::new("b.rs")), None);
        assert_eq!(list.take(Rule::LongFile, Path::new("a.rs")), Some(800));
        assert!(!list.check().iter().any(|finding| finding.text.contains("any more")));
    }

    #[test]
    fn a_list_of_another_length_than_agreed_is_found() {
        let grown = "long-file a.rs 800 reason\n".repeat(COUNT + 1);
        let text = format!("{} exceptions, {COUNT} are agreed", COUNT + 1);
        assert!(Exceptions::parse(&grown).unwrap().check().iter().any(|finding| finding.text == text));
    }

    #[test]
    fn a_malformed_line_is_an_error() {
        assert!(Exceptions::parse("long-file a.rs").is_err());
        assert!(Exceptions::parse("short-file a.rs 8 reason").is_err());
        assert!(Exceptions::parse("long-file a.rs many reason").is_err());
    }
}
