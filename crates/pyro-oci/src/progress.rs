//! What a pull tells while it runs.

use crate::digest::Digest;

/// A step of a pull, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Another process installs the same environment; its end is waited for.
    Waiting,
    /// The manifest is being found.
    Resolve,
    /// Blobs are being fetched.
    Download,
    /// Layers become a root file system, or an artifact is taken apart.
    Unpack,
    /// The environment is in place.
    Ready,
}

/// Receives what a pull tells. Called from several threads.
pub trait Progress: Send + Sync {
    /// A step begins.
    fn phase(&self, phase: Phase);
    /// A blob of `total` bytes has `done` of them; called often. The first call may have `done` above
    /// zero where an earlier transfer is resumed.
    fn blob(&self, digest: &Digest, done: u64, total: u64);
    /// `bytes` more uncompressed bytes of layers were read.
    fn unpacked(&self, bytes: u64);
    /// A transfer failed and is tried again; `reason` is for people.
    fn retry(&self, reason: &str);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn phase(&self, _: Phase) {}
    fn blob(&self, _: &Digest, _: u64, _: u64) {}
    fn unpacked(&self, _: u64) {}
    fn retry(&self, _: &str) {}
}
