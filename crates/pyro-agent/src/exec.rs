//! Runs one program for the host: prepare, fork, pump, kill what is left, tell how it ended.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pyro_agent::redact::Needles;
use pyro_agent::wire::{Exec, Exit, Failure, FailureCode, FrameKind, Started, TtySize, Usage};
use rustix::event::PollFlags;
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::pipe::PipeFlags;
use rustix::pty::OpenptFlags;
use rustix::termios::{InputModes, OptionalActions, Winsize};

use crate::accounts::{Accounts, Identity};
use crate::authorities::Authorities;
use crate::connection::{Connection, failure, os_failure, wait};
use crate::reaper::{Child, Reaper};
use crate::secrets::{SecretSet, Secrets};
use crate::sys::{self, Program, Step, StepFault};

mod outbox;
mod processes;
mod session;
#[cfg(test)]
mod tests;

pub(crate) use processes::{Cgroups, Confinement, Tree};
use session::{Outcome, Pumped, Session};

/// Variables that every program gets unless the host sets them.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const DEFAULT_LANG: &str = "C.UTF-8";
const DEFAULT_TERM: &str = "xterm-256color";
/// Where programs start when the host names no directory.
pub(crate) const WORKSPACE: &str = "/workspace";

/// What execs share.
#[derive(Debug)]
pub(crate) struct Executor {
    pub(crate) reaper: Arc<Reaper>,
    /// `None` only off a guest.
    pub(crate) cgroups: Option<Cgroups>,
    pub(crate) secrets: Arc<Secrets>,
    pub(crate) authorities: Authorities,
}

impl Executor {
    /// Serves one exec to its end. `Ok` holds nothing: all results have been sent. A failure is for the
    /// caller to send; after a lost connection there is nobody to send to.
    pub(crate) fn run(&self, connection: &mut Connection, exec: &Exec) -> Result<(), Failure> {
        let secrets = self.secrets.current();
        let request = Request::prepare(exec, &secrets, self.authorities.variables())?;
        let stdio = Stdio::open(exec, &request.identity)
            .map_err(|error| os_failure("cannot open the command's standard streams", &error))?;
        let confinement = if exec.confined { Confinement::Bounded } else { Confinement::None };
        let tree = Tree::create(self.cgroups.as_ref(), confinement)
            .map_err(|error| os_failure("cannot make a cgroup for the command", &error))?;
        let outcome = self.run_in(&tree, connection, exec, request, stdio, secrets.needles());
        tree.remove();
        outcome
    }

    /// What the tree of a running exec uses.
    pub(crate) fn usage(&self, pid: i32) -> Result<Usage, Failure> {
        let usage = self.cgroups.as_ref().and_then(|cgroups| cgroups.usage(pid));
        usage.ok_or_else(|| failure(FailureCode::NotFound, format!("no command has the main process {pid}")))
    }

    fn run_in(
        &self,
        tree: &Tree,
        connection: &mut Connection,
        exec: &Exec,
        request: Request,
        stdio: Stdio,
        needles: &Arc<Needles>,
    ) -> Result<(), Failure> {
        let started_at = Instant::now();
        let deadline = exec.timeout_ms.map(|limit| started_at + Duration::from_millis(limit));
        let (child, pumped) = self.start(tree, connection, request, stdio, deadline)?;
        let started = connection.send(FrameKind::Started, &Started { pid: child.pid() });
        let session = Session::new(connection, tree, &child, pumped, deadline, needles);
        let outcome = started.and_then(|()| session.pump());
        // Whatever happened, nothing of the tree outlives the exec.
        tree.kill(child.pid());
        tree.wait_empty(crate::limits::KILL_DEADLINE);
        let Ok(Outcome { ended, timed_out, ran }) = outcome else { return Ok(()) };
        let (code, signal) = match ended {
            Some(crate::reaper::Ended::Code(code)) => (Some(code), None),
            Some(crate::reaper::Ended::Signal(signal)) => (None, Some(signal)),
            None => (None, None),
        };
        let duration_ms = u64::try_from(ran.as_millis()).unwrap_or(u64::MAX);
        // The host may be gone, which is its own affair by now.
        let _ = connection.send(FrameKind::Exit, &Exit { code, signal, timed_out, duration_ms });
        Ok(())
    }

