//! The process tree of one command: a cgroup of its own, or where there are none (a test on the host) the
//! session and the descendants that the process table shows.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pyro_agent::wire::Usage;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal};

use crate::limits::{
    BOUNDED_MEMORY_PART, BOUNDED_MEMORY_SPARED_BYTES, BOUNDED_TASKS_PART, KILL_ROUNDS, MAX_CGROUP_DEPTH,
};

/// Makes cgroups below one directory.
#[derive(Debug)]
pub(crate) struct Cgroups {
    base: PathBuf,
    next: AtomicU64,
    /// Whether the kernel bounds and accounts for trees, since the first that asked.
    controllers: OnceLock<Result<(), io::ErrorKind>>,
}

/// What names of trees begin with.
const PREFIX: &str = "exec-";

impl Cgroups {
    /// Cgroups below `base`, which is made.
    pub(crate) fn open(base: &Path) -> io::Result<Self> {
        fs::create_dir_all(base)?;
        // Without this file the directory is not in a cgroup2 tree, or the kernel is older than 5.14.
        fs::metadata(base.join("cgroup.kill"))?;
        fs::write(base.join("cgroup.max.depth"), MAX_CGROUP_DEPTH.to_string())?;
        Ok(Self { base: base.to_owned(), next: AtomicU64::new(1), controllers: OnceLock::new() })
    }

    fn create(&self, confinement: Confinement) -> io::Result<Tree> {
        let path = self.base.join(format!("{PREFIX}{}", self.next.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&path)?;
        if confinement == Confinement::Bounded
            && let Err(error) = self.bound(&path)
        {
            let _ = fs::remove_dir(&path);
            return Err(error);
        }
        match rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(directory) => Ok(Tree::Cgroup { path, directory }),
            Err(error) => {
                let _ = fs::remove_dir(&path);
                Err(error.into())
            }
        }
    }
}

impl Cgroups {
    /// Leaves the rest of the guest some processes and memory, whatever the tree does.
    fn bound(&self, path: &Path) -> io::Result<()> {
        // Only now: the kernel takes its time for this, and most guests never need it.
        let enabled = self.controllers.get_or_init(|| self.enable().map_err(|error| error.kind()));
        enabled.map_err(io::Error::from)?;
        let tasks: u64 = fs::read_to_string("/proc/sys/kernel/threads-max")?
            .trim()
            .parse()
            .map_err(|_| io::Error::other("threads-max is no number"))?;
        let system = rustix::system::sysinfo();
        let memory = system.totalram * u64::from(system.mem_unit);
        fs::write(path.join("pids.max"), (tasks / BOUNDED_TASKS_PART).max(1).to_string())?;
        let spared = (memory / BOUNDED_MEMORY_PART).min(BOUNDED_MEMORY_SPARED_BYTES);
        fs::write(path.join("memory.max"), (memory - spared).to_string())
    }

    /// Lets the kernel bound and account for each tree, and divide the CPUs' time among trees, however many
    /// processes they have.
    fn enable(&self) -> io::Result<()> {
        let there = fs::read_to_string(self.base.join("cgroup.controllers"))?;
        let wanted = |name: &&str| matches!(*name, "cpu" | "memory" | "pids");
        let words: Vec<String> =
            there.split_ascii_whitespace().filter(wanted).map(|name| format!("+{name}")).collect();
        fs::write(self.base.join("cgroup.subtree_control"), words.join(" "))
    }

    /// What the tree whose main process is `main` uses; `None` where it has ended.
    pub(crate) fn usage(&self, main: i32) -> Option<Usage> {
        let membership = fs::read_to_string(format!("/proc/{main}/cgroup")).ok()?;
        let name = membership.lines().find_map(|line| tree_name(line.strip_prefix("0::")?))?;
        let path = self.base.join(name);
        let cpu = fs::read_to_string(path.join("cpu.stat")).ok()?;
        let cpu_us = cpu.lines().find_map(|line| line.strip_prefix("usage_usec ")?.trim().parse().ok())?;
        let number = |file: &str| fs::read_to_string(path.join(file)).ok()?.trim().parse().ok();
        Some(Usage { cpu_us, memory_bytes: number("memory.current"), task_count: number("pids.current") })
    }
}

