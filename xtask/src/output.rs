//! Everything `cargo xtask` says. The only module that prints.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::io::Write as _;
use std::time::Duration;

/// A heading before a step: what is about to run.
pub(crate) fn step(text: &str) {
    eprintln!("==> {text}");
}

/// A step that cannot be done here, and why.
pub(crate) fn skip(name: &str, reason: &str) {
    eprintln!("==> {name}: skipped ({reason})");
}

/// The end of a step and how long it took.
pub(crate) fn done(text: &str, took: Duration) {
    eprintln!("    {text}: {}", seconds(took));
}

/// A remark that belongs to the running step.
pub(crate) fn note(text: &str) {
    eprintln!("    {text}");
}

/// A result line, for people and programs that read standard output.
pub(crate) fn line(text: &str) {
    println!("{text}");
}

/// Bytes that a program elsewhere wrote to its standard output. Where nobody reads ours, they are lost.
pub(crate) fn stdout(bytes: &[u8]) {
    let mut stdout = std::io::stdout();
    let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
}

/// Bytes that a program elsewhere wrote to its standard error.
pub(crate) fn stderr(bytes: &[u8]) {
    let _ = std::io::stderr().write_all(bytes);
}

/// The error that ends a command, with its chain of causes.
pub(crate) fn error(error: &anyhow::Error) {
    eprintln!("[error] {error:#}");
}

/// A duration as people read it.
pub(crate) fn seconds(took: Duration) -> String {
    let whole = took.as_secs();
    if whole >= 60 {
        format!("{} min {:02} s", whole / 60, whole % 60)
    } else {
        format!("{:.1} s", took.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_told_in_seconds_then_minutes() {
        assert_eq!(seconds(Duration::from_millis(1250)), "1.2 s");
        assert_eq!(seconds(Duration::from_secs(125)), "2 min 05 s");
    }
}
