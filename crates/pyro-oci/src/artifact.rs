//! An environment as an OCI artifact: three layers, each an archive with one file, titled `vmlinux`,
//! `rootfs.ext4` and `environment.json`.
//!
//! The kernel and the description are plain archives. The root file system is a 64 GiB image of which
//! perhaps half a gigabyte holds data, so its member is sparse (PAX form 1.0, which GNU tar, libarchive
//! and Python read) and its layer is compressed with zstd. Both matter: the sparse map keeps the cost of
//! writing, hashing and reading in proportion to the data, where compression alone would still have
//! everybody hash 64 GiB of zeros for the `diff_id`; compression then cuts what travels to a third.
//! Reading takes any mix: plain, gzip or zstd layers, sparse members or not, and turns blocks of zeros
//! back into holes.
//!
//! Nothing that is written depends on the clock, the owner, or where the file system put its holes:
//! equal inputs give an equal manifest digest.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::SeekFrom;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::digest::{Digest, Hasher};
use crate::flatten::{self, FlattenError, LayerSource, Work};
use crate::limits::{BLOCK, ENVIRONMENT_JSON_BYTES, KERNEL_BYTES, LayerLimits};
use crate::manifest::{
    Descriptor, ImageManifest, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_LAYER_ZSTD, OCI_MANIFEST, Platform,
    REF_NAME, TITLE,
};
use crate::tarball::{self, Content};

/// Title and file name of the kernel.
pub const KERNEL: &str = "vmlinux";
/// Title and file name of the root file system.
pub const ROOTFS: &str = "rootfs.ext4";
/// Title of the description, and file name of the install manifest that takes its place.
pub const ENVIRONMENT_JSON: &str = "environment.json";

/// Zeros between two blocks of data that are cheaper to store than a further segment of the map.
const JOINED_GAP: u64 = 64 << 10;

/// Bytes copied at once.
const COPY: usize = 1 << 20;

/// What an environment says of itself, inside its artifact.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EnvironmentMetadata {
    /// Name in the catalog.
    pub environment: String,
    /// Version of the environment.
    pub version: String,
    /// Platform of the guest.
    pub platform: String,
    /// Distribution's name.
    pub distribution: String,
    /// Distribution's version.
    pub distribution_version: String,
    /// One line for people.
    pub description: String,
    /// Packages worth telling about.
    pub default_packages: Vec<String>,
    /// Recipe it was built by.
    pub source_profile: String,
    /// Version of the bundle it was built with.
    pub bundle_version: String,
    /// Versions of its parts.
    pub component_versions: BTreeMap<String, String>,
    /// What a guest of it can do.
    pub capabilities: BTreeMap<String, bool>,
}

/// What goes into an artifact.
pub struct ArtifactContents<'a> {
    /// An uncompressed kernel.
    pub kernel: &'a Path,
    /// A root file system image; holes and blocks of zeros are not stored.
    pub rootfs: &'a Path,
    /// The description.
    pub environment: &'a EnvironmentMetadata,
    /// zstd level of the root file system's layer: 3 for quick builds, up to 19 for releases.
    pub compression_level: i32,
}

