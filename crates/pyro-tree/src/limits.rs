//! Bounds of what is packed and unpacked, each with its reason.

/// Directories within directories; each open level costs a descriptor and a buffer.
pub const MAX_TREE_DEPTH: usize = 512;
/// Files with several names remembered while a tree is packed; past it further names become copies.
pub(crate) const MAX_HARD_LINKS: usize = 100_000;
/// Bytes moved at a time between files and the stream.
pub const COPY_BYTES: usize = 64 << 10;
/// Extended attributes of one file: what ext4 can hold.
pub(crate) const MAX_XATTR_BYTES: usize = 64 << 10;
/// Entries left out that are told one by one; the rest is counted.
pub const MAX_SKIPPED_TOLD: usize = 1000;
/// Headers that only announce the next member, in a row: each format needs three at most, and an endless
/// row of them would never become a member.
pub(crate) const MAX_ANNOUNCEMENTS: usize = 16;