    /// Forks, and waits until the program runs or is known not to.
    fn start(
        &self,
        tree: &Tree,
        connection: &mut Connection,
        request: Request,
        stdio: Stdio,
        deadline: Option<Instant>,
    ) -> Result<(Arc<Child>, Pumped), Failure> {
        let os = |what: &'static str| move |error: io::Error| os_failure(what, &error);
        let (report, report_end) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| os("cannot make a pipe")(e.into()))?;
        let Stdio { child: child_ends, pumped } = stdio;
        let program = request.program(child_ends);
        let child = self
            .reaper
            .start(|| sys::spawn(&program, tree.cgroup(), report_end.as_fd()))
            .map_err(os("cannot start a process"))?;
        drop(report_end);
        let told = read_report(&report, connection, deadline);
        if let Ok(report) = &told
            && report.is_empty()
        {
            return Ok((child, pumped));
        }
        tree.kill(child.pid());
        tree.wait_empty(crate::limits::KILL_DEADLINE);
        Err(match told {
            Ok(report) => match StepFault::parse(&report) {
                Some(fault) => request.explain(fault, &program),
                None => failure(FailureCode::Os, "the command died before it was executed"),
            },
            Err(error) => os_failure(&format!("{:?} could not be executed", request.argv[0]), &error),
        })
    }
}

