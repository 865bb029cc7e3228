//! What the host and the jailed process say to each other: one configuration in, events out, and the
//! datagrams that carry streams. Both sides are of one release, so a version that differs is refused.

use serde::{Deserialize, Serialize};

use crate::jail::{JailReport, NamespaceIds, Trial};
use crate::limits;

pub mod channel;
pub mod control;
mod text;

/// Version of the configuration and of the events.
pub const VERSION: u32 = 1;

/// Descriptor numbers at which the jailed process finds what it was given.
pub mod fds {
    use std::os::fd::RawFd;

    /// Configuration in, events out (`SOCK_SEQPACKET`).
    pub const CONTROL: RawFd = 3;
    /// Streams between host and guest (`SOCK_SEQPACKET`).
    pub const CHANNEL: RawFd = 4;
    /// The guest kernel, an ELF image.
    pub const KERNEL: RawFd = 5;
    /// The initramfs.
    pub const INITRAMFS: RawFd = 6;
    /// The root disk's immutable image.
    pub const DISK_BASE: RawFd = 7;
    /// The root disk's writable layer.
    pub const DISK_DELTA: RawFd = 8;
    /// The first of the sealed layers below the writable one, bottom first; see [`sealed`].
    const FIRST_SEALED: RawFd = DISK_DELTA + 1;

    /// Where the sealed layers are, bottom first.
    pub fn sealed(layers: u8) -> std::ops::Range<RawFd> {
        FIRST_SEALED..FIRST_SEALED + RawFd::from(layers)
    }

    /// The network's end of the machine's cable (`SOCK_SEQPACKET`), for a machine that has one.
    pub fn network(sealed_layers: u8) -> RawFd {
        sealed(sealed_layers).end
    }

    /// The KVM device, for a machine of the native engine.
    pub fn kvm(config: &super::Config) -> RawFd {
        network(config.sealed_layers) + RawFd::from(config.network.is_some())
    }

    /// The KVM device for [`Order::Canary`](super::Order::Canary).
    pub const CANARY_KVM: RawFd = CONTROL + 1;

    /// What a [`Trial`](crate::jail::Trial) sends requests to.
    pub const PROBE_DEVICE: RawFd = CONTROL + 1;

    /// The first number that must not be open.
    pub fn first_free(order: &super::Order) -> RawFd {
        match order {
            super::Order::Run(config) => kvm(config) + RawFd::from(config.engine == super::EngineConfig::Kvm),
            super::Order::Canary => CANARY_KVM + 1,
            super::Order::Probe { trial: Some(_), .. } => PROBE_DEVICE + 1,
            super::Order::Probe { trial: None, .. } => FIRST_FREE_WITHOUT_ORDER,
        }
    }

    /// The same without an order.
    pub const FIRST_FREE_WITHOUT_ORDER: RawFd = CONTROL + 1;
}

/// What the jailed process shall do: the first datagram on [`fds::CONTROL`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Order {
    /// Run a machine.
    Run(Config),
    /// Close the jail, report on it, and end.
    Probe {
        /// Identity of the host's namespaces, to tell which ones are new.
        host_namespaces: NamespaceIds,
        /// What a forbidden system call does.
        seccomp: SeccompAction,
        /// Something forbidden to try from inside.
        trial: Option<Trial>,
    },
    /// Try whether the KVM that is given runs guests, and end: [`ExitReason::PoweredOff`] when a small one ran,
    /// [`ExitReason::StartFailed`] when not.
    Canary,
}

impl Order {
    /// Reads and checks an order.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        let order: Self = serde_json::from_slice(bytes)?;
        if let Self::Run(config) = &order {
            config.check()?;
        }
        Ok(order)
    }
}

/// A machine, as the jailed process is told of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// [`VERSION`].
    pub version: u32,
    /// What runs the vCPUs.
    pub engine: EngineConfig,
    /// Number of vCPUs.
    pub vcpu_count: u8,
    /// Guest memory.
    pub mem_mib: u32,
    /// The most bytes that the writable disk layer may take.
    pub disk_limit_bytes: Option<u64>,
    /// The disk's size; none is that of the layers below the writable one.
    pub disk_size_bytes: Option<u64>,
    /// How many sealed layers lie between the disk's image and the writable one.
    pub sealed_layers: u8,
    /// The guest's network interface; without, it has none at all.
    pub network: Option<NetworkConfig>,
    /// The guest's vsock address.
    pub guest_cid: u32,
    /// Host ports that the guest may connect to.
    pub host_ports: Vec<u32>,
    /// Words added to the kernel command line.
    pub boot_args: Vec<String>,
    /// What a forbidden system call does.
    pub seccomp: SeccompAction,
    /// Identity of the host's namespaces, to tell which ones are new.
    pub host_namespaces: NamespaceIds,
}

