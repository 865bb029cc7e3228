//! Every bound this crate puts on bytes that others wrote, each with its reason.

use std::time::Duration;

/// Size of every root file system. Sparse, so a large disk costs nothing until it is written, and
/// it never has to be grown inside a guest.
pub const IMAGE_BYTES: u64 = 64 << 30;

/// Bytes of one manifest, index or configuration. The distribution specification asks registries
/// to take 4 MiB; larger ones do not occur.
pub const MANIFEST_BYTES: u64 = 4 << 20;

/// Layers of one image. Overlay file systems stop at 128 and builders at 127.
pub const LAYERS: usize = 256;

/// Entries of one index. Multi-platform images have some tens.
pub const INDEX_ENTRIES: usize = 1024;

/// Levels of indexes within indexes that are followed.
pub const INDEX_DEPTH: usize = 3;

/// Alignment of sparse segments: one block of the file system.
pub const BLOCK: u64 = 4096;

/// Bytes of one name within a directory (`NAME_MAX`; ext4 stores the length in one byte).
pub const NAME_BYTES: usize = 255;

/// Bytes of one path or link target (`PATH_MAX` less its NUL; ext4's longest symbolic link).
pub const PATH_BYTES: usize = 4095;

/// Bytes of all extended headers of one member (PAX records, GNU long names). The largest honest ones
/// carry a sparse map or a 64 KiB extended attribute.
pub const EXTENDED_HEADER_BYTES: u64 = 1 << 20;

/// Bytes of one decimal sparse map in front of a member's data: room for
/// [`SPARSE_SEGMENTS`] pairs of ten digits.
pub const SPARSE_MAP_BYTES: u64 = 32 << 20;

/// Segments of one sparse member. A 64 GiB disk image with data in every 64 KiB has one million.
pub const SPARSE_SEGMENTS: usize = 1 << 20;

/// Logical bytes of one member. Sparse files such as `lastlog` exceed the disk, but not this.
pub const MEMBER_LOGICAL_BYTES: u64 = 1 << 40;

/// Extended attributes of one inode, names and values as ext4 lays them out in one block.
pub const XATTR_BLOCK_BYTES: usize = 4096 - 36;

/// Bytes of one attribute's name after its namespace (ext4 stores the length in one byte).
pub const XATTR_NAME_BYTES: usize = 255;

/// Names for one inode; ext4's own limit is 65000.
pub const LINKS: u32 = 65_000;

/// Bytes of an environment's own description in an artifact.
pub const ENVIRONMENT_JSON_BYTES: u64 = 1 << 20;

/// Bytes of an install manifest that are read: a configuration, indented, and a description. What is
/// longer was not written by us and reads as damaged.
pub const INSTALL_MANIFEST_BYTES: u64 = 64 << 20;

/// Bytes of a guest kernel in an artifact. A kernel with every driver built in is below 100 MiB.
pub const KERNEL_BYTES: u64 = 1 << 30;

/// Blobs downloaded at once: enough to hide the latency of one connection, few enough that public
/// registries do not call it abuse.
pub const PARALLEL_BLOBS: usize = 4;

/// Attempts for one request or blob that make no progress.
pub const ATTEMPTS: u32 = 5;

/// Redirects followed for one request. Docker Hub needs one.
pub const REDIRECTS: usize = 5;

/// Bytes of an error body that are read to explain a refusal.
pub const ERROR_BODY_BYTES: u64 = 16 << 10;

/// Bytes of a token server's answer.
pub const TOKEN_BYTES: u64 = 256 << 10;

/// Time to reach a registry, name lookup and TLS included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// Time without a single byte after which a transfer counts as stalled.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Time for a whole small request: manifest, token, `HEAD`.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(90);

/// Slowest transfer that is waited for, once [`REQUEST_TIMEOUT`] is used up: bytes a second over
/// the whole attempt. A server that drips one byte per stall period is cut by this.
pub const SLOWEST_BYTES_PER_SECOND: u64 = 16 << 10;

/// Longest pause that a `Retry-After` header can ask for; above it the pull fails at once and says so.
pub const RETRY_AFTER: Duration = Duration::from_secs(120);

/// First pause between attempts; doubled each time, with jitter.
pub const BACKOFF_START: Duration = Duration::from_millis(400);

/// Bytes in one request of a chunked upload.
pub const UPLOAD_CHUNK_BYTES: usize = 8 << 20;

/// Bounds on what one image's layers may hold together. A value rather than constants, so that
/// tests reach each bound with a small archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerLimits {
    /// Members of all layers together. The largest images in use have some hundred thousand; a million
    /// take one gigabyte of memory at the peak, and the image has four million inodes.
    pub entries: u64,
    /// Device nodes of all layers together. A full `/dev` has some dozens.
    pub devices: u64,
    /// Uncompressed bytes of all layers together: more than this cannot fit the disk.
    pub uncompressed_bytes: u64,
    /// Bytes of names, link targets, attributes and sparse maps held in memory.
    pub metadata_bytes: u64,
}

impl Default for LayerLimits {
    fn default() -> Self {
        Self { entries: 2_000_000, devices: 1024, uncompressed_bytes: IMAGE_BYTES, metadata_bytes: 384 << 20 }
    }
}
