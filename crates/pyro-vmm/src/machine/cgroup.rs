//! A cgroup of each machine's own, where this user has been given a subtree of the hierarchy (cgroup v2).
//!
//! ```text
//! BASE                    the delegated cgroup that this process runs in; its controllers are for its children
//! ├── pyro-host           pyro's own processes: BASE may not hold any beside controllers for children
//! └── pyro-machine-…      one machine: locked by its owner, removed by it or by whoever comes next
//! ```
//! No service manager is asked for anything, and no other program is moved: where BASE is not delegated, or shared
//! with other programs, there is no limit. systemd delegates a unit with `Delegate=yes` and marks it so.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::jail::Cgroup;
use crate::limits;
use crate::protocol::{Config, EngineConfig};
use crate::vsock;

/// Where pyro's own processes are.
const HOST: &str = "pyro-host";
/// What the names of machines' cgroups begin with.
const MACHINE: &str = "pyro-machine-";
/// What a machine needs of its parent.
const CONTROLLERS: [&str; 2] = ["memory", "pids"];
/// How often processes are moved out of the way: they may fork meanwhile, but not for long.
const GATHERINGS: usize = 4;
/// How often a new cgroup is made: somebody may take it for one that was left.
const CREATIONS: usize = 4;
/// Between two looks at whether a cgroup's processes are gone.
const LOOK: Duration = Duration::from_millis(5);

/// What the device process takes beside the guest's memory and its streams: itself, and files that the kernel
/// keeps in memory for it, which it takes back when there is too little.
const DEVICES_BYTES: u64 = 128 << 20;
/// What all streams hold when the guest sends and nobody reads.
const STREAMS_BYTES: u64 = vsock::limits::MAX_CONNECTIONS as u64 * vsock::limits::BUFFER_BYTES as u64;
/// What an emulator takes: twice its translated code, which has as much beside it.
const EMULATOR_BYTES: u64 = 512 << 20;
/// The part of the guest's memory that page tables may take beside it: 8 bytes for each page of 4 KiB in the process,
/// in the guest's view and in the index of the memory's file are near a 170th, and where it is sparse more.
const PAGE_TABLES_SHARE: u64 = 64;
/// Threads of the device process beside its vCPUs: the main one, and a few that nothing needs so far.
const DEVICES_TASKS: u64 = 4;
/// Threads of an emulator beside its vCPUs: its loops, and workers that come and go.
const EMULATOR_TASKS: u64 = 64;

/// What a machine may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    memory_max_bytes: u64,
    pids_max: u64,
}

impl Limits {
    /// Of the device process alone, with a thread as of a vCPU.
    pub(super) fn of_the_devices() -> Self {
        Self { memory_max_bytes: DEVICES_BYTES + STREAMS_BYTES, pids_max: DEVICES_TASKS + 1 }
    }

    pub(super) fn of_a_machine(config: &Config) -> Self {
        let guest_bytes = u64::from(config.mem_mib) << 20;
        let (emulator_bytes, emulator_tasks) = match config.engine {
            EngineConfig::Emulated { .. } => (EMULATOR_BYTES, EMULATOR_TASKS),
            EngineConfig::Kvm => (0, 0),
        };
        let headroom_bytes = DEVICES_BYTES + STREAMS_BYTES + emulator_bytes + guest_bytes / PAGE_TABLES_SHARE;
        Self {
            memory_max_bytes: guest_bytes + headroom_bytes,
            pids_max: DEVICES_TASKS + emulator_tasks + u64::from(config.vcpu_count),
        }
    }
}

/// One machine's cgroup. Dropping it ends whatever is left in it.
#[derive(Debug)]
pub(super) struct MachineCgroup {
    path: PathBuf,
    /// Tells others that it has an owner.
    _lock: File,
}

