//! The report: observed after the fact, never what was merely asked for.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What confines a machine's processes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JailReport {
    /// The process that serves the devices.
    pub vmm: ProcessJail,
    /// The engine's process, where it has one.
    pub engine: Option<ProcessJail>,
    /// The threads of the device process that run the guest, where there are any. What else confines that process
    /// they have from its main thread, which made them in it.
    pub vcpu_threads: Option<VcpuThreads>,
    /// The limits of all the machine's processes together.
    #[serde(default)]
    pub cgroup: Cgroup,
}

impl fmt::Display for JailReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "devices: {}", self.vmm)?;
        if let Some(threads) = &self.vcpu_threads {
            write!(out, "; {threads}")?;
        }
        if let Some(engine) = &self.engine {
            write!(out, "; engine: {engine}")?;
        }
        write!(out, "; {}", self.cgroup)
    }
}

/// The threads that run the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuThreads {
    /// How many there are.
    pub count: u32,
    /// How many of them asked the kernel, and heard that a filter of system calls is in force on them.
    pub filtered: u32,
}

impl fmt::Display for VcpuThreads {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, filtered } = self;
        match filtered == count {
            true => write!(out, "vCPU threads: seccomp ({count})"),
            false => write!(out, "vCPU threads: seccomp known of {filtered} of {count}"),
        }
    }
}

/// What bounds the machine's processes together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cgroup {
    /// Nothing.
    Off {
        /// Why not.
        why: String,
    },
    /// A cgroup of the machine's own, as the kernel tells its limits.
    Limited {
        /// `memory.max`: all memory, the guest's and what the kernel keeps for it included.
        memory_max_bytes: u64,
        /// `pids.max`: processes and threads.
        pids_max: u64,
    },
}

impl Default for Cgroup {
    fn default() -> Self {
        Self::Off { why: "not looked at".to_owned() }
    }
}

impl fmt::Display for Cgroup {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off { why } => write!(out, "no cgroup ({why})"),
            Self::Limited { memory_max_bytes, pids_max } => {
                write!(out, "cgroup: at most {} MiB, {pids_max} tasks", memory_max_bytes >> 20)
            }
        }
    }
}

/// What confines one process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessJail {
    /// Which namespaces are its own rather than the host's.
    pub namespaces: Namespaces,
    /// Whether its root directory is an empty one.
    pub empty_root: bool,
    /// `NoNewPrivs` of `/proc/PID/status`.
    pub no_new_privs: bool,
    /// `Seccomp_filters` of `/proc/PID/status`; 0 where no filter is active.
    pub seccomp_filters: u32,
    /// Whether every capability set, the bounding set included, is empty.
    pub no_capabilities: bool,
    /// What Landlock does.
    pub landlock: Landlock,
    /// Whether other processes of the user are kept from reading its memory; `None` where it cannot be seen.
    pub undumpable: Option<bool>,
    /// Resource limits as they stand.
    pub limits: Vec<Limit>,
    /// What could not be had, and why.
    pub missing: Vec<String>,
}

impl fmt::Display for ProcessJail {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let landlock = match self.landlock {
            Landlock::Off => None,
            Landlock::Enforced { abi } => Some(format!("landlock (ABI {abi})")),
        };
        let namespaces = self.namespaces.names();
        let parts: Vec<String> = [
            (self.seccomp_filters > 0).then(|| "seccomp".to_owned()),
            landlock,
            (!namespaces.is_empty()).then(|| format!("own {} namespaces", namespaces.join("+"))),
            self.empty_root.then(|| "empty root".to_owned()),
            self.no_new_privs.then(|| "no_new_privs".to_owned()),
            self.no_capabilities.then(|| "no capabilities".to_owned()),
        ]
        .into_iter()
        .flatten()
        .collect();
        match parts.is_empty() {
            true => out.write_str("nothing"),
            false => out.write_str(&parts.join(", ")),
        }
    }
}

/// One resource limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// The kernel's name in lower case, such as `nofile`.
    pub name: String,
    /// The hard limit.
    pub value: u64,
}

/// State of Landlock for a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Landlock {
    /// Not in force.
    #[default]
    Off,
    /// In force, and a file that lies outside was tried and refused.
    Enforced {
        /// The kernel's Landlock ABI.
        abi: u32,
    },
}

/// Which namespaces a process has of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// Users and capabilities.
    pub user: bool,
    /// Mounts.
    pub mount: bool,
    /// Process ids.
    pub pid: bool,
    /// System V IPC and POSIX queues.
    pub ipc: bool,
    /// Host name.
    pub uts: bool,
    /// Network.
    pub net: bool,
}

impl Namespaces {
    /// Names of those that are the process's own.
    pub fn names(self) -> Vec<&'static str> {
        let all = [
            (self.user, "user"),
            (self.mount, "mount"),
            (self.pid, "pid"),
            (self.ipc, "ipc"),
            (self.uts, "uts"),
            (self.net, "net"),
        ];
        all.into_iter().filter_map(|(own, name)| own.then_some(name)).collect()
    }
}

/// Inode numbers of a process's namespaces; 0 where one cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamespaceIds {
    /// Users and capabilities.
    pub user: u64,
    /// Mounts.
    pub mount: u64,
    /// Process ids.
    pub pid: u64,
    /// System V IPC and POSIX queues.
    pub ipc: u64,
    /// Host name.
    pub uts: u64,
    /// Network.
    pub net: u64,
}

impl NamespaceIds {
    /// Those of the calling process.
    pub fn of_this_process() -> Self {
        Self::read("/proc/self/ns")
    }

    /// Those below a `/proc/PID/ns` directory.
    pub fn read(directory: &str) -> Self {
        use std::os::unix::fs::MetadataExt;
        let id = |name: &str| std::fs::metadata(format!("{directory}/{name}")).map_or(0, |stat| stat.ino());
        Self {
            user: id("user"),
            mount: id("mnt"),
            pid: id("pid"),
            ipc: id("ipc"),
            uts: id("uts"),
            net: id("net"),
        }
    }

    /// Which of `self` differ from `host`. What could not be read counts as shared.
    pub fn own(self, host: Self) -> Namespaces {
        let own = |mine: u64, host: u64| mine != 0 && host != 0 && mine != host;
        Namespaces {
            user: own(self.user, host.user),
            mount: own(self.mount, host.mount),
            pid: own(self.pid, host.pid),
            ipc: own(self.ipc, host.ipc),
            uts: own(self.uts, host.uts),
            net: own(self.net, host.net),
        }
    }
}
