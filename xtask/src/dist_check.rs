//! `cargo xtask dist-check`: what `cargo xtask dist` made, installed into empty places and used from there.

mod client;
mod installation;
mod story;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::counts::Counts;
use crate::{dist, env, output};
use installation::{Form, Installation};
use story::{Steps, Visitor};

/// Each form of distribution, installed into an empty place and used: doctor, run, a workspace, MCP
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only these forms [default: all]
    #[arg(value_enum)]
    forms: Vec<Form>,
    /// Check what is in target/dist instead of making it first
    #[arg(long)]
    no_build: bool,
}

/// Prints a line a step and ends with the counts.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let artifacts = if arguments.no_build { dist::find()? } else { dist::make(&dist::Arguments::default())? };
    let cache = env::ensure("debian:12")?;
    let forms = if arguments.forms.is_empty() { Form::ALL.to_vec() } else { arguments.forms.clone() };
    let mut recorder = Recorder::default();
    recorder.step("checksums", || dist::verify_checksums(&artifacts));
    for form in forms {
        check(form, &artifacts, &cache, &mut recorder)?;
    }
    Ok(recorder.counts.conclude()?)
}

/// Installs one form and goes through the story with it.
fn check(form: Form, artifacts: &dist::Artifacts, cache: &Path, recorder: &mut Recorder) -> Result<()> {
    let place = tempfile::Builder::new()
        .prefix("pyro-dist-check-")
        .tempdir()
        .context("cannot make a temporary directory")?;
    let place = place.path().canonicalize().context("cannot find the temporary directory")?;
    let name = form.name();
    let mut installed: Option<Installation> = None;
    recorder.step(&format!("{name}: install"), || {
        installed = Some(Installation::make(form, artifacts, &place)?);
        Ok(())
    });
    let Some(installation) = installed else { return Ok(()) };
    let visitor = Visitor::new(installation, &place, cache.to_owned())?;
    for (step, function) in Steps::ALL {
        recorder.step(&format!("{name}: {step}"), || function(&visitor));
    }
    Ok(())
}

/// Counts steps and tells each in a line.
#[derive(Default)]
struct Recorder {
    counts: Counts,
}

impl Recorder {
    fn step(&mut self, name: &str, function: impl FnOnce() -> Result<()>) {
        let started = Instant::now();
        match function() {
            Ok(()) => {
                self.counts.passed += 1;
                output::line(&format!("ok: {name} ({})", output::seconds(started.elapsed())));
            }
            Err(error) => {
                self.counts.failed += 1;
                output::line(&format!("FAILED: {name}: {}", in_a_line(&format!("{error:#}"))));
            }
        }
    }
}

/// Of what a failing step says, as much as a line holds.
const REASON_CHARS: usize = 500;

fn in_a_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().take(REASON_CHARS).collect()
}

/// Fails unless `path` is below `place`: an installation must use its own files alone.
fn ensure_below(path: &Path, place: &Path) -> Result<()> {
    let path: PathBuf = path.canonicalize().with_context(|| format!("cannot find {}", path.display()))?;
    ensure!(path.starts_with(place), "{} is not of this installation", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_counted_by_how_they_end() {
        let mut recorder = Recorder::default();
        recorder.step("good", || Ok(()));
        recorder.step("bad", || anyhow::bail!("no"));
        assert_eq!(recorder.counts, Counts { passed: 1, failed: 1, skipped: 0 });
    }

    #[test]
    fn a_reason_is_one_line_of_bounded_length() {
        assert_eq!(in_a_line("exit status: 5:\n  Runtime: FAIL\n"), "exit status: 5: Runtime: FAIL");
        assert_eq!(in_a_line(&"é".repeat(2 * REASON_CHARS)).chars().count(), REASON_CHARS);
    }

    #[test]
    fn files_of_elsewhere_are_found_out() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("bin")).unwrap();
        assert!(ensure_below(&root.join("bin/../bin"), &root).is_ok());
        assert!(ensure_below(&root.join("bin/../.."), &root).is_err());
        assert!(ensure_below(&root.join("gone"), &root).is_err());
    }
}
