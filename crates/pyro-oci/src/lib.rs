//! Environments: root file systems with, where they have one, the kernel that boots them.
//!
//! This crate knows registries, image layouts, archives and the cache on disk. It must not know
//! machines, workspaces, the command line, the environment's variables or the home directory:
//! whatever it needs arrives in a configuration value, and what happens is told through
//! [`Progress`] and typed errors.

pub mod artifact;
pub mod catalog;
pub mod digest;
pub mod flatten;
pub mod layout;
pub mod limits;
pub mod manifest;
pub mod progress;
pub mod reference;
pub mod registry;
pub mod store;
mod tarball;

pub use digest::Digest;
pub use flatten::{FlattenError, Flattened, flatten_tar_files, flatten_to_ext4};
pub use manifest::ImageConfig;
pub use progress::{Phase, Progress, Silent};
pub use reference::{ImageReference, LocalReference, Reference, ReferenceError};
pub use registry::{Credentials, Mirror, RegistryConfig, RegistryError, Timing};
pub use store::{
    Fault, Inspection, InstallManifest, Installed, Pruned, PullError, Store, StoreConfig, StoreError,
};
pub use tarball::TarError;

/// The one platform that environments are for.
pub const PLATFORM: &str = "linux-x86_64";
