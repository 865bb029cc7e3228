//! Images in local `oci-layout` directories, and in archives of them.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use serde::Deserialize;

use crate::digest::{Digest, Hasher};
use crate::limits::{LAYERS, MANIFEST_BYTES, PATH_BYTES};
use crate::manifest::{self, Descriptor, Document, ManifestError, REF_NAME};
use crate::reference::LocalReference;
use crate::tarball::{Content, MemberKind, TarError, TarReader, shown};

/// Why a local image cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A file is missing or cannot be read.
    #[error("reading {path} failed")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The archive itself.
    #[error("{path} is not a valid archive")]
    Archive {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: TarError,
    },
    /// Not an image layout.
    #[error("{0} is not an OCI image layout (it has no index.json)")]
    NotALayout(PathBuf),
    /// The tag that was asked for is not there, or none was and there are several.
    #[error("{path} holds no single image {asked}; it has: {names}")]
    NoSuchTag {
        /// The layout.
        path: PathBuf,
        /// What was asked for.
        asked: String,
        /// The names it holds.
        names: String,
    },
    /// A blob whose bytes are not those of its name.
    #[error("OCI blob digest mismatch for {expected}; got {actual}")]
    Digest {
        /// Its name.
        expected: Digest,
        /// What the bytes give.
        actual: Digest,
    },
    /// A blob of another size than its descriptor says.
    #[error("OCI blob {digest} has {actual} bytes where its descriptor says {expected}")]
    Size {
        /// The blob.
        digest: Digest,
        /// In the descriptor.
        expected: u64,
        /// In the layout.
        actual: u64,
    },
    /// A document in it.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A blob of an archive could not be copied out of it.
    #[error("copying a blob into the environment cache failed")]
    Spool(#[source] io::Error),
}

/// A layout that is open for reading.
pub(crate) struct Layout {
    path: PathBuf,
    tag: Option<String>,
    files: Files,
    /// Where blobs are that do not lie under their digest, as in older archives of `docker save`.
    names: OnceLock<HashMap<Digest, String>>,
}

/// One image of an older `docker save`: paths in the archive.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

enum Files {
    Directory,
    /// Where each member's bytes are in the archive.
    Archive {
        file: File,
        members: HashMap<String, (u64, u64)>,
    },
}

/// Members of an archive of images: blobs, and a few documents.
const ARCHIVE_MEMBERS: usize = 100_000;

impl Layout {
    /// Opens a directory.
    pub(crate) fn directory(reference: &LocalReference) -> Self {
        let (path, tag) = whole_path(reference);
        Self { path, tag, files: Files::Directory, names: OnceLock::new() }
    }

    /// Opens an archive and finds its members.
    pub(crate) fn archive(reference: &LocalReference) -> Result<Self, LayoutError> {
        let (path, tag) = whole_path(reference);
        let (file, len) = open_regular(&path).map_err(io_at(&path))?;
        let members = archive_members(&file, len)
            .map_err(|source| LayoutError::Archive { path: path.clone(), source })?;
        Ok(Self { path, tag, files: Files::Archive { file, members }, names: OnceLock::new() })
    }

    /// The manifest of the image that was asked for, for the guest's platform, and its digest.
    pub(crate) fn manifest(&self) -> Result<(manifest::ImageManifest, Digest), LayoutError> {
        let index = match self.small_file("index.json", MANIFEST_BYTES) {
            Err(LayoutError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return self.saved_manifest();
            }
            other => other?,
        };
        let Document::Index(entries) = manifest::parse(&index)? else {
            return Err(LayoutError::NotALayout(self.path.clone()));
        };
        let mut chosen = self.choose(&entries)?;
        for _ in 0..crate::limits::INDEX_DEPTH {
            let bytes = self.document(&chosen)?;
            match manifest::parse(&bytes)? {
                Document::Image(image) => return Ok((image, chosen.digest)),
                Document::Index(entries) => chosen = manifest::for_guest(&entries)?.clone(),
            }
        }
        Err(ManifestError::NoPlatform("indexes of indexes".into()).into())
    }

