//! What a front end decides before anything happens: where things are.

use crate::faults::Fault;
pub use crate::network::HostProxy;
pub use pyro_oci::{Mirror, RegistryConfig};
pub use pyro_vmm::engine::EngineChoice;
use std::ffi::OsString;
use std::path::PathBuf;

/// Places and programs. Built by a front end from its flags, the environment and `config.toml`; this
/// crate looks nothing up by itself.
#[derive(Clone, Debug)]
pub struct Config {
    /// Pulled and built environments.
    pub environment_cache_dir: PathBuf,
    /// Machines' private state: disks being written.
    pub state_dir: PathBuf,
    /// Guest kernel and initramfs, see [`crate::guest_bundle`]. `None` when no place has one.
    pub guest_bundle_dir: Option<PathBuf>,
    /// The jailed machine process.
    pub vmm_binary: PathBuf,
    /// A program and its leading arguments that call [`crate::supervisor::serve_stdin`].
    pub supervisor_command: Vec<PathBuf>,
    /// A search path, as in `PATH`, for QEMU's system emulator.
    pub program_path: OsString,
    /// Which engine machines use when the caller does not say.
    pub engine: EngineChoice,
    /// Mirrors, plain-http hosts and credentials for pulls.
    pub registry: RegistryConfig,
    /// The proxy that this host's own programs use.
    pub host_proxy: HostProxy,
    /// Where this and its supervisor die, for tests.
    #[doc(hidden)]
    pub fault: Option<Fault>,
    /// Where forbidden system calls of machines' processes are told instead of just ending them, for tests.
    #[doc(hidden)]
    pub trap_log: Option<PathBuf>,
}
