//! `clone` and `execve` with descriptors at fixed numbers.
//!
//! Between the two the child shares a copy of a process that may have had many threads: it may only make
//! system calls on memory prepared before.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;

/// Everything the child needs, prepared.
pub(super) struct Image {
    path: CString,
    map: Vec<(OwnedFd, RawFd)>,
    uid_map: CString,
    gid_map: CString,
    /// `cgroup.procs` of the cgroup to enter.
    entrance: Option<OwnedFd>,
}

/// The namespaces that a machine gets, best set first; the last is always allowed.
const NAMESPACE_SETS: [libc::c_int; 3] = [libc::CLONE_NEWUSER | OWN_NAMESPACES, OWN_NAMESPACES, 0];
const OWN_NAMESPACES: libc::c_int =
    libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWNET;

/// Where a child failed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The namespaces were made but may not be used: fewer of them may do.
    Namespaces = 1,
    /// Anything after.
    Program = 2,
}

struct Failure {
    stage: Stage,
    errno: i32,
}

impl Image {
    /// `map` and `entrance` must be copies that stand above every target number.
    pub(super) fn new(
        path: CString,
        map: Vec<(OwnedFd, RawFd)>,
        entrance: Option<OwnedFd>,
    ) -> io::Result<Self> {
        let id_map = |id: u32| CString::new(format!("0 {id} 1\n")).map_err(io::Error::other);
        Ok(Self {
            path,
            map,
            uid_map: id_map(rustix::process::geteuid().as_raw())?,
            gid_map: id_map(rustix::process::getegid().as_raw())?,
            entrance,
        })
    }
}

/// The number above all targets.
pub(super) fn first_free(map: &[(OwnedFd, RawFd)]) -> RawFd {
    map.iter().map(|(_, target)| target + 1).max().unwrap_or(0)
}

/// Starts the program and waits until it is executed, or says why it is not.
pub(super) fn spawn(image: &Image) -> io::Result<Pid> {
    let mut last = io::Error::other("no namespaces to try");
    for namespaces in NAMESPACE_SETS {
        let (error_in, error_low) = pipe_with(PipeFlags::CLOEXEC)?;
        // Away from the target numbers.
        let error_out = rustix::io::fcntl_dupfd_cloexec(&error_low, first_free(&image.map))?;
        drop(error_low);
        let pid = match clone(namespaces, image, &error_out) {
            Ok(pid) => pid,
            // Not permitted, not supported, or too many of them: ask for less.
            Err(error) => {
                last = error;
                continue;
            }
        };
        // So that end of file means that the child has executed the program.
        drop(error_out);
        let Some(failure) = await_execution(pid, error_in)? else { return Ok(pid) };
        last = io::Error::from_raw_os_error(failure.errno);
        if failure.stage == Stage::Program {
            break;
        }
    }
    Err(last)
}

fn clone(namespaces: libc::c_int, image: &Image, error_out: &OwnedFd) -> io::Result<Pid> {
    let flags = libc::c_long::from(namespaces | libc::SIGCHLD);
    // SAFETY: without CLONE_VM this is fork: the child runs on a copy of this stack. It only makes system
    // calls on prepared memory, then executes or exits.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => child(image, namespaces & libc::CLONE_NEWUSER != 0, error_out),
        pid => i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| io::Error::other("clone returned no process id")),
    }
}

/// What the child reports; nothing when it has become the program.
fn await_execution(pid: Pid, error_in: OwnedFd) -> io::Result<Option<Failure>> {
    let mut report = [0u8; 5];
    match File::from(error_in).read_exact(&mut report) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
        Ok(()) => {
            rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())?;
            let [stage, errno @ ..] = report;
            let stage = if stage == Stage::Namespaces as u8 { Stage::Namespaces } else { Stage::Program };
            Ok(Some(Failure { stage, errno: i32::from_ne_bytes(errno) }))
        }
    }
}

fn child(image: &Image, user_namespace: bool, error_out: &OwnedFd) -> ! {
    let failure = match prepare(image, user_namespace) {
        Ok(()) => Failure { stage: Stage::Program, errno: execute(image) },
        Err(failure) => failure,
    };
    let [a, b, c, d] = failure.errno.to_ne_bytes();
    let report = [failure.stage as u8, a, b, c, d];
    // SAFETY: the buffer is as long as said and alive.
    unsafe { libc::write(error_out.as_raw_fd(), report.as_ptr().cast(), report.len()) };
    // SAFETY: ends this process without running the parent's exit handlers.
    unsafe { libc::_exit(127) }
}

fn become_root_of_own(image: &Image) -> Result<(), i32> {
    // Until the maps are written the process has no user; afterwards it is root of its own namespace.
    write_file(c"/proc/self/setgroups", c"deny")?;
    write_file(c"/proc/self/uid_map", &image.uid_map)?;
    write_file(c"/proc/self/gid_map", &image.gid_map)
}

fn prepare(image: &Image, user_namespace: bool) -> Result<(), Failure> {
    if user_namespace {
        become_root_of_own(image).map_err(|errno| Failure { stage: Stage::Namespaces, errno })?;
    }
    arrange(image).map_err(|errno| Failure { stage: Stage::Program, errno })
}

fn arrange(image: &Image) -> Result<(), i32> {
    // SAFETY: the call takes plain numbers.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) })?;
    // SAFETY: a new session; takes nothing. Keeps a terminal's signals from the machine.
    unsafe { libc::setsid() };
    if let Some(entrance) = &image.entrance {
        // Whoever writes 0 means itself. The host looks afterwards whether it worked.
        // SAFETY: the text is one byte long.
        unsafe { libc::write(entrance.as_raw_fd(), c"0".as_ptr().cast(), 1) };
    }
    for (source, target) in &image.map {
        // SAFETY: the source is open; what stood at the target is closed, which only concerns this copy.
        check(unsafe { libc::dup2(source.as_raw_fd(), *target) })?;
    }
    reset_signals()
}

/// The program starts with no signal blocked and none ignored.
fn reset_signals() -> Result<(), i32> {
    // SAFETY: an all-zero signal set is a valid value (the empty set).
    let empty: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is initialised and alive.
    check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, std::ptr::null_mut()) })?;
    for signal in 1..32 {
        // SAFETY: restores a default; fails harmlessly for the two signals that have no other.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    Ok(())
}

fn execute(image: &Image) -> i32 {
    let argv = [image.path.as_ptr(), std::ptr::null()];
    let environment: [*const libc::c_char; 1] = [std::ptr::null()];
    // SAFETY: both arrays are null-terminated and their strings alive.
    unsafe { libc::execve(image.path.as_ptr(), argv.as_ptr(), environment.as_ptr()) };
    last_errno()
}

fn write_file(path: &CStr, text: &CStr) -> Result<(), i32> {
    // SAFETY: the path is a C string.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    check(fd)?;
    let len = text.to_bytes().len();
    // SAFETY: the text is `len` bytes long.
    let written = unsafe { libc::write(fd, text.as_ptr().cast(), len) };
    let result = if written < 0 { Err(last_errno()) } else { Ok(()) };
    // SAFETY: the descriptor was opened above and is used no more.
    unsafe { libc::close(fd) };
    result
}

fn check(result: libc::c_int) -> Result<(), i32> {
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}

fn last_errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}
