//! The jailed process as a child: started in namespaces of its own, reaped by a thread of its own.
//!
//! The kernel ties a child's parent-death signal to the *thread* that made it, and callers start machines
//! from short-lived worker threads. So each child has one thread that makes it, waits for it, and keeps its
//! status.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, Signal, WaitIdOptions};

use super::SpawnError;
use super::cgroup::MachineCgroup;
use super::sys::{self, Image};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessEnd {
    /// By itself.
    Status(i32),
    /// By a signal.
    Signal(i32),
    /// Not known: somebody else reaped it.
    Unknown,
}

impl fmt::Display for ProcessEnd {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(out, "status {status}"),
            Self::Signal(signal) => write!(out, "signal {signal}"),
            Self::Unknown => out.write_str("unknown status"),
        }
    }
}

/// A program with the descriptors it gets, each at its number.
pub(super) struct Program<'a> {
    pub(super) path: &'a Path,
    pub(super) map: &'a [(BorrowedFd<'a>, RawFd)],
    /// Where it runs, with all that it starts; `None` is where this process is.
    pub(super) cgroup: Option<&'a MachineCgroup>,
}

/// A running or ended child.
#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    pidfd: OwnedFd,
    reaper: Option<std::thread::JoinHandle<ProcessEnd>>,
    end: Option<ProcessEnd>,
}

impl Process {
    pub(super) fn spawn(program: &Program<'_>) -> Result<Self, SpawnError> {
        let bytes = program.path.as_os_str().as_bytes().to_vec();
        let path = CString::new(bytes).map_err(|error| SpawnError::Execute {
            path: program.path.to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidInput, error),
        })?;
        let map = duplicate(program.map).map_err(SpawnError::os("duplicate descriptors"))?;
        let entrance = program.cgroup.map(|cgroup| entrance(cgroup, &map)).transpose();
        let entrance = entrance.map_err(SpawnError::os("open the cgroup"))?;
        let image = Image::new(path, map, entrance).map_err(SpawnError::os("describe the user"))?;
        let (started, is_started) = mpsc::sync_channel(1);
        let reaper = std::thread::Builder::new()
            .name("pyro-machine".into())
            .spawn(move || reap(image, &started))
            .map_err(SpawnError::os("start a thread"))?;
        let (pid, pidfd) = match is_started.recv() {
            Ok(Ok(child)) => child,
            Ok(Err(source)) => return Err(SpawnError::Execute { path: program.path.to_owned(), source }),
            Err(_) => return Err(SpawnError::os("start a process")(io::Error::other("its thread ended"))),
        };
        Ok(Self { pid, pidfd, reaper: Some(reaper), end: None })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn kill(&self) {
        // Fails only when it has ended.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    pub(super) fn wait(&mut self) -> ProcessEnd {
        if let Some(reaper) = self.reaper.take() {
            self.end = reaper.join().ok();
        }
        self.end.unwrap_or(ProcessEnd::Unknown)
    }

    /// Waits for at most `limit`, then kills.
    pub(super) fn wait_or_kill(&mut self, limit: Duration) -> ProcessEnd {
        let limit = Timespec::try_from(limit).ok();
        let _ = poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], limit.as_ref());
        self.kill();
        self.wait()
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Copies that stand above every target number, so that no mapping overwrites another's source.
fn duplicate(map: &[(BorrowedFd<'_>, RawFd)]) -> io::Result<Vec<(OwnedFd, RawFd)>> {
    let above = map.iter().map(|(_, target)| target + 1).max().unwrap_or(0);
    map.iter()
        .map(|(source, target)| Ok((rustix::io::fcntl_dupfd_cloexec(source, above)?, *target)))
        .collect()
}

/// Away from the target numbers as well.
fn entrance(cgroup: &MachineCgroup, map: &[(OwnedFd, RawFd)]) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(cgroup.entrance()?, sys::first_free(map))?)
}

type StartResult = io::Result<(u32, OwnedFd)>;

/// Body of the child's thread.
fn reap(image: Image, started: &mpsc::SyncSender<StartResult>) -> ProcessEnd {
    let opened = sys::spawn(&image).and_then(|pid| {
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        Ok((pid, pidfd))
    });
    // The host's copies of what the child was given.
    drop(image);
    let (pid, pidfd) = match opened {
        Ok(child) => child,
        Err(error) => {
            let _ = started.send(Err(error));
            return ProcessEnd::Unknown;
        }
    };
    let _ = started.send(Ok((pid.as_raw_nonzero().get().unsigned_abs(), pidfd)));
    loop {
        match rustix::process::waitid(rustix::process::WaitId::Pid(pid), WaitIdOptions::EXITED) {
            Ok(Some(status)) => return end_of(&status),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return ProcessEnd::Unknown,
        }
    }
}

fn end_of(status: &rustix::process::WaitIdStatus) -> ProcessEnd {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => ProcessEnd::Status(code),
        (None, Some(signal)) => ProcessEnd::Signal(signal),
        (None, None) => ProcessEnd::Unknown,
    }
}