    /// The manifest that an older `docker save` implies. It carries no digests, so those of its files
    /// are computed; what the layers must be still follows from the configuration's `diff_id`s.
    fn saved_manifest(&self) -> Result<(manifest::ImageManifest, Digest), LayoutError> {
        let bytes = match self.small_file("manifest.json", MANIFEST_BYTES) {
            Err(LayoutError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(LayoutError::NotALayout(self.path.clone()));
            }
            other => other?,
        };
        let malformed = |why: String| ManifestError::Malformed { document: "manifest.json", why };
        let images: Vec<SavedImage> =
            serde_json::from_slice(&bytes).map_err(|e| malformed(shown(e.to_string().as_bytes())))?;
        let tags = |image: &SavedImage| image.repo_tags.clone().unwrap_or_default();
        let wanted = |image: &&SavedImage| {
            self.tag.as_ref().is_none_or(|tag| tags(image).iter().any(|t| t.ends_with(&format!(":{tag}"))))
        };
        let matching: Vec<&SavedImage> = images.iter().filter(wanted).collect();
        let [image] = &*matching else {
            let names = images.iter().flat_map(tags).take(20).map(|tag| shown(tag.as_bytes()));
            let names: Vec<String> = names.collect();
            let asked = self.tag.clone().unwrap_or_else(|| "without a tag".into());
            return Err(LayoutError::NoSuchTag { path: self.path.clone(), asked, names: names.join(", ") });
        };
        if image.layers.len() > LAYERS {
            return Err(malformed(format!("{} layers; the limit is {LAYERS}", image.layers.len())).into());
        }
        let config = self.saved_blob(&image.config)?;
        let layers = image.layers.iter().map(|name| self.saved_blob(name)).collect::<Result<Vec<_>, _>>()?;
        let digest = config.digest;
        let names = layers.iter().map(|l| l.digest).zip(image.layers.iter().cloned());
        // Asked twice, the archive says the same twice.
        self.names.get_or_init(|| names.chain([(digest, image.config.clone())]).collect());
        Ok((manifest::ImageManifest { config, layers }, digest))
    }

    fn saved_blob(&self, name: &str) -> Result<Descriptor, LayoutError> {
        let (file, at, size) = self.open(name)?;
        let digest = hash_range(&file, at, size).map_err(io_at(&self.path.join(name)))?;
        Ok(Descriptor {
            media_type: String::new(),
            digest,
            size,
            annotations: Default::default(),
            platform: None,
        })
    }

    fn blob_path(&self, digest: &Digest) -> String {
        let saved = self.names.get().and_then(|names| names.get(digest));
        saved.cloned().unwrap_or_else(|| format!("blobs/sha256/{}", digest.hex()))
    }

    fn choose(&self, entries: &[Descriptor]) -> Result<Descriptor, LayoutError> {
        let name = |d: &Descriptor| d.annotations.get(REF_NAME).cloned().unwrap_or_default();
        let matches: Vec<Descriptor> = match &self.tag {
            Some(tag) => {
                let suffix = format!(":{tag}");
                entries.iter().filter(|d| name(d) == *tag || name(d).ends_with(&suffix)).cloned().collect()
            }
            None => entries.to_vec(),
        };
        let first = matches.first().map(name);
        if matches.is_empty() || matches.iter().any(|d| Some(name(d)) != first) {
            let names = entries.iter().take(20).map(|entry| shown(name(entry).as_bytes()));
            let names: Vec<String> = names.collect();
            let asked = self.tag.clone().unwrap_or_else(|| "without a tag".into());
            return Err(LayoutError::NoSuchTag { path: self.path.clone(), asked, names: names.join(", ") });
        }
        match &*matches {
            [only] => Ok(only.clone()),
            several => Ok(manifest::for_guest(several)?.clone()),
        }
    }

    /// A small blob, verified.
    pub(crate) fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, LayoutError> {
        let bytes = self.small_file(&self.blob_path(&descriptor.digest), MANIFEST_BYTES)?;
        let actual = Digest::of(&bytes);
        if actual != descriptor.digest {
            return Err(LayoutError::Digest { expected: descriptor.digest, actual });
        }
        Ok(bytes)
    }

    /// A blob as a file of its own, verified. From an archive it is copied into `spool`.
    pub(crate) fn blob(
        &self,
        descriptor: &Descriptor,
        spool: impl FnOnce() -> io::Result<File>,
    ) -> Result<File, LayoutError> {
        let name = self.blob_path(&descriptor.digest);
        let (file, at, len) = self.open(&name)?;
        let path = self.path.join(&name);
        if len != descriptor.size {
            return Err(LayoutError::Size {
                digest: descriptor.digest,
                expected: descriptor.size,
                actual: len,
            });
        }
        let copy = match &self.files {
            Files::Directory => None,
            Files::Archive { .. } => Some(spool().map_err(LayoutError::Spool)?),
        };
        let mut hasher = Hasher::default();
        let mut buffer = vec![0; 1 << 20];
        let mut done = 0;
        while done < len {
            let n = (len - done).min(buffer.len() as u64) as usize;
            file.read_exact_at(&mut buffer[..n], at + done).map_err(io_at(&path))?;
            hasher.update(&buffer[..n]);
            if let Some(copy) = &copy {
                copy.write_all_at(&buffer[..n], done).map_err(LayoutError::Spool)?;
            }
            done += n as u64;
        }
        let actual = hasher.finish();
        if actual != descriptor.digest {
            return Err(LayoutError::Digest { expected: descriptor.digest, actual });
        }
        Ok(copy.unwrap_or(file))
    }