/// Why an artifact could not be written or taken apart.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// A layer's archive.
    #[error(transparent)]
    Layer(#[from] FlattenError),
    /// A part that every environment has is not there.
    #[error("environment archive did not contain {0}")]
    Missing(&'static str),
    /// A part above its bound.
    #[error("{part} has {bytes} bytes; the limit is {limit}")]
    TooLarge {
        /// Which part.
        part: &'static str,
        /// Its size.
        bytes: u64,
        /// The bound.
        limit: u64,
    },
    /// A file could not be read or written.
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
}

fn io_at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ArtifactError {
    let path = path.to_owned();
    move |source| ArtifactError::Io { action, path, source }
}

/// Writes an `oci-layout` directory with this environment; returns the manifest's digest.
///
/// # Errors
/// When a file cannot be read or written.
pub fn write_layout(contents: &ArtifactContents<'_>, dir: &Path) -> Result<Digest, ArtifactError> {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(io_at("creating", &blobs))?;
    let environment = serde_json::to_vec_pretty(contents.environment).expect("plain text serializes");
    let layers = [
        plain_layer(&blobs, KERNEL, contents.kernel)?,
        rootfs_layer(&blobs, contents.rootfs, contents.compression_level)?,
        bytes_layer(&blobs, ENVIRONMENT_JSON, &environment)?,
    ];
    let labels = labels(contents.environment);
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "Labels": labels },
        "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|l| l.diff_id).collect::<Vec<_>>() },
    });
    let config = document_blob(&blobs, OCI_CONFIG, &config)?;
    let layers: Vec<_> = layers.into_iter().map(|l| l.descriptor).collect();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config,
        "layers": layers,
        "annotations": labels,
    });
    let mut manifest = document_blob(&blobs, OCI_MANIFEST, &manifest)?;
    let digest = manifest.digest;
    manifest.platform = Some(Platform { os: "linux".into(), architecture: "amd64".into(), variant: None });
    manifest.annotations.insert(REF_NAME.into(), contents.environment.version.clone());
    manifest.annotations.insert(TITLE.into(), contents.environment.environment.clone());
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [manifest] });
    write_document(&dir.join("oci-layout"), &json!({ "imageLayoutVersion": "1.0.0" }))?;
    write_document(&dir.join("index.json"), &index)?;
    Ok(digest)
}

fn labels(environment: &EnvironmentMetadata) -> BTreeMap<&'static str, &str> {
    BTreeMap::from([
        ("io.pyro.environment", &*environment.environment),
        ("io.pyro.environment.version", &*environment.version),
        ("io.pyro.source_profile", &*environment.source_profile),
        (TITLE, &*environment.environment),
        ("org.opencontainers.image.version", &*environment.version),
    ])
}

fn write_document(path: &Path, document: &serde_json::Value) -> Result<(), ArtifactError> {
    fs::write(path, document.to_string()).map_err(io_at("writing", path))
}

fn document_blob(
    blobs: &Path,
    media_type: &str,
    document: &serde_json::Value,
) -> Result<Descriptor, ArtifactError> {
    let bytes = document.to_string().into_bytes();
    let digest = Digest::of(&bytes);
    let path = blobs.join(digest.hex());
    fs::write(&path, &bytes).map_err(io_at("writing", &path))?;
    Ok(descriptor(media_type, digest, bytes.len() as u64, None))
}

fn descriptor(media_type: &str, digest: Digest, size: u64, title: Option<&str>) -> Descriptor {
    let annotations = title.map(|t| (TITLE.to_owned(), t.to_owned())).into_iter().collect();
    Descriptor { media_type: media_type.to_owned(), digest, size, annotations, platform: None }
}

struct WrittenLayer {
    descriptor: Descriptor,
    diff_id: Digest,
}

fn plain_layer(blobs: &Path, title: &str, source: &Path) -> Result<WrittenLayer, ArtifactError> {
    let mut file = File::open(source).map_err(io_at("opening", source))?;
    let size = file.metadata().map_err(io_at("reading", source))?.len();
    layer(blobs, title, OCI_LAYER, |out| {
        tarball::write_file(out, title, size, &mut file)?;
        tarball::write_end(out, 0)
    })
}

fn bytes_layer(blobs: &Path, title: &str, bytes: &[u8]) -> Result<WrittenLayer, ArtifactError> {
    layer(blobs, title, OCI_LAYER, |out| {
        tarball::write_file(out, title, bytes.len() as u64, &mut &bytes[..])?;
        tarball::write_end(out, 0)
    })
}

fn rootfs_layer(blobs: &Path, source: &Path, level: i32) -> Result<WrittenLayer, ArtifactError> {
    let file = File::open(source).map_err(io_at("opening", source))?;
    let size = file.metadata().map_err(io_at("reading", source))?.len();
    let map = data_map(&file, size).map_err(io_at("reading", source))?;
    let mut diff_id = Hasher::default();
    let mut written = layer(blobs, ROOTFS, OCI_LAYER_ZSTD, |out| {
        let mut encoder = zstd::Encoder::new(out, level)?;
        encoder.include_checksum(true)?;
        let mut hashing = HashingWriter { hasher: &mut diff_id, out: &mut encoder, written: 0 };
        let stored = tarball::write_sparse_header(&mut hashing, ROOTFS, size, &map)?;
        let mut buffer = vec![0; COPY];
        for &(offset, len) in &map {
            copy_range(&file, offset, len, &mut buffer, |_, bytes| hashing.write_all(bytes))?;
        }
        tarball::write_end(&mut hashing, stored)?;
        encoder.finish().map(drop)
    })?;
    written.diff_id = diff_id.finish();
    Ok(written)
}