/// The tree's part of the path of a cgroup at or below it.
fn tree_name(path: &str) -> Option<&str> {
    path.split('/').find(|part| {
        part.strip_prefix(PREFIX).is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

/// Whether a tree may take all that the guest has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Confinement {
    None,
    Bounded,
}

/// The processes of one command.
#[derive(Debug)]
pub(crate) enum Tree {
    /// All that the command forks, whatever sessions it makes.
    Cgroup { path: PathBuf, directory: OwnedFd },
    /// The session of the main process and its descendants.
    Session,
}

impl Tree {
    /// A new empty tree.
    pub(crate) fn create(cgroups: Option<&Cgroups>, confinement: Confinement) -> io::Result<Self> {
        cgroups.map_or(Ok(Self::Session), |cgroups| cgroups.create(confinement))
    }

    /// The directory to fork into.
    pub(crate) fn cgroup(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Cgroup { directory, .. } => Some(directory.as_fd()),
            Self::Session => None,
        }
    }

    /// Whether processes may be left besides the main one, which is known to have ended.
    pub(crate) fn is_populated(&self, main: i32) -> bool {
        match self {
            Self::Cgroup { path, .. } => populated(path),
            Self::Session => !members(main).is_empty(),
        }
    }

    /// Kills every process of the tree whose main process is `main`.
    pub(crate) fn kill(&self, main: i32) {
        match self {
            Self::Cgroup { path, .. } => {
                let _ = fs::write(path.join("cgroup.kill"), "1");
            }
            Self::Session => kill_session(main),
        }
    }

    /// Sends a signal to every process of the tree. One that is forked at this moment may not get it.
    pub(crate) fn signal(&self, main: i32, signal: Signal) {
        let pids = match self {
            Self::Cgroup { path, .. } => processes_in(path),
            Self::Session => members(main),
        };
        for pid in pids.into_iter().filter_map(Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// A file that polls as `PRI` when the last process has ended; `None` where nothing tells.
    pub(crate) fn events(&self) -> Option<fs::File> {
        match self {
            Self::Cgroup { path, .. } => fs::File::open(path.join("cgroup.events")).ok(),
            Self::Session => None,
        }
    }

    /// Waits until nothing of it lives, `limit` at most.
    pub(crate) fn wait_empty(&self, limit: Duration) -> bool {
        let Self::Cgroup { path, .. } = self else { return true };
        let deadline = Instant::now() + limit;
        let Ok(events) = fs::File::open(path.join("cgroup.events")) else { return true };
        while populated(path) {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            // The kernel raises PRI when `populated` changes after the file was opened.
            let mut poll = [PollFd::new(&events, PollFlags::PRI)];
            let _ = rustix::event::poll(&mut poll, rustix::event::Timespec::try_from(left).ok().as_ref());
        }
        true
    }

    /// Removes the cgroup and those that the command made inside it.
    pub(crate) fn remove(self) {
        if let Self::Cgroup { path, .. } = self {
            remove_cgroup(&path);
        }
    }
}

/// Processes of a cgroup and of those that the command made inside it.
fn processes_in(path: &Path) -> Vec<i32> {
    let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    // The recursion goes no deeper than MAX_CGROUP_DEPTH, which the kernel enforces.
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            pids.extend(processes_in(&entry.path()));
        }
    }
    pids
}

fn populated(path: &Path) -> bool {
    fs::read_to_string(path.join("cgroup.events")).is_ok_and(|events| events.contains("populated 1"))
}

fn remove_cgroup(path: &Path) {
    if fs::remove_dir(path).is_ok() {
        return;
    }
    // The recursion goes no deeper than MAX_CGROUP_DEPTH, which the kernel enforces.
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

fn kill_session(main: i32) {
    for _ in 0..KILL_ROUNDS {
        let members = members(main);
        if members.is_empty() {
            return;
        }
        for pid in members {
            if let Some(pid) = Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// Living processes of the session, and descendants of its members.
fn members(main: i32) -> Vec<i32> {
    let mut rows: Vec<(i32, i32, i32)> = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        rows.extend(parse_stat(&stat).map(|(parent, session)| (pid, parent, session)));
    }
    let mut found: Vec<i32> =
        rows.iter().filter(|row| row.2 == main || row.0 == main).map(|row| row.0).collect();
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        for row in &rows {
            if row.1 == parent && !found.contains(&row.0) {
                found.push(row.0);
            }
        }
        next += 1;
    }
    found
}

/// Parent and session of a living process: the name stands in parentheses and may hold anything.
fn parse_stat(stat: &str) -> Option<(i32, i32)> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    let parent = fields.next()?.parse().ok()?;
    Some((parent, fields.nth(1)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_known_from_any_cgroup_below_it() {
        assert_eq!(tree_name("/pyro/exec-12"), Some("exec-12"));
        assert_eq!(tree_name("/pyro/exec-3/docker/exec-x"), Some("exec-3"));
        for other in ["/", "/pyro", "/pyro/exec-1x", "/pyro/other", "/pyro/exec-../x"] {
            assert_eq!(tree_name(other), None, "{other}");
        }
    }
}
