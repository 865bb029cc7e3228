//! Layers to one root file system image, without root and without unpacking anything on the host.
//!
//! Each layer is decompressed once: its digest is computed, its members are indexed, and where it was
//! compressed its bytes go to a spool file that has no name. The members of all layers then become one
//! tree in memory, in which nothing can point outside, and the tree becomes an ext4 image. A path is
//! never resolved on the host, so a hostile archive has nothing to escape into.

mod acl;
mod ext4;
mod layer;
mod path;
mod tree;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::digest::{Digest, Hasher};
use crate::limits::LayerLimits;
use crate::tarball::{TarError, shown};

pub(crate) use layer::{FileSource, SingleFile, nameless_file};
use tree::Tree;

/// Identifies what this crate writes for given layers: the formatter with its version, and our own
/// options. It is part of every image's key, so that an image of another make is never mistaken for
/// this one.
pub const FORMATTER: &str = "mkext4-0.0.3/pyro-1";

/// Why layers do not become a root file system.
#[derive(Debug, thiserror::Error)]
pub enum FlattenError {
    /// A layer is not a readable archive.
    #[error("layer {layer} is not a valid archive")]
    Tar {
        /// Position of the layer, from 1.
        layer: usize,
        /// What is wrong with it.
        #[source]
        source: TarError,
    },
    /// A path that leaves the tree, or cannot be one.
    #[error("unsafe archive member path: {} ({why})", shown(path.as_bytes()))]
    Path {
        /// The path as claimed.
        path: String,
        /// The rule it breaks.
        why: &'static str,
    },
    /// A name that the formatter cannot write.
    #[error("member name is not valid UTF-8: {path}")]
    NotUtf8 {
        /// The path, escaped.
        path: String,
    },
    /// A member below a symbolic link of its own layer.
    #[error(
        "archive member would traverse through a symlinked path: {} (through {})",
        shown(path.as_bytes()),
        shown(link.as_bytes())
    )]
    ThroughSymlink {
        /// The member.
        path: String,
        /// The symbolic link on its way.
        link: String,
    },
    /// A member below something of its own layer that is not a directory.
    #[error(
        "archive member {} lies below {}, which is not a directory",
        shown(path.as_bytes()),
        shown(parent.as_bytes())
    )]
    ThroughFile {
        /// The member.
        path: String,
        /// The file on its way.
        parent: String,
    },
    /// A hard link whose target is not there, or is a directory.
    #[error("hard link {} points to {}, which {why}", shown(path.as_bytes()), shown(target.as_bytes()))]
    HardLink {
        /// The link.
        path: String,
        /// Its target.
        target: String,
        /// What is wrong with the target.
        why: &'static str,
    },
    /// Something else about one member.
    #[error("archive member {} {why}", shown(path.as_bytes()))]
    Member {
        /// The member.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// All layers together exceed a bound.
    #[error("the layers hold more than {limit} {what}")]
    TooMuch {
        /// What was counted.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// The files do not fit the disk.
    #[error("the layers need {needed} bytes, more than fits the {capacity} byte disk")]
    DiskFull {
        /// Bytes of all files.
        needed: u64,
        /// The disk's size.
        capacity: u64,
    },
    /// The uncompressed bytes are not those that the configuration names.
    #[error("OCI digest mismatch for layer {layer}, expected {expected}; got {actual}")]
    DiffId {
        /// Position of the layer, from 1.
        layer: usize,
        /// The `diff_id`.
        expected: Digest,
        /// What the bytes give.
        actual: Digest,
    },
    /// The formatter refused or failed.
    #[error("writing the ext4 image failed: {0}")]
    Format(String),
    /// A file of ours could not be read or written.
    #[error("{action} {path} failed")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The caller is no longer waiting.
    #[error("cancelled")]
    Cancelled,
}

impl FlattenError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// One layer to be indexed.
pub struct LayerSource {
    /// The archive: plain, gzip or zstd, told apart by its first bytes.
    pub file: File,
    /// What its uncompressed bytes must hash to.
    pub diff_id: Option<Digest>,
}

/// How a long piece of blocking work learns that nobody waits for it, and tells how far it is.
#[derive(Clone, Default)]
pub struct Work {
    cancelled: Arc<AtomicBool>,
    advanced: Option<Arc<dyn Fn(u64) + Send + Sync>>,
}

impl Work {
    /// Work that calls `advanced` with each count of uncompressed bytes done.
    #[must_use]
    pub fn observed(advanced: Arc<dyn Fn(u64) + Send + Sync>) -> Self {
        Self { cancelled: Arc::default(), advanced: Some(advanced) }
    }

    /// Makes the work end with an error at its next step.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    pub(crate) fn check(&self) -> Result<(), FlattenError> {
        if self.is_cancelled() { Err(FlattenError::Cancelled) } else { Ok(()) }
    }

    pub(crate) fn advance(&self, bytes: u64) {
        if let Some(advanced) = &self.advanced {
            advanced(bytes);
        }
    }
}

