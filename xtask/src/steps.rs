//! Programs run one after the other, each shown with its command line and its time.

use std::fmt;
use std::process::{Command, ExitStatus};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::output;

/// Runs `command` with its output shown, and fails when it fails.
pub(crate) fn run(name: &str, command: &mut Command) -> Result<()> {
    let line = command_line(command);
    output::step(&format!("{name}: {line}"));
    let started = Instant::now();
    let status = command.status().with_context(|| format!("cannot run {line}"))?;
    output::done(name, started.elapsed());
    if !status.success() {
        bail!("{name} failed ({status}): {line}");
    }
    Ok(())
}

/// Runs a function as a step.
pub(crate) fn call<T>(name: &str, function: impl FnOnce() -> Result<T>) -> Result<T> {
    output::step(name);
    let started = Instant::now();
    let result = function();
    output::done(name, started.elapsed());
    result
}

/// A program that was read from and did not succeed.
#[derive(Debug)]
pub(crate) struct Failed {
    line: String,
    pub(crate) status: ExitStatus,
    /// What it wrote to standard error.
    errors: String,
}

impl std::error::Error for Failed {}

impl fmt::Display for Failed {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{} failed ({}): {}", self.line, self.status, self.errors)
    }
}

/// Standard output of `command`, which must succeed; the error is [`Failed`] where it did not.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let line = command_line(command);
    let result = command.output().with_context(|| format!("cannot run {line}"))?;
    if !result.status.success() {
        let errors = String::from_utf8_lossy(&result.stderr).trim().to_owned();
        return Err(Failed { line, status: result.status, errors }.into());
    }
    String::from_utf8(result.stdout).with_context(|| format!("{line} printed text that is not UTF-8"))
}

/// The cargo that runs us, in the root of the tree.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(crate::root::workspace());
    // What `cargo run` tells of this package; build scripts that look at it would run anew, and all that needs them.
    let of_this_package = |name: &std::ffi::OsString| {
        let name = name.to_string_lossy();
        name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| of_this_package(name)) {
        command.env_remove(name);
    }
    command
}

fn command_line(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let mut line = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_step_names_its_command() {
        let error = run("lint", Command::new("/bin/sh").args(["-c", "exit 3"])).unwrap_err().to_string();
        assert!(error.contains("lint failed") && error.contains("sh -c exit 3"), "{error}");
        assert!(run("lint", &mut Command::new("/bin/true")).is_ok());
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = read(&mut Command::new("no-such-program-here")).unwrap_err().to_string();
        assert_eq!(error, "cannot run no-such-program-here");
    }
}
