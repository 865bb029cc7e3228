//! The test binaries of the workspace: built by cargo, run here, so that each can be chosen by its ring,
//! run as another user, bounded in time, and counted.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::counts::{Counts, Reader};
use crate::{output, steps};

/// How long one test binary may run. The guest suite boots tens of emulated machines of some seconds each.
pub(crate) const BINARY_TIME: Duration = Duration::from_secs(20 * 60);
/// How long a process that a binary has left may hold its output open.
const LINGER: Duration = Duration::from_secs(10);
/// Lines of a failed binary's standard error that are shown, the last ones.
const STDERR_LINES: usize = 200;
/// Between two looks at whether a silent binary has ended.
const LOOK: Duration = Duration::from_millis(100);

/// How long a test binary is waited for.
#[derive(Clone, Copy)]
struct Times {
    /// To its end.
    run: Duration,
    /// From its end to its output's, which a process that it has left may hold open.
    linger: Duration,
}

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
    /// Words for the binary, beside the filters.
    pub(crate) words: Vec<OsString>,
    /// How long a binary may run.
    pub(crate) limit: Duration,
}

/// Builds every test of the workspace, in one go, and says where its binaries are.
pub(crate) fn build() -> Result<Vec<TestBinary>> {
    let mut cargo =
        steps::cargo(&["test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"]);
    output::step("build the tests: cargo test --workspace --no-run");
    built(&mut cargo)
}

/// Builds one binary of tests, with the programs that guests need.
pub(crate) fn build_guest_test(name: &str) -> Result<TestBinary> {
    steps::run("programs", &mut steps::cargo(&["build", "-p", "pyro-cli", "-p", "pyro-vmm"]))?;
    let words = ["test", "-p", "pyro-cli", "--test", name, "--no-run"];
    let mut cargo = steps::cargo(&[&words[..], &["--message-format=json-render-diagnostics"]].concat());
    output::step(&format!("build the tests: cargo {}", words.join(" ")));
    built(&mut cargo)?.pop().with_context(|| format!("cargo built no {name}"))
}

/// Builds the guest suite alone, with the programs that guests need.
pub(crate) fn build_guest_tests() -> Result<Vec<TestBinary>> {
    let packages = ["-p", "pyro-agent", "-p", "pyro-cli", "-p", "pyro-vmm"];
    steps::run("programs", &mut steps::cargo(&["build", "-p", "pyro-cli", "-p", "pyro-vmm"]))?;
    let words = [&["test"], &packages[..], &["--test", "guest*", "--no-run"]].concat();
    let mut cargo = steps::cargo(&[&words[..], &["--message-format=json-render-diagnostics"]].concat());
    output::step(&format!("build the tests: cargo {}", words.join(" ")));
    built(&mut cargo)
}

fn built(cargo: &mut Command) -> Result<Vec<TestBinary>> {
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

/// Where the lines of a binary go.
#[derive(Clone, Copy)]
enum Show {
    /// To standard output as they are; its standard error is ours.
    Alone,
    /// One line a test with the binary's name and the test's time, for several binaries run at once. What the binary says
    /// besides is shown when something failed.
    Beside,
}

/// Runs one binary to its end or to its time limit, showing its lines as they come.
pub(crate) fn run(binary: &TestBinary, settings: &Settings<'_>) -> Result<Counts> {
    let times = Times { run: settings.limit, linger: LINGER };
    counted(&binary.name, &mut command(binary, settings), Reader::default(), times, Show::Alone)
}

/// The same beside other binaries.
pub(crate) fn run_beside(binary: &TestBinary, settings: &Settings<'_>) -> Result<Counts> {
    let times = Times { run: settings.limit, linger: LINGER };
    counted(&binary.name, &mut command(binary, settings), Reader::default(), times, Show::Beside)
}

fn command(binary: &TestBinary, settings: &Settings<'_>) -> Command {
    let words: Vec<OsString> =
        settings.prefix.iter().cloned().chain([binary.executable.clone().into_os_string()]).collect();
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .arg("--show-output")
        .args(&settings.words)
        .args(settings.filters)
        .envs(&settings.variables)
        .env("CARGO_MANIFEST_DIR", &binary.directory)
        .current_dir(&binary.directory);
    command
}

/// Runs the examples in the documentation, which only cargo can do.
pub(crate) fn run_doc_tests() -> Result<Counts> {
    let mut cargo = steps::cargo(&["test", "--workspace", "--doc", "--no-fail-fast", "--quiet"]);
    counted(
        "documentation examples",
        &mut cargo,
        Reader::of_many(),
        Times { run: BINARY_TIME, linger: LINGER },
        Show::Alone,
    )
}

/// Why a binary's output is not read any more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OutputEnd {
    Closed,
    /// The binary has ended, and something that it started has not.
    Held,
}

