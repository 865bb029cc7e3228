//! Everything the command prints.
//!
//! Results go to standard output, everything about the work to standard error. With `--json` a result is
//! one object on standard output and nothing else is printed.

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod progress;

pub(crate) use progress::{PullProgress, TreeProgress};

use pyro_core::Problem;
use serde::Serialize;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

/// How a command shows what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Human,
    Json,
}

impl Format {
    pub(crate) fn from_flag(json: bool) -> Self {
        if json { Self::Json } else { Self::Human }
    }
}

/// A line of a human result. A reader that went away is not an error worth telling.
pub(crate) fn line(text: impl Display) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// A line about the work, such as `[run] phase=create`.
pub(crate) fn note(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Bytes of a human result, as they are.
pub(crate) fn bytes(content: &[u8]) {
    let mut stdout = io::stdout();
    let _ = stdout.write_all(content).and_then(|()| stdout.flush());
}

/// Bytes of a guest's standard error, as they are.
pub(crate) fn error_bytes(content: &[u8]) {
    let _ = io::stderr().write_all(content);
}

/// Bytes of a guest's two streams, as they are; fails when nobody reads them any more.
pub(crate) fn both_streams(stdout: &[u8], stderr: &[u8]) -> io::Result<()> {
    let mut out = io::stdout();
    out.write_all(stdout).and_then(|()| out.flush())?;
    io::stderr().write_all(stderr)
}

/// A JSON result: two-space indent, keys sorted.
pub(crate) fn json<T: Serialize>(value: &T) {
    // Through `Value`, whose maps are sorted by key.
    let value = serde_json::to_value(value).expect("results have string keys and finite numbers");
    let text = serde_json::to_string_pretty(&value).expect("a value is always writable");
    line(text);
}

/// Tells a problem once, in the form asked for, and gives the exit code that it means.
pub(crate) fn problem(problem: &Problem, format: Format) -> ExitCode {
    match format {
        Format::Json => json(&serde_json::json!({ "ok": false, "error": problem })),
        Format::Human => {
            note(format_args!("[error] {}", problem.message));
            if let Some(hint) = &problem.hint {
                note(format_args!("hint: {hint}"));
            }
        }
    }
    ExitCode::from(problem.blame.exit_code())
}

/// Text in a line of ours: control characters, which could end the line or drive a terminal, are escaped.
pub(crate) fn printable(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut shown, c| {
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
        shown
    })
}

/// Text in single quotes where it has none itself, in double quotes otherwise; as Python shows it.
pub(crate) fn quoted(text: &str) -> String {
    let text = printable(&text.replace('\\', "\\\\"));
    match (text.contains('\''), text.contains('"')) {
        (false, _) => format!("'{text}'"),
        (true, false) => format!("\"{text}\""),
        (true, true) => format!("'{}'", text.replace('\'', "\\'")),
    }
}

/// `yes` or `no`.
pub(crate) fn yes_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

/// Whether progress may be drawn over itself.
pub(crate) fn is_interactive() -> bool {
    io::stderr().is_terminal()
}

/// Words joined so that a POSIX shell reads them back as they are.
pub(crate) fn shell_words(words: &[String]) -> String {
    shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_end_a_line_or_drive_a_terminal() {
        assert_eq!(printable("a b\u{e9}"), "a b\u{e9}");
        assert_eq!(printable("a\nb\u{1b}[2J"), "a\\nb\\u{1b}[2J");
        assert_eq!(quoted("it"), "'it'");
        assert_eq!(quoted("it's"), "\"it's\"");
        assert_eq!(quoted("it's \"so\""), "'it\\'s \"so\"'");
        assert_eq!(quoted("a\\b"), "'a\\\\b'");
    }

    #[test]
    fn commands_are_shown_as_a_shell_would_take_them() {
        let words = ["sh", "-lc", "echo 'a b' > c"].map(str::to_owned);
        assert_eq!(shlex::split(&shell_words(&words)).unwrap(), words);
        assert_eq!(shell_words(&["git".to_owned(), "--version".to_owned()]), "git --version");
    }
}