impl MachineCgroup {
    /// Makes an empty one with `limits` in force. The error is why there is none.
    pub(super) fn create(limits: Limits) -> Result<Self, String> {
        let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("`{path}`: {error}"));
        let own = own_cgroup(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?)
            .ok_or("no cgroup v2 hierarchy is mounted here")?;
        let base = base_of(&own);
        if !is_delegated(base) {
            return Err("the cgroup is not delegated to this user".to_owned());
        }
        enable_controllers(base)?;
        sweep(base);
        Self::create_in(base, limits)
            .map_err(|error| format!("cannot make a cgroup in `{}`: {error}", base.display()))
    }

    fn create_in(base: &Path, limits: Limits) -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for _ in 0..CREATIONS {
            let mut number = [0; 8];
            getrandom::fill(&mut number).map_err(|error| io::Error::other(error.to_string()))?;
            let path = base.join(format!("{MACHINE}{:016x}", u64::from_ne_bytes(number)));
            fs::create_dir(&path)?;
            match lock(&path) {
                Ok(lock) => {
                    let made = Self { path, _lock: lock };
                    // Gone when somebody swept it before it was locked.
                    match made.limit(limits) {
                        Err(error) if error.kind() == io::ErrorKind::NotFound => last = error,
                        limited => return limited.map(|()| made),
                    }
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn limit(&self, limits: Limits) -> io::Result<()> {
        write(&self.path.join("memory.max"), &limits.memory_max_bytes.to_string())?;
        write(&self.path.join("pids.max"), &limits.pids_max.to_string())?;
        // A machine without one of its processes is none. Kernels before 4.19 do not know it.
        let _ = write(&self.path.join("memory.oom.group"), "1");
        Ok(())
    }

    /// Whoever writes a process id here puts the process in.
    pub(super) fn entrance(&self) -> io::Result<File> {
        File::options().write(true).open(self.path.join("cgroup.procs"))
    }

    fn observe(&self, pid: u32) -> io::Result<Cgroup> {
        let number = |name: &str| {
            let text = fs::read_to_string(self.path.join(name))?;
            text.trim().parse::<u64>().map_err(io::Error::other)
        };
        if !processes(&self.path)?.contains(&pid) {
            return Ok(Cgroup::Off { why: "the machine's process did not enter it".to_owned() });
        }
        Ok(Cgroup::Limited { memory_max_bytes: number("memory.max")?, pids_max: number("pids.max")? })
    }
}

impl Drop for MachineCgroup {
    fn drop(&mut self) {
        // The machine's process has ended; an engine may be about to. Kernels before 5.14 cannot hurry it.
        let _ = write(&self.path.join("cgroup.kill"), "1");
        let deadline = Instant::now() + limits::ENGINE_EXIT;
        while fs::remove_dir(&self.path).is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy)
            && Instant::now() < deadline
        {
            std::thread::sleep(LOOK);
        }
    }
}

/// What is in force for the process `pid`, as the kernel tells it.
pub(super) fn report(cgroup: &Result<MachineCgroup, String>, pid: u32) -> Cgroup {
    match cgroup {
        Ok(cgroup) => cgroup
            .observe(pid)
            .unwrap_or_else(|error| Cgroup::Off { why: format!("cannot be seen: {error}") }),
        Err(why) => Cgroup::Off { why: why.clone() },
    }
}

/// The directory of this process's cgroup, from `/proc/self/mountinfo` and `/proc/self/cgroup`: proc(5) and
/// cgroups(7).
fn own_cgroup(mountinfo: &str, cgroup: &str) -> Option<PathBuf> {
    let own = Path::new(cgroup.lines().find_map(|line| line.strip_prefix("0::"))?);
    mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        if kind.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        // Outside of what is mounted when it lies above the cgroup namespace's root.
        let below = own.strip_prefix(root).ok().filter(|path| !path.starts_with(".."))?;
        Some(Path::new(point).join(below))
    })
}

/// Where cgroups of machines go, for a process in `own`.
fn base_of(own: &Path) -> &Path {
    match own.parent() {
        Some(parent) if own.file_name().is_some_and(|name| name == HOST) => parent,
        Some(_) | None => own,
    }
}

/// Whether whoever manages the hierarchy has left this part of it to this user: systemd's mark (since version 251, and
/// for root before), a change of owner, or the top of what this process is shown.
fn is_delegated(base: &Path) -> bool {
    let marked = ["user.delegate", "trusted.delegate"]
        .iter()
        .any(|name| matches!(rustix::fs::getxattr(base, *name, &mut [0u8; 8]), Ok(1)));
    let boundary = || {
        let (own, above) = (fs::metadata(base).ok()?, fs::metadata(base.parent()?).ok()?);
        let user = rustix::process::geteuid().as_raw();
        Some(own.uid() == user && (above.uid() != user || above.dev() != own.dev()))
    };
    marked || boundary().unwrap_or(false)
}

/// Lets children of `base` have limits.
fn enable_controllers(base: &Path) -> Result<(), String> {
    let listed = |name: &str| {
        let text = fs::read_to_string(base.join(name)).unwrap_or_default();
        CONTROLLERS.iter().all(|controller| text.split_whitespace().any(|word| word == *controller))
    };
    if listed("cgroup.subtree_control") {
        return Ok(());
    }
    if !listed("cgroup.controllers") {
        return Err("the controllers of memory and pids are not delegated".to_owned());
    }
    let enable = || write(&base.join("cgroup.subtree_control"), "+memory +pids");
    let failed = |error: io::Error| format!("cannot enable controllers in `{}`: {error}", base.display());
    match enable() {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            gather(base)?;
            enable().map_err(failed)
        }
        enabled => enabled.map_err(failed),
    }
}