/// Shows the lines of one binary.
struct Lines<'a> {
    name: &'a str,
    show: Show,
    /// When the line before came: from then on its successor's test ran, for the lab runs one test at a time.
    before: Instant,
    /// What is shown if something failed.
    kept: Vec<String>,
}

impl Lines<'_> {
    fn line(&mut self, line: &str) {
        match self.show {
            Show::Alone => output::line(line),
            Show::Beside if line.starts_with("test ") => {
                let took = output::seconds(self.before.elapsed());
                output::line(&format!(
                    "{}: {} ({took})",
                    self.name,
                    line.trim_start_matches("test ").trim_end()
                ));
            }
            Show::Beside => self.kept.push(line.to_owned()),
        }
        self.before = Instant::now();
    }

    fn finish(&mut self, counts: Counts, stderr: Option<&mut File>) -> Result<()> {
        let Some(stderr) = stderr.filter(|_| counts.failed > 0) else { return Ok(()) };
        let mut said = Vec::new();
        stderr.rewind()?;
        stderr.read_to_end(&mut said)?;
        let said = String::from_utf8_lossy(&said);
        let said = said.lines().skip(said.lines().count().saturating_sub(STDERR_LINES));
        for line in self.kept.drain(..).chain(said.map(str::to_owned)) {
            output::line(&format!("{}| {line}", self.name));
        }
        Ok(())
    }
}

fn counted(
    name: &str,
    command: &mut Command,
    mut reader: Reader,
    times: Times,
    show: Show,
) -> Result<Counts> {
    output::step(name);
    let started = Instant::now();
    let mut stderr = match show {
        Show::Alone => None,
        Show::Beside => Some(tempfile::tempfile().context("cannot keep a binary's standard error")?),
    };
    if let Some(file) = &stderr {
        command.stderr(file.try_clone().context("cannot keep a binary's standard error")?);
    }
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
    let mut shown = Lines { name, show, before: started, kept: Vec::new() };
    let mut ended: Option<Instant> = None;
    let mut killed = false;
    let end = loop {
        if started.elapsed() >= times.run && ended.is_none() && !killed {
            output::note(&format!("{name} did not end within {}: killed", output::seconds(times.run)));
            child.kill().with_context(|| format!("cannot kill {name}"))?;
            killed = true;
        }
        if ended.is_some_and(|ended| ended.elapsed() >= times.linger) {
            break OutputEnd::Held;
        }
        match lines.recv_timeout(LOOK.min(times.run)) {
            Ok(line) => {
                if reader.line(&line) && !line.is_empty() {
                    shown.line(&line);
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break OutputEnd::Closed,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let status = child.try_wait().with_context(|| format!("cannot wait for {name}"))?;
                ended = ended.or(status.map(|_| Instant::now()));
            }
        }
    };
    match end {
        // Only here: whatever holds the pipe open holds up its reader.
        OutputEnd::Closed => drop(forward.join()),
        OutputEnd::Held => output::note(&format!("{name} has left a process that holds its output open")),
    }
    drop(lines);
    let status = child.wait().with_context(|| format!("cannot wait for {name}"))?;
    for skip in reader.skips() {
        output::note(skip);
    }
    let counts = reader.counts(status.success() && end == OutputEnd::Closed);
    shown.finish(counts, stderr.as_mut())?;
    let verdict =
        if counts.failed > 0 { format!("{name} FAILED ({counts})") } else { format!("{name} ({counts})") };
    output::done(&verdict, started.elapsed());
    Ok(counts)
}

#[cfg(test)]
mod tests;