/// A network interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// Its Ethernet address: one of a single station.
    pub mac: [u8; 6],
    /// The longest IP packet that the guest forms without leaving segmentation to the device, bytes.
    pub mtu: u16,
}

/// Which engine, and what it needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum EngineConfig {
    /// QEMU's software emulation.
    Emulated {
        /// Absolute path of `qemu-system-x86_64`.
        qemu: String,
    },
    /// The host's processor, by the KVM device that is given.
    Kvm,
}

/// What happens on a system call that the filter does not list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeccompAction {
    /// The process ends.
    #[default]
    Kill,
    /// The process reports the call and ends; for tests.
    Trap,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not the JSON of this version.
    #[error("configuration does not parse")]
    Json(#[from] serde_json::Error),
    /// Another release.
    #[error("configuration has version {0}, this is version {VERSION}")]
    Version(u32),
    /// Number of vCPUs out of range.
    #[error("{0} vCPUs are not between {min} and {max}", min = limits::MIN_VCPUS, max = limits::MAX_VCPUS)]
    VcpuCount(u8),
    /// Memory out of range.
    #[error("{0} MiB of memory are not between {min} and {max}", min = limits::MIN_MEM_MIB, max = limits::MAX_MEM_MIB)]
    MemMib(u32),
    /// A reserved guest address.
    #[error("guest address {0} is reserved (use 3 or more)")]
    GuestCid(u32),
    /// A word that would not stay one word on the kernel command line.
    #[error("boot argument {0:?} is not one printable word")]
    BootArg(String),
    /// Too long for the kernel.
    #[error("boot arguments of {0} bytes are over the limit of {max}", max = limits::MAX_BOOT_ARGS_BYTES)]
    BootArgsTooLong(usize),
    /// Too many open ports.
    #[error("{0} host ports are over the limit of {max}", max = limits::MAX_HOST_PORTS)]
    HostPorts(usize),
    /// An address that no station has.
    #[error("{0:02x?} is no station's Ethernet address")]
    Mac([u8; 6]),
    /// A packet size that IPv6 does not work with.
    #[error("an MTU of {0} bytes is less than {min}", min = limits::MIN_MTU)]
    Mtu(u16),
    /// Too many layers.
    #[error("{0} sealed layers are over the limit of {max}", max = crate::block::MAX_LAYERS)]
    SealedLayers(usize),
    /// The engine's program is not named by an absolute path.
    #[error("engine program {0:?} is not an absolute path")]
    EnginePath(String),
}

impl Config {
    /// Checks every limit; [`Order::parse`] does so too.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.version != VERSION {
            return Err(ConfigError::Version(self.version));
        }
        if !(limits::MIN_VCPUS..=limits::MAX_VCPUS).contains(&self.vcpu_count) {
            return Err(ConfigError::VcpuCount(self.vcpu_count));
        }
        if !(limits::MIN_MEM_MIB..=limits::MAX_MEM_MIB).contains(&self.mem_mib) {
            return Err(ConfigError::MemMib(self.mem_mib));
        }
        if self.guest_cid < 3 || self.guest_cid == u32::MAX {
            return Err(ConfigError::GuestCid(self.guest_cid));
        }
        if self.host_ports.len() > limits::MAX_HOST_PORTS {
            return Err(ConfigError::HostPorts(self.host_ports.len()));
        }
        if usize::from(self.sealed_layers) > crate::block::MAX_LAYERS {
            return Err(ConfigError::SealedLayers(self.sealed_layers.into()));
        }
        if let Some(NetworkConfig { mac, mtu }) = self.network {
            if mac[0] & 1 == 1 || mac == [0; 6] {
                return Err(ConfigError::Mac(mac));
            }
            if mtu < limits::MIN_MTU {
                return Err(ConfigError::Mtu(mtu));
            }
        }
        if let EngineConfig::Emulated { qemu } = &self.engine
            && !qemu.starts_with('/')
        {
            return Err(ConfigError::EnginePath(qemu.clone()));
        }
        self.check_boot_args()
    }

    fn check_boot_args(&self) -> Result<(), ConfigError> {
        let bad = |word: &&String| word.is_empty() || !word.bytes().all(|byte| byte.is_ascii_graphic());
        if let Some(word) = self.boot_args.iter().find(bad) {
            return Err(ConfigError::BootArg(word.clone()));
        }
        let len: usize = self.boot_args.iter().map(|word| word.len() + 1).sum();
        if len > limits::MAX_BOOT_ARGS_BYTES {
            return Err(ConfigError::BootArgsTooLong(len));
        }
        Ok(())
    }
}

