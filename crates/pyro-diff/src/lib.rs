//! What changed between two trees, as differences and as patches.
//!
//! Everything here is pure or reads through [`ReadAt`]: patches are emitted, parsed and applied in memory,
//! trees are compared entry by entry, and ext4 images are read block by block. This crate must not know
//! machines, the wire, the runtime or the command line. Patches and images come from hostile hands: sizes,
//! counts and depths are bounded by [`limits`], and nothing here panics over what they say.
//! Paths are bytes, relative to the tree, without a leading slash.

pub mod apply;
pub mod baseline;
mod binary;
pub mod compare;
pub mod emit;
pub mod entry;
pub mod ext4;
pub mod limits;
mod lines;
pub mod name;
pub mod parse;
pub mod patch;
pub mod plan;

pub use apply::{ApplyError, apply};
pub use baseline::{BaselineTree, DiskError, ReadAt};
pub use compare::{ArtifactType, Certainty, CompareError, Comparison, Difference, State, Status};
pub use emit::{EmitLimits, Told, emit, emit_omitted};
pub use entry::{Entry, EntryKind, Side, SideKind};
pub use ext4::Ext4;
pub use parse::{ParseError, fuzz_patch, parse};
pub use patch::{FilePatch, Operation, Patch};
pub use plan::{Change, plan};