/// Writes one blob through `body`; the `diff_id` is the blob's own digest, as for a plain archive.
fn layer(
    blobs: &Path,
    title: &str,
    media_type: &str,
    body: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<WrittenLayer, ArtifactError> {
    let temporary = blobs.join(format!(".partial-{title}"));
    let failed = || io_at("writing", &temporary);
    let file = File::create(&temporary).map_err(failed())?;
    let mut buffered = BufWriter::with_capacity(COPY, file);
    let mut hasher = Hasher::default();
    let mut out = HashingWriter { hasher: &mut hasher, out: &mut buffered, written: 0 };
    let result = body(&mut out);
    let size = out.written;
    let finished = result.and_then(|()| buffered.into_inner().map_err(io::IntoInnerError::into_error));
    if let Err(error) = finished.and_then(|file| file.sync_all()) {
        drop(fs::remove_file(&temporary));
        return Err(failed()(error));
    }
    let digest = hasher.finish();
    let path = blobs.join(digest.hex());
    fs::rename(&temporary, &path).map_err(io_at("renaming", &path))?;
    Ok(WrittenLayer { descriptor: descriptor(media_type, digest, size, Some(title)), diff_id: digest })
}

struct HashingWriter<'a, W: Write + ?Sized> {
    hasher: &'a mut Hasher,
    out: &'a mut W,
    written: u64,
}

impl<W: Write + ?Sized> Write for HashingWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.written += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Where a file holds anything but zeros, in whole blocks, close ones joined. The result depends on the
/// content alone: holes only spare the reading.
fn data_map(file: &File, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut map: Vec<(u64, u64)> = Vec::new();
    let mut buffer = vec![0; COPY];
    let mut at = 0;
    while let Some((start, end)) = next_extent(file, at, size)? {
        // Extents need not begin on a block of ours.
        let start = start / BLOCK * BLOCK;
        copy_range(file, start.max(at), end - start.max(at), &mut buffer, |offset, bytes| {
            for (i, block) in bytes.chunks(BLOCK as usize).enumerate() {
                if is_zero(block) {
                    continue;
                }
                let block_at = offset + i as u64 * BLOCK;
                let block_end = block_at + block.len() as u64;
                match map.last_mut() {
                    Some((o, len)) if block_at - (*o + *len) < JOINED_GAP => *len = block_end - *o,
                    _ => map.push((block_at, block_end - block_at)),
                }
            }
            Ok(())
        })?;
        at = end.next_multiple_of(BLOCK).min(size);
    }
    Ok(map)
}

fn next_extent(file: &File, at: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= size {
        return Ok(None);
    }
    let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(rustix::io::Errno::NXIO) => return Ok(None),
        // A file system that does not know of holes.
        Err(rustix::io::Errno::INVAL) => return Ok(Some((at, size))),
        Err(error) => return Err(error.into()),
    };
    let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
    Ok(Some((start, end.min(size))))
}

/// Sixteen bytes at a time, which the compiler turns into vector compares.
fn is_zero(block: &[u8]) -> bool {
    let (words, tail) = block.as_chunks::<16>();
    words.iter().all(|w| *w == [0; 16]) && tail.iter().all(|&b| b == 0)
}

fn copy_range(
    file: &File,
    mut offset: u64,
    mut len: u64,
    buffer: &mut [u8],
    mut each: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    while len > 0 {
        let n = len.min(buffer.len() as u64) as usize;
        file.read_exact_at(&mut buffer[..n], offset)?;
        each(offset, &buffer[..n])?;
        offset += n as u64;
        len -= n as u64;
    }
    Ok(())
}