/// What the host asks of a running machine, as JSON datagrams on [`fds::CONTROL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Send [`Event::Console`].
    ConsoleTail,
    /// Seal the disk's writable layer and go on in the file whose descriptor comes along;
    /// [`Event::DeltaReplaced`] answers.
    ReplaceDelta,
    /// Stop the vCPUs between two instructions; [`Event::Paused`] answers.
    Pause,
    /// Let the vCPUs go on; [`Event::Resumed`] answers.
    Resume,
}

/// What the jailed process reports, as JSON datagrams on [`fds::CONTROL`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The engine runs the guest and the jail is closed.
    Started(Started),
    /// Answer to [`Request::ConsoleTail`].
    Console {
        /// The last bytes that the guest's console showed.
        #[serde(with = "text")]
        tail: Vec<u8>,
    },
    /// Answer to [`Request::ReplaceDelta`].
    DeltaReplaced {
        /// Why the old layer is still the one that is written, unsealed; `None` when it is sealed and the new
        /// one is in use.
        error: Option<String>,
    },
    /// Answer to [`Request::Pause`]: no vCPU runs the guest. Devices go on.
    Paused,
    /// Answer to [`Request::Resume`].
    Resumed,
    /// The machine has ended. The last event.
    Exited {
        /// Why.
        reason: ExitReason,
        /// The last bytes that the guest's console showed.
        #[serde(with = "text")]
        console_tail: Vec<u8>,
    },
}

/// Facts about a machine that has started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Started {
    /// The engine, in words: `emulated (QEMU 7.2.22)`.
    pub engine: String,
    /// Process id of the engine in the namespace of the jailed process; 0 when there is no such process.
    pub engine_pid: u32,
    /// What confines the machine's processes.
    pub jail: JailReport,
}

/// Why a machine ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum ExitReason {
    /// The guest switched itself off.
    #[error("the guest powered off")]
    PoweredOff,
    /// The guest asked for a restart; machines do not restart.
    #[error("the guest rebooted")]
    Rebooted,
    /// The guest's kernel panicked.
    #[error("the guest's kernel panicked: {message}")]
    Panicked {
        /// The kernel's own words; a claim of the guest.
        message: String,
    },
    /// The guest's CPU reset without a word from its kernel.
    #[error("the guest's CPU reset itself (triple fault)")]
    TripleFault,
    /// The machine did not start.
    #[error("the machine did not start: {message}{}", last_words(engine_output))]
    StartFailed {
        /// What could not be done.
        message: String,
        /// The last lines that the engine wrote.
        engine_output: String,
    },
    /// The engine ended without saying why.
    #[error("the engine ended with {status}{}", last_words(engine_output))]
    EngineDied {
        /// How: `signal 11`, `status 1`.
        status: String,
        /// The last lines that the engine wrote.
        engine_output: String,
    },
    /// A device or the process that serves it failed.
    #[error("the machine's devices failed: {message}")]
    VmmFailed {
        /// What happened.
        message: String,
    },
    /// The jailed process ended without an event, for instance by `kill -9`.
    #[error("the machine's process ended with {status}")]
    VmmDied {
        /// How: `signal 9`, `status 1`.
        status: String,
    },
}

fn last_words(engine_output: &str) -> String {
    match engine_output.trim() {
        "" => String::new(),
        text => format!(" ({text})"),
    }
}

/// Reads arbitrary bytes as everything that crosses a socket here, the engine's monitor included.
#[doc(hidden)]
pub fn fuzz_parse(bytes: &[u8]) {
    let _ = Order::parse(bytes);
    let _ = serde_json::from_slice::<Event>(bytes);
    let _ = serde_json::from_slice::<Request>(bytes);
    let _ = channel::Message::parse(bytes);
    crate::engine::fuzz_monitor(bytes);
}

#[cfg(test)]
mod tests;