/// Moves pyro's processes out of `base`, if there are no others.
fn gather(base: &Path) -> Result<(), String> {
    let failed = |error: io::Error| format!("cannot move pyro within `{}`: {error}", base.display());
    let host = base.join(HOST);
    for _ in 0..GATHERINGS {
        let found = processes(base).map_err(failed)?;
        if found.is_empty() {
            return Ok(());
        }
        if !found.iter().all(|pid| is_this_program(*pid)) {
            return Err("other programs run in the cgroup".to_owned());
        }
        if let Err(error) = fs::create_dir(&host)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(failed(error));
        }
        for pid in found {
            // It may have ended.
            let _ = write(&host.join("cgroup.procs"), &pid.to_string());
        }
    }
    Err("its processes do not hold still".to_owned())
}

fn is_this_program(pid: u32) -> bool {
    let program = |pid: &str| fs::metadata(format!("/proc/{pid}/exe")).map(|exe| (exe.dev(), exe.ino()));
    match (program("self"), program(&pid.to_string())) {
        (Ok(own), Ok(other)) => own == other,
        (Err(_), _) | (_, Err(_)) => false,
    }
}

/// Removes what owners that died have left.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(MACHINE)
            && let Ok(_lock) = lock(&entry.path())
        {
            // Not empty as long as a process of it is ending; then the next one removes it.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Locks a directory, unless it is locked.
fn lock(path: &Path) -> io::Result<File> {
    let directory = File::open(path)?;
    flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
    Ok(directory)
}

fn processes(cgroup: &Path) -> io::Result<Vec<u32>> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs"))?;
    // 0 is a process that this one cannot name.
    Ok(text.lines().map(|line| line.parse().unwrap_or(0)).collect())
}

/// Writes to a file of the kernel's, which must exist.
fn write(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write as _;
    File::options().write(true).open(path)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "25 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
        30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn the_own_cgroup_is_found_wherever_the_hierarchy_is_mounted() {
        let own = |mounts: &str, cgroup: &str| own_cgroup(mounts, cgroup);
        assert_eq!(own(MOUNTS, "0::/a.slice/b\n").unwrap(), Path::new("/sys/fs/cgroup/a.slice/b"));
        assert_eq!(own(MOUNTS, "0::/\n").unwrap(), Path::new("/sys/fs/cgroup"));
        let hybrid = MOUNTS.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified");
        assert_eq!(own(&hybrid, "4:memory:/x\n0::/b\n").unwrap(), Path::new("/sys/fs/cgroup/unified/b"));
        let part = MOUNTS.replace("0:26 /", "0:26 /a.slice");
        assert_eq!(own(&part, "0::/a.slice/b\n").unwrap(), Path::new("/sys/fs/cgroup/b"));
        assert_eq!(own(&part, "0::/c\n"), None);
        assert_eq!(own(MOUNTS, "0::/../c\n"), None);
        assert_eq!(own(MOUNTS, "4:memory:/x\n"), None);
        assert_eq!(own("", "0::/\n"), None);
    }

    #[test]
    fn machines_are_beside_the_cgroup_that_pyro_has_moved_to() {
        assert_eq!(base_of(Path::new("/c/run.scope")), Path::new("/c/run.scope"));
        assert_eq!(base_of(Path::new("/c/run.scope/pyro-host")), Path::new("/c/run.scope"));
    }

    #[test]
    fn what_has_an_owner_is_not_swept() {
        let base = tempfile::tempdir().unwrap();
        let path = |name: &str| base.path().join(name);
        for name in ["pyro-machine-left", "pyro-machine-owned", "pyro-host"] {
            fs::create_dir(path(name)).unwrap();
        }
        let owner = lock(&path("pyro-machine-owned")).unwrap();
        sweep(base.path());
        let there = ["pyro-machine-left", "pyro-machine-owned", "pyro-host"].map(|name| path(name).exists());
        assert_eq!(there, [false, true, true]);
        drop(owner);
        sweep(base.path());
        assert!(!path("pyro-machine-owned").exists());
    }

    #[test]
    fn a_cgroup_with_other_programs_is_left_alone() {
        let base = tempfile::tempdir().unwrap();
        // Process 1 is not a test.
        fs::write(base.path().join("cgroup.procs"), format!("{}\n1\n", std::process::id())).unwrap();
        assert_eq!(gather(base.path()).unwrap_err(), "other programs run in the cgroup");
        assert!(!base.path().join(HOST).exists());
    }
}