/// Whether a manifest is an environment rather than an image: its layers are titled as ours are.
pub(crate) fn is_artifact(manifest: &ImageManifest) -> bool {
    let titled =
        |title: &str| manifest.layers.iter().any(|l| l.annotations.get(TITLE).is_some_and(|t| t == title));
    titled(ROOTFS) && titled(KERNEL)
}

/// What taking an artifact apart gave.
pub(crate) struct Extracted {
    pub(crate) environment: Option<EnvironmentMetadata>,
    pub(crate) rootfs_diff_id: Digest,
    pub(crate) kernel_digest: Digest,
}

/// Takes the layers apart into `dir`: `vmlinux` and `rootfs.ext4`, the latter with its holes.
pub(crate) fn extract(layers: Vec<LayerSource>, dir: &Path, work: &Work) -> Result<Extracted, ArtifactError> {
    let limits = LayerLimits { entries: 64, ..LayerLimits::default() };
    let members = flatten::single_files(layers, dir, &limits, work)?;
    let find = |name: &'static str| {
        // Any depth: builders have put the files into a directory.
        members.iter().find(|m| m.name == name).ok_or(ArtifactError::Missing(name))
    };
    let kernel = find(KERNEL)?;
    bounded(KERNEL, kernel.content.size(), KERNEL_BYTES)?;
    let kernel_path = dir.join(KERNEL);
    copy_content(&kernel.data, &kernel.content, &kernel_path, work)?;
    let rootfs = find(ROOTFS)?;
    copy_content(&rootfs.data, &rootfs.content, &dir.join(ROOTFS), work)?;
    let environment = members.iter().find(|m| m.name == ENVIRONMENT_JSON);
    let environment = environment.map(|m| read_environment(&m.data, &m.content)).transpose()?.flatten();
    Ok(Extracted {
        environment,
        rootfs_diff_id: rootfs.diff_id,
        kernel_digest: hash_file(&kernel_path).map_err(io_at("reading", &kernel_path))?,
    })
}

pub(crate) fn hash_file(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; COPY];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(hasher.finish());
        }
        hasher.update(&buffer[..n]);
    }
}

fn bounded(part: &'static str, bytes: u64, limit: u64) -> Result<(), ArtifactError> {
    if bytes > limit { Err(ArtifactError::TooLarge { part, bytes, limit }) } else { Ok(()) }
}

/// A description that cannot be read is no reason to refuse an environment that can be run.
fn read_environment(data: &File, content: &Content) -> Result<Option<EnvironmentMetadata>, ArtifactError> {
    bounded(ENVIRONMENT_JSON, content.size(), ENVIRONMENT_JSON_BYTES)?;
    let Content::Plain { at, len } = content else { return Ok(None) };
    let mut bytes = vec![0; *len as usize];
    data.read_exact_at(&mut bytes, *at).map_err(io_at("reading", Path::new(ENVIRONMENT_JSON)))?;
    Ok(serde_json::from_slice(&bytes).ok())
}

fn copy_content(data: &Arc<File>, content: &Content, path: &Path, work: &Work) -> Result<(), ArtifactError> {
    let failed = || io_at("writing", path);
    let out = File::create_new(path).map_err(failed())?;
    out.set_len(content.size()).map_err(failed())?;
    let mut buffer = vec![0; COPY];
    for segment in content.segments() {
        let copied = copy_range(data, segment.at, segment.len, &mut buffer, |at, bytes| {
            // One segment may be the whole disk: nobody waits for its end after cancelling.
            if work.is_cancelled() {
                return Err(io::Error::other("cancelled"));
            }
            write_data(&out, segment.offset + (at - segment.at), bytes)
        });
        work.check()?;
        copied.map_err(failed())?;
    }
    out.sync_all().map_err(failed())
}

/// Writes what is not zero.
fn write_data(out: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let mut start = 0;
    let mut at = 0;
    for block in bytes.chunks(BLOCK as usize) {
        if is_zero(block) {
            out.write_all_at(&bytes[start..at], offset + start as u64)?;
            start = at + block.len();
        }
        at += block.len();
    }
    out.write_all_at(&bytes[start..], offset + start as u64)
}

#[cfg(test)]
mod tests;