    fn small_file(&self, name: &str, limit: u64) -> Result<Vec<u8>, LayoutError> {
        let (file, at, len) = self.open(name)?;
        if len > limit {
            let document = "document";
            return Err(ManifestError::TooLarge { document, what: "bytes", count: len, limit }.into());
        }
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, at).map_err(io_at(&self.path.join(name)))?;
        Ok(bytes)
    }

    /// A file of the layout: the descriptor, where it begins in it, and its length.
    fn open(&self, name: &str) -> Result<(File, u64, u64), LayoutError> {
        let path = self.path.join(name);
        let found: io::Result<_> = match &self.files {
            Files::Directory if !is_inside(name) => Err(io::ErrorKind::NotFound.into()),
            Files::Directory => open_regular(&path).map(|(file, len)| (file, 0, len)),
            Files::Archive { file, members } => match members.get(name) {
                Some(&(at, len)) => file.try_clone().map(|file| (file, at, len)),
                None => Err(io::ErrorKind::NotFound.into()),
            },
        };
        found.map_err(io_at(&path))
    }
}

/// Opens a file and tells its length. A pipe that somebody put in its place must not be waited for.
fn open_regular(path: &Path) -> io::Result<(File, u64)> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits();
    let file = File::options().read(true).custom_flags(flags.cast_signed()).open(path)?;
    let metadata = file.metadata()?;
    match metadata.is_file() {
        true => Ok((file, metadata.len())),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")),
    }
}

/// Whether a name that the layout itself gives stays within the layout.
fn is_inside(name: &str) -> bool {
    Path::new(name).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

fn hash_range(file: &File, at: u64, len: u64) -> io::Result<Digest> {
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 1 << 20];
    let mut done = 0;
    while done < len {
        let n = (len - done).min(buffer.len() as u64) as usize;
        file.read_exact_at(&mut buffer[..n], at + done)?;
        hasher.update(&buffer[..n]);
        done += n as u64;
    }
    Ok(hasher.finish())
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> LayoutError {
    let path = path.to_owned();
    move |source| LayoutError::Io { path, source }
}

/// A path may itself end in what looks like a tag; one that exists as a whole has none.
fn whole_path(reference: &LocalReference) -> (PathBuf, Option<String>) {
    if let Some(tag) = &reference.tag {
        let mut whole = reference.path.clone().into_os_string();
        whole.push(format!(":{tag}"));
        if Path::new(&whole).exists() {
            return (whole.into(), None);
        }
    }
    (reference.path.clone(), reference.tag.clone())
}

fn archive_members(file: &File, len: u64) -> Result<HashMap<String, (u64, u64)>, TarError> {
    let mut reader = TarReader::new(crate::flatten::FileSource::new(file, len));
    let mut members = HashMap::new();
    let mut links = Vec::new();
    while let Some(member) = reader.next_member()? {
        let Some(name) = plain_name(&member.path, "") else { continue };
        match member.kind {
            MemberKind::File(Content::Plain { at, len }) => drop(members.insert(name, (at, len))),
            MemberKind::Symlink(target) => {
                let dir = name.rsplit_once('/').map_or("", |(dir, _)| dir).to_owned();
                links.extend(plain_name(&target, &dir).map(|target| (name, target)));
            }
            MemberKind::HardLink(target) => {
                links.extend(plain_name(&target, "").map(|target| (name, target)))
            }
            _ => {}
        }
        if members.len() + links.len() > ARCHIVE_MEMBERS {
            let what = format!("more than {ARCHIVE_MEMBERS} members");
            return Err(TarError::Header { at: 0, what });
        }
    }
    // `docker save` writes a layer that occurs twice once, and a link to it.
    for (name, target) in links {
        if let Some(&place) = members.get(&target) {
            members.entry(name).or_insert(place);
        }
    }
    Ok(members)
}

/// A name in the archive without `.` and `..`; `None` where it leaves the archive or is no name of ours.
fn plain_name(claimed: &[u8], dir: &str) -> Option<String> {
    let claimed = std::str::from_utf8(claimed).ok().filter(|name| name.len() <= PATH_BYTES)?;
    if claimed.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in dir.split('/').chain(claimed.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}
