//! The machine: virtio devices, engines, and the jail they run in.
//!
//! Knows nothing of workspaces, environments or the agent's protocol. [`machine`] is the host's side,
//! [`process`] the jailed process, which is the program `pyro-vmm`; [`protocol`] is between them.

pub mod block;
pub mod device;
pub mod endpoint;
pub mod engine;
pub mod jail;
pub mod limits;
pub mod machine;
pub mod poll;
pub mod process;
pub mod protocol;
pub mod vhost_user;
pub mod virtio_mmio;
pub mod vsock;

pub use engine::EngineSpec;
pub use jail::JailReport;
pub use machine::{
    DiskSpec, HostChannel, Machine, MachineSpec, NetworkSpec, ProcessEnd, SpawnError, probe_jail,
};
pub use protocol::{Event, ExitReason, NetworkConfig, SeccompAction, Started};
