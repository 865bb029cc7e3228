//! The built `pyro` with a state directory of its own, each call timed and with a deadline.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

/// All calls together, the end apart: with [`CLEANUP_TIME`] below ten minutes.
const TIME: Duration = Duration::from_secs(500);
/// One call. The longest, 100,000 files made in an emulated guest, takes some tens of seconds.
const CALL_TIME: Duration = Duration::from_secs(180);
/// What a command in the guest has, a little less, so that its own end is told rather than the call's.
const IN_GUEST_SECONDS: &str = "170";
/// Deletion of everything that a failure may have left.
const CLEANUP_TIME: Duration = Duration::from_secs(90);
/// How much of a failed call's words is told.
const TOLD_CHARS: usize = 500;

/// See the module. [`Client::close`] deletes the workspaces and the directories.
pub(in crate::bench) struct Client {
    pyro: PathBuf,
    place: PathBuf,
    end: Instant,
}

/// A call that succeeded.
#[derive(Debug)]
pub(in crate::bench) struct Ran {
    pub(in crate::bench) took: Duration,
    /// The most memory that it was seen to take.
    pub(in crate::bench) peak_kibibytes: u64,
    pub(in crate::bench) stdout: String,
}

impl Client {
    /// Takes `place` for itself; what a killed run left there is deleted.
    pub(in crate::bench) fn open(pyro: &Path, place: &Path) -> Result<Self> {
        let client = Self { pyro: pyro.to_owned(), place: place.to_owned(), end: Instant::now() + TIME };
        if place.exists() {
            client.clear()?;
        }
        std::fs::create_dir_all(place).with_context(|| format!("cannot make {}", place.display()))?;
        Ok(Self { end: Instant::now() + TIME, ..client })
    }

    /// The directory for files that go with [`Client::close`].
    pub(in crate::bench) fn place(&self) -> &Path {
        &self.place
    }

    /// Runs `pyro workspace ARGUMENTS`, which must succeed in time.
    pub(in crate::bench) fn run(&self, arguments: &[&str]) -> Result<Ran> {
        let now = Instant::now();
        ensure!(now < self.end, "the time for all workspaces is up ({} s)", TIME.as_secs());
        self.call(arguments, (now + CALL_TIME).min(self.end))
    }

    /// Runs a shell text in a workspace, which must succeed.
    pub(in crate::bench) fn shell(&self, id: &str, text: &str) -> Result<Ran> {
        self.run(&["exec", id, "--timeout-seconds", IN_GUEST_SECONDS, "--shell", text])
    }

    /// Makes a workspace, works in it, and deletes it also where the work failed.
    pub(in crate::bench) fn in_workspace<T>(&self, work: impl FnOnce(&str) -> Result<T>) -> Result<T> {
        let created = self.run(&["create", "debian:12", "--id-only"])?.stdout;
        let id = created.trim();
        let worked = work(id);
        let deleted = self.run(&["delete", id]);
        let value = worked?;
        deleted.map(|_| value)
    }

    /// Deletes the workspaces, then the directory with everything else.
    pub(in crate::bench) fn close(self) -> Result<()> {
        self.clear()
    }

    /// Where a workspace cannot be deleted the directory stays: it is the only way to end the machine.
    fn clear(&self) -> Result<()> {
        let place = self.place.display();
        if self.state().exists() {
            self.call(&["delete", "--all"], Instant::now() + CLEANUP_TIME)
                .with_context(|| format!("workspaces are left in {place}"))?;
        }
        std::fs::remove_dir_all(&self.place).with_context(|| format!("cannot remove {place}"))
    }

    /// The supervisor of the only workspace: it holds a file of the state directory open.
    pub(in crate::bench) fn supervisor(&self) -> Option<u32> {
        let processes = std::fs::read_dir("/proc").ok()?.flatten();
        let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.find(|pid| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let is_supervisor = command.split(|byte| *byte == 0).any(|word| word == b"supervise-machine");
            let open = std::fs::read_dir(format!("/proc/{pid}/fd"));
            let mut open = open.into_iter().flatten().flatten();
            is_supervisor
                && open.any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.starts_with(self.state())))
        })
    }

    fn state(&self) -> PathBuf {
        self.place.join("state")
    }

    fn call(&self, arguments: &[&str], deadline: Instant) -> Result<Ran> {
        let mut command = Command::new(&self.pyro);
        command.arg("workspace").args(arguments).env("PYRO_STATE_DIR", self.state());
        let line = format!("pyro workspace {}", arguments.join(" "));
        run_until(&mut command, &self.place, deadline).with_context(|| line)
    }
}

