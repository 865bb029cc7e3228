//! Commands timed by hyperfine.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::steps;

/// What hyperfine found, in seconds.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
pub(super) struct Timing {
    pub(super) mean: f64,
    pub(super) median: f64,
}

impl Timing {
    pub(super) fn milliseconds(self) -> f64 {
        self.median * 1000.0
    }
}

#[derive(Deserialize)]
struct Report {
    results: Vec<Timing>,
}

/// Times a command that must succeed.
pub(super) fn time_command(name: &str, words: &[OsString], runs: u32, place: &Path) -> Result<Timing> {
    let report = place.join("hyperfine.json");
    let line: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    let mut hyperfine = Command::new("hyperfine");
    hyperfine.args([
        "--shell=none",
        "--style=basic",
        "--warmup=1",
        &format!("--runs={runs}"),
        "--export-json",
    ]);
    hyperfine.arg(&report).arg(line.join(" "));
    steps::run(name, &mut hyperfine)?;
    let text =
        std::fs::read_to_string(&report).with_context(|| format!("cannot read {}", report.display()))?;
    parse(&text)
}

fn parse(report: &str) -> Result<Timing> {
    let report: Report = serde_json::from_str(report).context("hyperfine's report is of unknown form")?;
    report.results.first().copied().context("hyperfine's report has no result")
}

/// A word as hyperfine splits its command line: by the rules of a shell.
fn quoted(word: &OsStr) -> String {
    format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_read() {
        let report = r#"{"results": [{"command": "x", "mean": 0.5, "median": 0.25, "stddev": null}]}"#;
        assert_eq!(parse(report).unwrap(), Timing { mean: 0.5, median: 0.25 });
        assert!(parse(r#"{"results": []}"#).is_err());
        assert!(parse("").is_err());
    }

    #[test]
    fn words_are_quoted() {
        assert_eq!(quoted(OsStr::new("it's a")), r"'it'\''s a'");
    }
}
