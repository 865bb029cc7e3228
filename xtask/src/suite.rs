//! The test binaries of the workspace: built by cargo, run here, so that each can be chosen by its ring,
//! run as another user, bounded in time, and counted.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::counts::{Counts, Reader};
use crate::{output, steps};

/// How long one test binary may run. The guest suite boots tens of emulated machines of some seconds each.
const BINARY_TIME_LIMIT: Duration = Duration::from_secs(20 * 60);

/// What a test needs, after the rings of the style guide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ring {
    /// Pure code, beside the code it tests.
    Pure,
    /// Edges: files, sockets, processes on this machine.
    Edges,
    /// Seeded simulations on a manual clock.
    Simulation,
    /// Real guests.
    Guest,
}

impl Ring {
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        [Self::Pure, Self::Edges, Self::Simulation, Self::Guest].get(usize::from(number)).copied()
    }

    /// Integration tests tell their ring by their name: `guest*` and `simulation*` are special.
    fn of(kind: &str, target: &str) -> Self {
        match kind {
            "test" if target.starts_with("guest") => Self::Guest,
            "test" if target.starts_with("simulation") => Self::Simulation,
            "test" => Self::Edges,
            _ => Self::Pure,
        }
    }
}

/// One executable with tests in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TestBinary {
    pub(crate) name: String,
    pub(crate) ring: Ring,
    pub(crate) executable: PathBuf,
    /// The directory of the package: tests run there, as under `cargo test`.
    pub(crate) directory: PathBuf,
}

/// How to run test binaries.
pub(crate) struct Settings<'a> {
    /// Only tests whose names contain one of these; all when empty.
    pub(crate) filters: &'a [String],
    /// Variables set for the tests.
    pub(crate) variables: BTreeMap<String, OsString>,
    /// Words put before the executable, such as a program that changes the user.
    pub(crate) prefix: Vec<OsString>,
}

/// Builds every test of the workspace, in one go, and says where its binaries are.
pub(crate) fn build() -> Result<Vec<TestBinary>> {
    let mut cargo =
        steps::cargo(&["test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"]);
    output::step("build the tests: cargo test --workspace --no-run");
    let started = Instant::now();
    let result = cargo.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    output::done("build the tests", started.elapsed());
    if !result.status.success() {
        bail!("the tests do not build");
    }
    parse_messages(&String::from_utf8_lossy(&result.stdout))
}

fn parse_messages(messages: &str) -> Result<Vec<TestBinary>> {
    let mut binaries = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Message =
            serde_json::from_str(line).context("cargo printed a message of unknown form")?;
        let (Some(executable), Some(target), Some(manifest)) =
            (message.executable, message.target, message.manifest_path)
        else {
            continue;
        };
        if !message.profile.is_some_and(|profile| profile.test) {
            continue;
        }
        let directory = manifest.parent().map(Path::to_owned).unwrap_or_default();
        let package = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let kind = target.kind.first().cloned().unwrap_or_default();
        binaries.push(TestBinary {
            name: format!("{package} {kind} {}", target.name),
            ring: Ring::of(&kind, &target.name),
            executable,
            directory,
        });
    }
    binaries.sort_by(|a, b| (a.ring, &a.name).cmp(&(b.ring, &b.name)));
    Ok(binaries)
}

#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

/// Runs one binary to its end or to its time limit, showing its lines as they come.
pub(crate) fn run(binary: &TestBinary, settings: &Settings<'_>) -> Result<Counts> {
    let words: Vec<OsString> =
        settings.prefix.iter().cloned().chain([binary.executable.clone().into_os_string()]).collect();
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .arg("--show-output")
        .args(settings.filters)
        .envs(&settings.variables)
        .env("CARGO_MANIFEST_DIR", &binary.directory)
        .current_dir(&binary.directory);
    counted(&binary.name, &mut command, Reader::default(), BINARY_TIME_LIMIT)
}

/// Runs the examples in the documentation, which only cargo can do.
pub(crate) fn run_doc_tests() -> Result<Counts> {
    let mut cargo = steps::cargo(&["test", "--workspace", "--doc", "--no-fail-fast", "--quiet"]);
    counted("documentation examples", &mut cargo, Reader::of_many(), BINARY_TIME_LIMIT)
}

fn counted(name: &str, command: &mut Command, mut reader: Reader, limit: Duration) -> Result<Counts> {
    output::step(name);
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start the tests of {name}"))?;
    let stdout = child.stdout.take().context("the tests' output was piped")?;
    let (sender, lines) = mpsc::channel();
    let forward = std::thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(|line| line.ok()) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
    let in_time = loop {
        match lines.recv_timeout(limit.saturating_sub(started.elapsed())) {
            Ok(line) => {
                if reader.line(&line) && !line.is_empty() {
                    output::line(&line);
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break true,
            Err(mpsc::RecvTimeoutError::Timeout) => break false,
        }
    };
    if !in_time {
        output::note(&format!("{name} did not end within {}: killed", output::seconds(limit)));
        child.kill().with_context(|| format!("cannot kill {name}"))?;
    }
    drop(lines);
    let status = child.wait().with_context(|| format!("cannot wait for {name}"))?;
    if in_time {
        // A killed test may leave a child that holds the pipe open; only a finished one is waited for.
        forward.join().ok();
    }
    for skip in reader.skips() {
        output::note(skip);
    }
    let counts = reader.counts(status.success() && in_time);
    let verdict =
        if counts.failed > 0 { format!("{name} FAILED ({counts})") } else { format!("{name} ({counts})") };
    output::done(&verdict, started.elapsed());
    Ok(counts)
}

#[cfg(test)]
mod tests;
