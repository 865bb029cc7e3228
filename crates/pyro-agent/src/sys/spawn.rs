//! Starting a program: everything is prepared before the fork, since between fork and exec only
//! system calls are safe in a process that had threads.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use rustix::io::Errno;
use rustix::process::Gid;
use rustix::process::Uid;

/// A program ready to be started.
#[derive(Debug)]
pub(crate) struct Program {
    /// Paths to try in order, as `PATH` gives them.
    pub(crate) candidates: Vec<CString>,
    pub(crate) argv: Vec<CString>,
    pub(crate) envp: Vec<CString>,
    pub(crate) cwd: CString,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    /// Becomes standard input, output and error.
    pub(crate) stdio: [OwnedFd; 3],
    /// Whether standard input is a terminal that becomes the controlling one.
    pub(crate) terminal: bool,
}

/// What the child does before the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Step {
    Session = 1,
    Stdio = 2,
    Identity = 3,
    Directory = 4,
    Exec = 5,
}

/// The step that failed, as the child tells it through its report pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StepFault {
    pub(crate) step: Step,
    pub(crate) errno: i32,
}

impl StepFault {
    /// Bytes of a report.
    pub(crate) const BYTES: usize = 5;

    fn emit(self) -> [u8; Self::BYTES] {
        let [a, b, c, d] = self.errno.to_le_bytes();
        [self.step as u8, a, b, c, d]
    }

    /// Reads a report; `None` when the child died before it told all.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let [step, errno @ ..] = <[u8; Self::BYTES]>::try_from(bytes).ok()?;
        let steps = [Step::Session, Step::Stdio, Step::Identity, Step::Directory, Step::Exec];
        let step = steps.into_iter().find(|known| *known as u8 == step)?;
        Some(Self { step, errno: i32::from_le_bytes(errno) })
    }
}

/// `CLONE_INTO_CGROUP`; libc's constant does not fit its own type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// The kernel's signals are 1 to 64.
const LAST_SIGNAL: i32 = 64;

/// Forks a child, in `cgroup` from its first instruction where one is given, and lets it run `program`.
/// The child writes a [`StepFault`] to `report` (close-on-exec) if it cannot; else `report` just closes.
pub(crate) fn spawn(
    program: &Program,
    cgroup: Option<BorrowedFd<'_>>,
    report: BorrowedFd<'_>,
) -> io::Result<i32> {
    let argv = pointers(&program.argv);
    let envp = pointers(&program.envp);
    let groups: Vec<Gid> = program.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    // SAFETY: `clone_args` is plain integers, for which zero means "not asked for".
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        arguments.flags = CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM the child gets its own copy of this address space and of this stack, and
    // from here it makes system calls only, until exec or `_exit`.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    match pid {
        0 => child(program, &groups, &argv, &envp, report),
        1.. => Ok(i32::try_from(pid).expect("process ids fit an i32")),
        _ => Err(io::Error::last_os_error()),
    }
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

fn child(
    program: &Program,
    groups: &[Gid],
    argv: &[*const libc::c_char],
    envp: &[*const libc::c_char],
    report: BorrowedFd<'_>,
) -> ! {
    let fault = prepare(program, groups)
        .err()
        .unwrap_or_else(|| StepFault { step: Step::Exec, errno: exec(&program.candidates, argv, envp) });
    let _ = rustix::io::write(report, &fault.emit());
    // SAFETY: ends the child without running anything of the parent's.
    unsafe { libc::_exit(127) }
}

/// Session, descriptors, signals, identity, directory. System calls only.
fn prepare(program: &Program, groups: &[Gid]) -> Result<(), StepFault> {
    let at = |step| move |errno: Errno| StepFault { step, errno: errno.raw_os_error() };
    rustix::process::setsid().map_err(at(Step::Session))?;
    let [stdin, stdout, stderr] = &program.stdio;
    rustix::stdio::dup2_stdin(stdin).map_err(at(Step::Stdio))?;
    rustix::stdio::dup2_stdout(stdout).map_err(at(Step::Stdio))?;
    rustix::stdio::dup2_stderr(stderr).map_err(at(Step::Stdio))?;
    if program.terminal {
        rustix::process::ioctl_tiocsctty(stdin.as_fd()).map_err(at(Step::Stdio))?;
    }
    reset_signals();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // A process without privileges may keep what it has.
    if rustix::process::geteuid().is_root() {
        rustix::thread::set_thread_groups(groups).map_err(at(Step::Identity))?;
    }
    let (uid, gid) = (Uid::from_raw(program.uid), Gid::from_raw(program.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(at(Step::Identity))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(at(Step::Identity))?;
    rustix::process::chdir(program.cwd.as_c_str()).map_err(at(Step::Directory))
}

/// The agent ignores SIGPIPE, and exec keeps what is ignored or blocked; a program starts with neither.
fn reset_signals() {
    for signal in 1..=LAST_SIGNAL {
        // SAFETY: the default disposition is valid for every signal; where it may not be set nothing happens.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: a signal set is plain bits, for which zero is the empty set on Linux.
    let none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `none` lives through the call and no old mask is asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) };
}

/// Tries the candidates as `execvp` does; returns the errno that tells most.
fn exec(candidates: &[CString], argv: &[*const libc::c_char], envp: &[*const libc::c_char]) -> i32 {
    let mut denied = false;
    for candidate in candidates {
        match exec_one(candidate, argv, envp) {
            libc::EACCES => denied = true,
            libc::ENOENT | libc::ENOTDIR => {}
            other => return other,
        }
    }
    if denied { libc::EACCES } else { libc::ENOENT }
}

fn exec_one(path: &CStr, argv: &[*const libc::c_char], envp: &[*const libc::c_char]) -> i32 {
    // SAFETY: `path` ends with a zero byte; both lists end with a null pointer and point to C strings
    // that the caller keeps alive.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::ENOENT)
}
