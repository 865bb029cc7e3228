//! Directory trees as pax archives and back: one implementation for the guest's agent and for the host.
//!
//! [`pack()`] writes a tree to a stream, [`unpack()`] makes one from it. Whatever the archive says and whatever
//! other programs do to the directories meanwhile, nothing outside of the given root is read or changed.
//!
//! This crate is synchronous and knows files and bytes only: no sockets, no frames, no clock. It must not know
//! the agent's wire format, machines or workspaces.

mod error;
pub mod limits;
mod options;
mod pack;
mod path;
pub mod pax;
mod remove;
mod repack;
mod stats;
#[cfg(test)]
mod tests;
mod unpack;
mod xattrs;

pub use error::TreeError;
pub use options::{Fidelity, Limits, LinkPolicy, Mounts, PackOptions, RootLink, Selection, UnpackOptions};
pub use pack::pack;
pub use remove::remove_tree;
pub use repack::{fuzz_repack, repack};
pub use stats::{Root, SingleKind, SkipReason, Skipped, TreeStats};
pub use unpack::unpack;
