//! What confines a machine's processes, and the report of what is really in force.
//!
//! ```text
//! (host: namespaces, descriptors) -> prepare -> confine_engine -> enclose -> filter -> report
//! ```
//! The host starts the process in namespaces of its own where it may. [`Jail::prepare`] does what the engine
//! inherits, [`Jail::confine_engine`] adds what the engine's process does to itself before it becomes the
//! engine, [`Jail::enclose`] takes everything else from this process, and each of its threads ends with a filter of
//! system calls of its own, [`Jail::filter`] or `Confinement::close`. Each step that a host does not allow
//! is left out and named in the report; only the system call filter is indispensable.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::protocol::SeccompAction;

mod attempt;
mod landlock;
mod report;
mod root;
mod seccomp;
mod status;
mod sys;

pub use attempt::{Attempt, Place, Trial};
pub use report::*;

/// Descriptors of this process: the loop's own, and one per stream of the guest.
const VMM_DESCRIPTORS: u64 = 4096;
/// Descriptors of the engine: sockets, queues' notifiers, memory.
const ENGINE_DESCRIPTORS: u64 = 256;

/// Why the jail cannot be closed.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// The system call filter is not in force, and without it nothing runs.
    #[error("the system call filter is refused: {0}")]
    Seccomp(String),
    /// A step that every host allows failed.
    #[error("{step}: {source}")]
    Os {
        /// What was tried.
        step: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// The jail of this process and of its engine, while it is being built and after.
pub struct Jail {
    host_namespaces: NamespaceIds,
    seccomp: SeccompAction,
    vmm: ProcessJail,
    vmm_status: Option<File>,
    engine: Option<EngineJail>,
    vcpus: Arc<ConfinedThreads>,
}

/// What the vCPUs' threads heard from the kernel.
#[derive(Default)]
struct ConfinedThreads {
    count: AtomicU32,
    filtered: AtomicU32,
}

/// The last step for the vCPUs' threads.
#[derive(Clone)]
pub(crate) struct Confinement {
    seccomp: SeccompAction,
    threads: Arc<ConfinedThreads>,
}

impl Confinement {
    /// Closes the jail on the calling thread, which makes the system calls of a vCPU's filter from here on.
    pub(crate) fn close(&self) -> Result<(), String> {
        self.threads.count.fetch_add(1, Ordering::Relaxed);
        seccomp::apply(seccomp::Thread::Vcpu, self.seccomp)?;
        if sys::is_filtered() {
            self.threads.filtered.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

struct EngineJail {
    jail: ProcessJail,
    status: Option<File>,
    /// One byte comes when Landlock is in force in the engine's process.
    landlock: Option<(OwnedFd, u32)>,
}

/// Closes what this process was not meant to inherit, which is `first_free` and all above. Call once, before
/// it opens descriptors of its own.
pub(crate) fn close_undeclared(first_free: RawFd) {
    // The kernel may lack it; descriptors of the host are close-on-exec besides.
    let _ = sys::close_from(first_free);
}

/// Arranges what cannot be had from within the jail. Call once, before there is another thread.
pub(crate) fn prepare_runtime() {
    sys::keep_one_heap();
}

impl Jail {
    /// First step, before there is anything to inherit.
    pub fn prepare(host_namespaces: NamespaceIds, seccomp: SeccompAction) -> Result<Self, JailError> {
        let os = |step| move |source| JailError::Os { step, source };
        sys::die_with_parent().map_err(os("tie the process to the host's"))?;
        sys::forbid_new_privileges().map_err(os("forbid new privileges"))?;
        let mut vmm = ProcessJail::default();
        limit(&mut vmm, Resource::Core, 0);
        limit(&mut vmm, Resource::Nofile, VMM_DESCRIPTORS);
        limit(&mut vmm, Resource::Memlock, 0);
        let vmm_status = File::open("/proc/self/status").ok();
        if vmm_status.is_none() {
            vmm.missing.push("/proc cannot be read: most of this report is unknown".into());
        }
        vmm.namespaces = NamespaceIds::of_this_process().own(host_namespaces);
        Ok(Self { host_namespaces, seccomp, vmm, vmm_status, engine: None, vcpus: Arc::default() })
    }

    /// Adds to `command` what the engine's process does to itself before it becomes `program`. It may read
    /// `readable` beside its own files.
    pub fn confine_engine(&mut self, command: &mut Command, program: &Path, readable: &[BorrowedFd<'_>]) {
        let mut jail = ProcessJail::default();
        let (ruleset, abi) = match landlock::for_engine(program, readable) {
            Ok((ruleset, abi)) => (Some(ruleset), abi),
            Err(why) => {
                jail.missing.push(format!("landlock: {why}"));
                (None, 0)
            }
        };
        let confirm = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok();
        let (landlock, confirm) = match confirm {
            Some((reader, writer)) => (Some((reader, abi)), Some(writer)),
            None => (None, None),
        };
        let mut ruleset = ruleset;
        let parent = Some(rustix::process::getpid());
        sys::before_exec(command, move || {
            sys::die_with_parent()?;
            // A parent that died just before that will not end the engine any more.
            if rustix::process::getppid() != parent {
                return Err(io::Error::other("the machine's process is gone"));
            }
            let _ = set_limit(Resource::Nofile, ENGINE_DESCRIPTORS);
            let _ = sys::drop_capabilities();
            let enforced = ruleset.take().is_some_and(landlock::enforce);
            if let (true, Some(confirm)) = (enforced, &confirm) {
                let _ = rustix::io::write(confirm, b"1");
            }
            Ok(())
        });
        self.engine = Some(EngineJail { jail, status: None, landlock });
    }

    /// Opens what tells about the engine's process later, when this one can open nothing any more.
    pub fn watch_engine(&mut self, pidfd: BorrowedFd<'_>) {
        let Some(engine) = &mut self.engine else { return };
        // The process ids of `/proc` are the host's, which differ from those of this namespace.
        let Some(pid) = status::pid_behind(pidfd) else {
            engine.jail.missing.push("the engine's /proc entry cannot be found".into());
            return;
        };
        engine.status = File::open(format!("/proc/{pid}/status")).ok();
        let ids = NamespaceIds::read(&format!("/proc/{pid}/ns"));
        engine.jail.namespaces = ids.own(self.host_namespaces);
        engine.jail.limits = status::limits(&format!("/proc/{pid}/limits"));
    }

    /// Takes everything from this process but system calls on what it has open. The last moment for threads, which
    /// inherit it.
    pub fn enclose(&mut self) -> Result<(), JailError> {
        let engine = self.engine_place();
        self.vmm.limits = own_limits();
        let missing = &mut self.vmm.missing;
        match root::empty() {
            Ok(()) => self.vmm.empty_root = true,
            Err(why) => missing.push(format!("empty root: {why}")),
        }
        if let Err(error) = sys::drop_capabilities() {
            missing.push(format!("capabilities: {error}"));
        }
        match sys::forbid_dumps() {
            Ok(()) => self.vmm.undumpable = Some(true),
            Err(error) => missing.push(format!("dumpable: {error}")),
        }
        match landlock::for_vmm(engine).map(|(ruleset, abi)| (landlock::enforce(ruleset), abi)) {
            Ok((true, abi)) => self.vmm.landlock = Landlock::Enforced { abi },
            Ok((false, _)) => missing.push("landlock: the rules are not in force".into()),
            Err(why) => missing.push(format!("landlock: {why}")),
        }
        // Changing credentials clears it.
        sys::die_with_parent()
            .map_err(|source| JailError::Os { step: "tie the process to the host's", source })
    }

    /// Last step, for the thread that serves the devices: from here on it makes the system calls of its filter.
    pub fn filter(&mut self) -> Result<(), JailError> {
        seccomp::apply(seccomp::Thread::Devices(self.engine_place()), self.seccomp)
            .map_err(JailError::Seccomp)
    }

    /// For threads of vCPUs, which are made after [`Jail::enclose`] and before [`Jail::filter`].
    pub(crate) fn confinement(&self) -> Confinement {
        Confinement { seccomp: self.seccomp, threads: Arc::clone(&self.vcpus) }
    }

    fn engine_place(&self) -> seccomp::Engine {
        match self.engine {
            Some(_) => seccomp::Engine::Process,
            None => seccomp::Engine::Threads,
        }
    }

    /// What is in force now, as the kernel tells it.
    pub fn report(&self) -> JailReport {
        let mut vmm = self.vmm.clone();
        let threads = status::observe(&mut vmm, self.vmm_status.as_ref());
        let count = self.vcpus.count.load(Ordering::Relaxed);
        let others = threads.map_or(0, |threads| threads.saturating_sub(count + 1));
        if others != 0 {
            vmm.missing.push(format!("{others} threads that are not known to be filtered"));
        }
        let filtered = self.vcpus.filtered.load(Ordering::Relaxed);
        let vcpu_threads = (count != 0).then_some(VcpuThreads { count, filtered });
        let engine = self.engine.as_ref().map(|engine| {
            let mut jail = engine.jail.clone();
            status::observe(&mut jail, engine.status.as_ref());
            if let Some((confirm, abi)) = &engine.landlock
                && rustix::io::read(confirm, &mut [0u8; 1]).is_ok_and(|len| len == 1)
            {
                jail.landlock = Landlock::Enforced { abi: *abi };
            }
            jail
        });
        // The host knows of the cgroup.
        JailReport { vmm, engine, vcpu_threads, cgroup: Cgroup::default() }
    }
}

fn limit(jail: &mut ProcessJail, resource: Resource, value: u64) {
    if let Err(errno) = set_limit(resource, value) {
        jail.missing.push(format!("limit {resource:?}: {errno}"));
    }
}

/// Lowers a limit, soft and hard; never raises one.
fn set_limit(resource: Resource, value: u64) -> rustix::io::Result<()> {
    let value = getrlimit(resource).maximum.map_or(value, |hard| hard.min(value));
    setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })
}

fn own_limits() -> Vec<Limit> {
    let limit = |name: &str, resource| {
        getrlimit(resource).maximum.map(|value| Limit { name: name.to_owned(), value })
    };
    [limit("core", Resource::Core), limit("nofile", Resource::Nofile), limit("memlock", Resource::Memlock)]
        .into_iter()
        .flatten()
        .collect()
}