/// Runs `command`, kills it at `deadline`, and gives its time and words if it succeeded.
///
/// Its output goes to files in `place`, so that nothing has to be read while its end is awaited.
fn run_until(command: &mut Command, place: &Path, deadline: Instant) -> Result<Ran> {
    let outputs = [place.join("stdout"), place.join("stderr")];
    let open =
        |path: &PathBuf| File::create(path).with_context(|| format!("cannot write {}", path.display()));
    command.stdin(Stdio::null()).stdout(open(&outputs[0])?).stderr(open(&outputs[1])?);
    let started = Instant::now();
    let mut child = command.spawn().context("cannot run it")?;
    let mut peak = 0;
    let ended = loop {
        if let Some(status) = child.try_wait().context("cannot wait for it")? {
            break Ok(status);
        }
        if Instant::now() >= deadline {
            child.kill().context("cannot kill it")?;
            child.wait().context("cannot wait for it")?;
            break Err(anyhow!("killed: its time was up after {:.1} s", started.elapsed().as_secs_f64()));
        }
        peak = peak.max(peak_kibibytes(child.id()).unwrap_or_default());
        std::thread::sleep(pause(started.elapsed()));
    };
    let took = started.elapsed();
    let [stdout, stderr] = outputs.map(|path| std::fs::read(path).unwrap_or_default());
    let [stdout, stderr] = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    judge(ended, &stdout, &stderr)?;
    Ok(Ran { took, peak_kibibytes: peak, stdout })
}

/// The most memory that a process has had so far; see proc(5), `VmHWM`.
pub(super) fn peak_kibibytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

/// Between two looks at a running process: short enough that it adds less than a hundredth to its time.
fn pause(elapsed: Duration) -> Duration {
    (elapsed / 200).clamp(Duration::from_micros(100), Duration::from_millis(10))
}

/// A failure with the last words of whoever failed.
fn judge(ended: Result<ExitStatus>, stdout: &str, stderr: &str) -> Result<()> {
    let why = match ended {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => status.to_string(),
        Err(error) => format!("{error:#}"),
    };
    let words = [why.as_str(), tail(stderr.trim()), tail(stdout.trim())];
    bail!(words.into_iter().filter(|words| !words.is_empty()).collect::<Vec<_>>().join(": "))
}

fn tail(text: &str) -> &str {
    let start = text.char_indices().rev().nth(TOLD_CHARS - 1).map_or(0, |(at, _)| at);
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(text: &str, time: Duration) -> Result<Ran> {
        let place = tempfile::tempdir().unwrap();
        let mut command = Command::new("/bin/sh");
        run_until(command.args(["-c", text]), place.path(), Instant::now() + time)
    }

    #[test]
    fn a_call_is_timed_and_its_output_is_kept() {
        let ran = shell("sleep 0.1; echo 1f; echo note >&2", Duration::from_secs(30)).unwrap();
        assert_eq!(ran.stdout, "1f\n");
        assert!(ran.took >= Duration::from_millis(100), "{:?}", ran.took);
    }

    #[test]
    fn a_failed_call_tells_its_last_words() {
        let error = shell("echo '[error] no such workspace' >&2; exit 3", Duration::from_secs(30));
        let error = error.unwrap_err().to_string();
        assert_eq!(error, "exit status: 3: [error] no such workspace");
        let error = shell("echo '{\"ok\": false}'; exit 4", Duration::from_secs(30)).unwrap_err();
        assert_eq!(error.to_string(), "exit status: 4: {\"ok\": false}");
        assert_eq!(tail(&"ä".repeat(TOLD_CHARS + 7)), "ä".repeat(TOLD_CHARS));
        assert_eq!(tail("short"), "short");
    }

    #[test]
    fn a_call_that_does_not_end_is_killed_at_its_deadline() {
        let started = Instant::now();
        let error = shell("exec sleep 60", Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.starts_with("killed: its time was up after"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn looks_are_a_small_part_of_what_they_measure() {
        assert_eq!(pause(Duration::ZERO), Duration::from_micros(100));
        assert_eq!(pause(Duration::from_millis(200)), Duration::from_millis(1));
        assert_eq!(pause(Duration::from_secs(60)), Duration::from_millis(10));
    }

    #[test]
    fn what_a_killed_run_left_is_deleted_first_and_nothing_stays() {
        let top = tempfile::tempdir().unwrap();
        let place = top.path().join("workspaces");
        std::fs::create_dir_all(place.join("state")).unwrap();
        std::fs::write(place.join("old"), "").unwrap();
        let client = Client::open(Path::new("/bin/true"), &place).unwrap();
        assert!(!place.join("old").exists() && place.exists());
        client.close().unwrap();
        assert!(!place.exists());
    }

    #[test]
    fn the_directory_stays_where_workspaces_cannot_be_deleted() {
        let top = tempfile::tempdir().unwrap();
        let place = top.path().join("workspaces");
        let client = Client::open(Path::new("/bin/false"), &place).unwrap();
        std::fs::create_dir(place.join("state")).unwrap();
        let error = client.close().unwrap_err().to_string();
        assert!(error.starts_with("workspaces are left in"), "{error}");
        assert!(place.exists());
    }
}