/// What became of the layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flattened {
    /// The digests of the uncompressed layers, in order.
    pub diff_ids: Vec<Digest>,
    /// What determines every byte of the image; see [`image_key`].
    pub key: Digest,
    /// Files, directories, links and nodes in the image.
    pub inodes: u64,
    /// Bytes of file data in the image.
    pub data_bytes: u64,
    /// Uncompressed bytes of all layers.
    pub layer_bytes: u64,
}

/// The key of the image that these layers give: equal keys mean equal images.
#[must_use]
pub fn image_key(diff_ids: &[Digest], platform: &str) -> Digest {
    let mut hasher = Hasher::default();
    hasher.update(format!("{FORMATTER}\n{platform}\n{}\n", crate::limits::IMAGE_BYTES).as_bytes());
    for id in diff_ids {
        hasher.update(format!("{id}\n").as_bytes());
    }
    hasher.finish()
}

/// Flattens layers, lowest first, into a new image file at `image`, which must not exist.
///
/// Compressed layers are spooled to nameless files in the image's directory. The image is flushed to
/// the disk before this returns; on an error nothing is left. This blocks: call it from a thread of
/// its own.
///
/// # Errors
/// See [`FlattenError`]; hostile archives end here.
pub fn flatten_to_ext4(
    layers: Vec<LayerSource>,
    image: &Path,
    limits: &LayerLimits,
    work: &Work,
) -> Result<Flattened, FlattenError> {
    let spool_dir = image.parent().unwrap_or(Path::new("."));
    let mut indexed = Vec::with_capacity(layers.len());
    let mut budget = layer::Budget::new(limits);
    for (position, source) in layers.into_iter().enumerate() {
        let layer = layer::index(source, position + 1, spool_dir, &mut budget, work)?;
        indexed.push(layer);
    }
    write_image(indexed, image, limits, work)
}

/// Flattens plain (or compressed) tar files, lowest first; see [`flatten_to_ext4`].
///
/// # Errors
/// See [`FlattenError`].
pub fn flatten_tar_files(tars: &[PathBuf], image: &Path) -> Result<Flattened, FlattenError> {
    let mut layers = Vec::with_capacity(tars.len());
    for path in tars {
        let file = File::open(path).map_err(FlattenError::io("opening", path))?;
        layers.push(LayerSource { file, diff_id: None });
    }
    flatten_to_ext4(layers, image, &LayerLimits::default(), &Work::default())
}

fn write_image(
    layers: Vec<layer::Indexed>,
    image: &Path,
    limits: &LayerLimits,
    work: &Work,
) -> Result<Flattened, FlattenError> {
    let diff_ids: Vec<Digest> = layers.iter().map(|l| l.diff_id).collect();
    let key = image_key(&diff_ids, crate::PLATFORM);
    let layer_bytes = layers.iter().map(|l| l.bytes).sum();
    let mut tree = Tree::new(limits.entries);
    let mut data = Vec::with_capacity(layers.len());
    for layer in layers {
        work.check()?;
        tree.apply(layer.members)?;
        data.push(layer.data);
    }
    let (inodes, data_bytes) = ext4::write(&tree, &data, image, &key, work)?;
    Ok(Flattened { diff_ids, key, inodes, data_bytes, layer_bytes })
}

/// Indexes layers that carry files for us rather than a tree: each file with where its bytes are.
pub(crate) fn single_files(
    layers: Vec<LayerSource>,
    spool_dir: &Path,
    limits: &LayerLimits,
    work: &Work,
) -> Result<Vec<SingleFile>, FlattenError> {
    let mut budget = layer::Budget::new(limits);
    let mut files = Vec::new();
    for (position, source) in layers.into_iter().enumerate() {
        files.extend(layer::index(source, position + 1, spool_dir, &mut budget, work)?.into_files());
    }
    Ok(files)
}

/// Reads `data` as two layers, one on the other, and builds their tree: everything that happens to
/// hostile archives before bytes are written. For fuzzing and property tests.
///
/// # Errors
/// As [`flatten_to_ext4`]; never panics.
pub fn fuzz_layer(data: &[u8]) -> Result<(), FlattenError> {
    let limits =
        LayerLimits { entries: 4096, devices: 16, uncompressed_bytes: 1 << 24, metadata_bytes: 1 << 20 };
    let mut budget = layer::Budget::new(&limits);
    let (lower, upper) = data.split_at((data.len() / 1024) * 512);
    let mut tree = Tree::new(limits.entries);
    for (position, bytes) in [lower, upper].into_iter().enumerate() {
        tree.apply(layer::index_bytes(bytes, position + 1, &mut budget)?)?;
    }
    tree.check();
    Ok(())
}

#[cfg(test)]
mod tests;