/// The child's report: empty when the program runs. A program on a stuck file system may take for ever.
fn read_report(
    report: &OwnedFd,
    connection: &mut Connection,
    deadline: Option<Instant>,
) -> io::Result<Vec<u8>> {
    let (socket, _) = connection.parts();
    let mut bytes = Vec::new();
    loop {
        let mut poll = [
            rustix::event::PollFd::new(report, PollFlags::IN),
            rustix::event::PollFd::new(socket, PollFlags::RDHUP),
        ];
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| rustix::event::Timespec::try_from(left).ok());
        match rustix::event::poll(&mut poll, left.as_ref()) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
            Ok(_) if !poll[0].revents().is_empty() => {}
            Ok(_) => return Err(io::ErrorKind::ConnectionAborted.into()),
        }
        let mut chunk = [0; 16];
        match rustix::io::read(report, &mut chunk) {
            Ok(0) => return Ok(bytes),
            Ok(len) => bytes.extend_from_slice(&chunk[..len]),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A checked [`Exec`], with names resolved.
struct Request {
    argv: Vec<String>,
    c_argv: Vec<CString>,
    candidates: Vec<CString>,
    envp: Vec<CString>,
    cwd: String,
    c_cwd: CString,
    user: String,
    identity: Identity,
    terminal: bool,
}

impl Request {
    fn prepare(
        exec: &Exec,
        secrets: &SecretSet,
        authorities: Vec<(String, String)>,
    ) -> Result<Self, Failure> {
        let bad = |message: String| failure(FailureCode::BadRequest, message);
        let program = exec.argv.first().filter(|program| !program.is_empty());
        let program = program.ok_or_else(|| bad("no program is named".to_owned()))?;
        let c_text = |text: &str, what: &str| {
            CString::new(text).map_err(|_| bad(format!("{what} {text:?} holds a zero byte")))
        };
        let user = exec.user.clone().unwrap_or_else(|| "0".to_owned());
        let mut identity = Accounts::read(Path::new("/"))
            .identity(&user)
            .map_err(|error| failure(FailureCode::NotFound, error.to_string()))?;
        if exec.user.is_none() && identity.name == "0" {
            (identity.name, identity.home) = ("root".to_owned(), "/root".to_owned());
        }
        let mut env = environment(exec, &identity, authorities);
        for key in env.iter().map(|(key, _)| key).chain(exec.secret_env.iter().map(|(_, key)| key)) {
            if key.is_empty() || key.contains('=') {
                return Err(bad(format!("{key:?} cannot name a variable")));
            }
        }
        env.retain(|(key, _)| exec.secret_env.iter().all(|(_, variable)| variable != key));
        let secret_variables = secret_variables(exec, secrets)?;
        let path = env.iter().rev().find(|(key, _)| key == "PATH").map_or(DEFAULT_PATH, |(_, path)| path);
        let cwd = exec.cwd.clone().unwrap_or_else(|| {
            if Path::new(WORKSPACE).is_dir() { WORKSPACE.to_owned() } else { "/".to_owned() }
        });
        Ok(Self {
            c_argv: exec.argv.iter().map(|text| c_text(text, "argument")).collect::<Result<_, _>>()?,
            candidates: candidates(program, path)
                .iter()
                .map(|candidate| c_text(candidate, "program"))
                .collect::<Result<_, _>>()?,
            envp: env
                .iter()
                .map(|(key, value)| c_text(&format!("{key}={value}"), "variable"))
                .chain(secret_variables.into_iter().map(Ok))
                .collect::<Result<_, _>>()?,
            argv: exec.argv.clone(),
            c_cwd: c_text(&cwd, "working directory")?,
            cwd,
            user,
            identity,
            terminal: exec.tty.is_some(),
        })
    }

    fn program(&self, stdio: [OwnedFd; 3]) -> Program {
        Program {
            candidates: self.candidates.clone(),
            argv: self.c_argv.clone(),
            envp: self.envp.clone(),
            cwd: self.c_cwd.clone(),
            uid: self.identity.uid,
            gid: self.identity.gid,
            groups: self.identity.groups.clone(),
            stdio,
            terminal: self.terminal,
        }
    }

    fn explain(&self, fault: StepFault, program: &Program) -> Failure {
        let error = io::Error::from_raw_os_error(fault.errno);
        let name = &self.argv[0];
        match (fault.step, fault.errno) {
            (Step::Directory, _) => os_failure(&format!("working directory {:?}", self.cwd), &error),
            (Step::Identity, _) => os_failure(&format!("cannot become user {:?}", self.user), &error),
            (Step::Session | Step::Stdio, _) => os_failure("cannot set up the command's process", &error),
            (Step::Exec, libc::ENOENT) => {
                let exists = |path: &CString| path.to_str().is_ok_and(|path| is_file(path, &self.cwd));
                let reason = match program.candidates.iter().any(exists) {
                    true => "its interpreter or dynamic loader does not exist",
                    false if name.contains('/') => "no such file",
                    false => "not found in PATH",
                };
                failure(FailureCode::NotFound, format!("{name:?}: {reason}"))
            }
            (Step::Exec, libc::EACCES | libc::ENOEXEC) => {
                failure(FailureCode::PermissionDenied, format!("{name:?} cannot be executed: {error}"))
            }
            (Step::Exec, _) => os_failure(&format!("{name:?} cannot be executed"), &error),
        }
    }
}

fn is_file(path: &str, cwd: &str) -> bool {
    let metadata = std::fs::metadata(Path::new(cwd).join(path));
    metadata.is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Variables with secrets' values. What is wrong with a value is told without the value.
fn secret_variables(exec: &Exec, secrets: &SecretSet) -> Result<Vec<CString>, Failure> {
    let bad = |message: String| failure(FailureCode::BadRequest, message);
    let variable = |(name, key): &(String, String)| {
        let value = secrets
            .value(name)
            .ok_or_else(|| bad(format!("secret_env references unknown workspace secret {name:?}")))?;
        CString::new([key.as_bytes(), b"=", value].concat())
            .map_err(|_| bad(format!("secret {name:?} cannot become variable {key:?}: a zero byte is in it")))
    };
    exec.secret_env.iter().map(variable).collect()
}

/// The defaults, then the host's, a later one in an earlier one's place.
fn environment(
    exec: &Exec,
    identity: &Identity,
    authorities: Vec<(String, String)>,
) -> Vec<(String, String)> {
    let term = exec.tty.map(|_| ("TERM", DEFAULT_TERM));
    let defaults = [
        ("PATH", DEFAULT_PATH),
        ("HOME", identity.home.as_str()),
        ("USER", identity.name.as_str()),
        ("LANG", DEFAULT_LANG),
    ];
    let mut all: Vec<(String, String)> = Vec::new();
    let defaults = defaults.into_iter().chain(term).map(|(key, value)| (key.to_owned(), value.to_owned()));
    for (key, value) in defaults.chain(authorities).chain(exec.env.iter().cloned()) {
        match all.iter_mut().find(|(known, _)| *known == key) {
            Some(slot) => slot.1 = value,
            None => all.push((key, value)),
        }
    }
    all
}

fn candidates(program: &str, path: &str) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    path.split(':')
        .map(|directory| match directory {
            "" => format!("./{program}"),
            directory => format!("{directory}/{program}"),
        })
        .collect()
}

/// A command's standard streams: the child's ends, and ours.
struct Stdio {
    child: [OwnedFd; 3],
    pumped: Pumped,
}

impl Stdio {
    fn open(exec: &Exec, owner: &Identity) -> io::Result<Self> {
        match exec.tty {
            Some(size) => Self::terminal(size, owner),
            None => Self::pipes(exec.stdin, owner),
        }
    }

    fn pipes(with_stdin: bool, owner: &Identity) -> io::Result<Self> {
        let (stdin, input) = match with_stdin {
            true => {
                let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
                set_nonblocking(&write)?;
                (read, Some(write))
            }
            false => {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                (rustix::fs::open("/dev/null", flags, Mode::empty())?, None)
            }
        };
        let (output, stdout) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (errors, stderr) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        set_nonblocking(&output)?;
        set_nonblocking(&errors)?;
        // `/dev/stdout` and its like open the pipe anew, which only its owner may.
        for end in [&stdout, &stderr].into_iter().chain(input.is_some().then_some(&stdin)) {
            give(end, owner.uid, owner.gid)?;
        }
        let pumped = Pumped { input, outputs: [Some(output), Some(errors)], terminal: None };
        Ok(Self { child: [stdin, stdout, stderr], pumped })
    }

    fn terminal(size: TtySize, owner: &Identity) -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let host_side = rustix::pty::openpt(flags)?;
        rustix::pty::unlockpt(&host_side)?;
        let guest_side = rustix::pty::ioctl_tiocgptpeer(&host_side, flags)?;
        resize(&host_side, size)?;
        let mut modes = rustix::termios::tcgetattr(&guest_side)?;
        modes.input_modes |= InputModes::IUTF8;
        rustix::termios::tcsetattr(&guest_side, OptionalActions::Now, &modes)?;
        // Group 5 is `tty` on every distribution that has one.
        give(&guest_side, owner.uid, 5)?;
        set_nonblocking(&host_side)?;
        let pumped = Pumped {
            input: Some(host_side.try_clone()?),
            outputs: [Some(host_side.try_clone()?), None],
            terminal: Some(host_side),
        };
        Ok(Self { child: [guest_side.try_clone()?, guest_side.try_clone()?, guest_side], pumped })
    }
}

/// Sets a terminal's size.
fn resize(terminal: &OwnedFd, size: TtySize) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    Ok(rustix::io::ioctl_fionbio(fd, true)?)
}

/// Without privileges (a test) the streams are the user's own already.
fn give(fd: &OwnedFd, uid: u32, gid: u32) -> io::Result<()> {
    match rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
        Err(rustix::io::Errno::PERM) if !rustix::process::geteuid().is_root() => Ok(()),
        other => Ok(other?),
    }
}

/// Polls one descriptor without waiting.
fn is_ready(fd: &OwnedFd, events: PollFlags) -> bool {
    wait(fd.as_fd(), events, Duration::ZERO).unwrap_or(true)
}
