//! What the command's tests share.

#![allow(dead_code, clippy::unwrap_used, clippy::print_stdout)] // each test binary uses its own part

pub(crate) mod forest;
pub(crate) mod host;
pub(crate) mod mcp;
pub(crate) mod network;
pub(crate) mod published;
pub(crate) mod tree;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A `pyro` with a state directory of its own and the caller's environments and guest bundle.
pub(crate) struct Pyro {
    pub(crate) state: tempfile::TempDir,
    /// Variables for every command, beside the test's own.
    pub(crate) variables: Vec<(String, String)>,
    /// Where machines' processes tell of system calls that their filters forbid.
    trapped: tempfile::NamedTempFile,
}

impl Drop for Pyro {
    fn drop(&mut self) {
        let trapped = std::fs::read_to_string(self.trapped.path()).unwrap_or_default();
        match std::thread::panicking() {
            true => print!("{trapped}"),
            false => assert!(!trapped.contains("forbidden system call"), "in a machine's process: {trapped}"),
        }
    }
}

impl Pyro {
    pub(crate) fn new() -> Self {
        let trapped = tempfile::NamedTempFile::new().unwrap();
        Self { state: tempfile::tempdir().unwrap(), variables: Vec::new(), trapped }
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pyro"));
        command.args(with_patience(arguments)).env("PYRO_STATE_DIR", self.state.path()).stdin(Stdio::null());
        command.env("PYRO_TEST_TRAP_LOG", self.trapped.path());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        Ran::from(self.command(arguments).output().unwrap())
    }

    /// Processes that hold a file of the state directory open: supervisors and their machines.
    pub(crate) fn holders(&self) -> BTreeSet<u32> {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| holds_open(*pid, self.state.path())).collect()
    }

    /// The supervisor of the only started workspace.
    pub(crate) fn supervisor(&self) -> u32 {
        let is_supervisor = |pid: &u32| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.split(|byte| *byte == 0).any(|word| word == b"supervise-machine")
        };
        let found: Vec<u32> = self.holders().into_iter().filter(is_supervisor).collect();
        assert_eq!(found.len(), 1, "supervisors: {found:?}");
        found[0]
    }

    /// Fails unless nothing is left in the state directory.
    pub(crate) fn assert_nothing_left(&self) {
        let left = std::fs::read_dir(self.state.path()).unwrap().map(|entry| entry.unwrap().path());
        // What a trial of the host's KVM told is kept.
        let left: Vec<_> = left.filter(|path| !path.ends_with("kvm.json")).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

/// The programs of a machine's engine: none where vCPUs are threads of `pyro-vmm`.
pub(crate) fn engine_programs() -> &'static [&'static str] {
    static IS_NATIVE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    let is_native = IS_NATIVE.get_or_init(|| {
        let report = Pyro::new().run(&["doctor", "--json"]).stdout;
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        report["engine"]["name"] == "kvm"
    });
    if *is_native { &[] } else { &["qemu-system-x86"] }
}

fn holds_open(pid: u32, dir: &Path) -> bool {
    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors.flatten().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|target| target.starts_with(dir)))
}

/// A finished command.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Whether real guests can run; where not, says so and (under `PYRO_REQUIRE=guest`) fails.
pub(crate) fn guest_available() -> bool {
    let pyro = Pyro::new();
    let doctor = pyro.run(&["doctor"]);
    let inspected = pyro.run(&["env", "inspect", "debian:12"]);
    let reason = match (doctor.code, inspected.stdout.contains("Installed: yes")) {
        (Some(0), true) => return true,
        (Some(0), false) => "debian:12 is not installed".to_owned(),
        _ => format!("pyro doctor fails: {}", doctor.stdout.replace('\n', " ")),
    };
    let required =
        std::env::var("PYRO_REQUIRE").is_ok_and(|list| list.split(',').any(|word| word == "guest"));
    assert!(!required, "guests are required here, but {reason}");
    println!("skipped ({reason})");
    false
}

/// All processes below `pid`, with the time each was started so that a reused pid is not mistaken.
pub(crate) fn descendants(pid: u32) -> BTreeSet<(u32, String)> {
    let mut found = BTreeSet::new();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(child) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let Some((parent_of, started)) = stat(child) else { continue };
            if parent_of == parent && found.insert((child, started)) {
                parents.push(child);
            }
        }
    }
    found
}

fn stat(pid: u32) -> Option<(u32, String)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    if fields[0] == "Z" {
        return None;
    }
    Some((fields[1].parse().ok()?, fields[19].to_owned()))
}

/// Waits until none of `processes` is alive.
pub(crate) fn assert_all_gone(processes: &BTreeSet<(u32, String)>) {
    wait_until("processes to end", || {
        processes.iter().all(|(pid, started)| stat(*pid).is_none_or(|s| s.1 != *started))
    });
}

/// How many times slower than usual guests are: `PYRO_TEST_SLOWNESS`.
fn slowness() -> u32 {
    std::env::var("PYRO_TEST_SLOWNESS").map_or(1, |times| times.parse().unwrap())
}

/// How long a test waits for what takes at most `usual` on an ordinary machine.
pub(crate) fn patience(usual: Duration) -> Duration {
    usual * slowness()
}

/// The usual limit of a command in a guest, where none is given.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// Gives commands that have only the usual time more of it where guests are slow.
fn with_patience(arguments: &[&str]) -> Vec<String> {
    let mut words: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
    let at = match arguments {
        ["run", ..] => 1,
        ["workspace", "exec", "list" | "wait" | "kill" | "logs", ..] => return words,
        ["workspace", "exec", ..] => 2,
        _ => return words,
    };
    let mut options = arguments.iter().take_while(|word| **word != "--");
    if slowness() > 1 && !options.any(|word| ["--timeout-seconds", "--detach"].contains(word)) {
        let limit = patience(COMMAND_LIMIT).as_secs().to_string();
        words.splice(at..at, ["--timeout-seconds".to_owned(), limit]);
    }
    words
}

/// Polls `condition`, which has no event to wait for, until it holds or 90 usual seconds have passed: many times what
/// an idle host takes, for a busy one.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience(Duration::from_secs(90));
    while !condition() {
        assert!(Instant::now() < deadline, "gave up waiting for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a program named `name` (as in `/proc/PID/comm`) is below `pid`.
pub(crate) fn has_descendant(pid: u32, name: &str) -> bool {
    count_descendants(pid, name) > 0
}

/// How many programs named so are below `pid`.
pub(crate) fn count_descendants(pid: u32, name: &str) -> usize {
    let is_named = |child: &u32| {
        std::fs::read_to_string(Path::new("/proc").join(child.to_string()).join("comm"))
            .is_ok_and(|comm| comm.trim() == name)
    };
    descendants(pid).iter().filter(|(child, _)| is_named(child)).count()
}
