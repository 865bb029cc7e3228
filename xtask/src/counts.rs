//! What test runs add up to.

use std::fmt;
use std::ops::AddAssign;

use crate::output;

/// Tests that passed, failed and could not run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

/// Tests failed, and the counts, which are to be the last line, have said so.
#[derive(Debug)]
pub(crate) struct TestsFailed;

impl fmt::Display for TestsFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tests failed")
    }
}

impl std::error::Error for TestsFailed {}

impl Counts {
    /// Prints the counts, and fails when a test did.
    pub(crate) fn conclude(self) -> Result<(), TestsFailed> {
        output::line(&self.to_string());
        if self.failed > 0 { Err(TestsFailed) } else { Ok(()) }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Reads the output of one libtest binary line by line.
///
/// libtest knows no skipping: a test that cannot run prints `skipped (reason)` and returns, and libtest
/// counts it as passed. With `--show-output` the text of passed tests comes under
/// `---- NAME stdout ----`, so such a test is found by its section and moved from passed to skipped.
#[derive(Default)]
pub(crate) struct Reader {
    /// Results that later ones do not replace.
    earlier: Counts,
    last: Counts,
    /// Cargo runs the documentation examples of all crates in one go, with a result for each.
    sums_results: bool,
    in_successes: bool,
    section_skipped: bool,
    finished: bool,
    /// Tests that the binary said it would run.
    announced: u64,
    /// Tests that passed or were ignored so far.
    seen: Counts,
    skips: Vec<String>,
}

impl Reader {
    /// A reader of several binaries' outputs, none with `--show-output`.
    pub(crate) fn of_many() -> Self {
        Self { sums_results: true, ..Self::default() }
    }

    /// Takes one line; returns whether a person wants to see it (the text of passed tests is hidden).
    pub(crate) fn line(&mut self, line: &str) -> bool {
        if let Some(counts) = line.strip_prefix("test result: ").and_then(parse_result) {
            self.finished = true;
            if self.sums_results {
                self.earlier += self.last;
            }
            // Of one binary the last result is libtest's own; others are what its tests printed.
            self.last = counts;
            return true;
        }
        if !self.in_successes {
            self.see(line);
        }
        match line {
            "successes:" => self.in_successes = true,
            "failures:" => self.in_successes = false,
            _ => {}
        }
        if !self.in_successes {
            return true;
        }
        if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            self.section_skipped = false;
            self.skips.push(name.to_owned());
        } else if is_skip(line) && !self.section_skipped && !self.skips.is_empty() {
            self.section_skipped = true;
            let name = self.skips.pop().unwrap_or_default();
            self.skips.push(format!("{name}: {}", line.trim()));
        }
        false
    }

    /// The tests that said they were skipped, with their reasons.
    pub(crate) fn skips(&self) -> impl Iterator<Item = &str> {
        self.skips.iter().filter(|line| is_skip(line)).map(String::as_str)
    }

    fn see(&mut self, line: &str) {
        let running = line.strip_prefix("running ").and_then(|rest| rest.split(' ').next());
        self.announced += running.and_then(|number| number.parse::<u64>().ok()).unwrap_or(0);
        if line.starts_with("test ") {
            self.seen.passed += u64::from(line.ends_with(" ... ok"));
            self.seen.skipped += u64::from(line.ends_with(" ... ignored"));
        }
    }

    /// What the lines so far add up to. Of a run that never closed every test that had not passed failed, and at least one.
    pub(crate) fn counts(&self, exited_well: bool) -> Counts {
        let mut counts = self.earlier;
        counts += self.last;
        if !self.finished && !self.sums_results {
            let ended = self.seen.passed + self.seen.skipped;
            counts = Counts { failed: self.announced.saturating_sub(ended).max(1), ..self.seen };
        }
        let said_skipped = self.skips().count() as u64;
        counts.passed = counts.passed.saturating_sub(said_skipped);
        counts.skipped += said_skipped;
        if counts.failed == 0 && !(self.finished && exited_well) {
            counts.failed = 1;
        }
        counts
    }
}

/// `ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; ...`
fn parse_result(result: &str) -> Option<Counts> {
    let mut counts = Counts::default();
    let mut known = 0;
    for part in result.split(['.', ';']) {
        let mut words = part.split_whitespace();
        let (Some(number), Some(word)) = (words.next(), words.next()) else { continue };
        let Ok(number) = number.parse::<u64>() else { continue };
        let place = match word {
            "passed" => &mut counts.passed,
            "failed" => &mut counts.failed,
            "ignored" => &mut counts.skipped,
            _ => continue,
        };
        *place = number;
        known += 1;
    }
    (known == 3).then_some(counts)
}

fn is_skip(line: &str) -> bool {
    line.trim_start().starts_with("skipped (") || line.contains(": skipped (")
}

#[cfg(test)]
mod tests;
