//! The guest bundle: the kernel and the initramfs (with the agent) that pyro boots guests with.
//!
//! A directory with `manifest.json`, `vmlinux` and `initramfs.cpio`, made by `cargo xtask guest`.

use crate::problem::{Blame, Explain, Problem};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// A manifest is a page of text; more is not a manifest.
const MANIFEST_BYTES: u64 = 64 << 10;

/// What the manifest says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the bundle's own layout and contents.
    pub bundle_version: String,
    /// Version of the protocol that the agent inside speaks.
    pub protocol: u32,
    /// Versions of `kernel`, `agent` and others by name.
    pub component_versions: BTreeMap<String, String>,
    /// SHA-256 of each file, hexadecimal, by file name.
    pub sha256: BTreeMap<String, String>,
}

/// A bundle whose files are there.
#[derive(Clone, Debug)]
pub struct GuestBundle {
    /// Where it is.
    pub dir: PathBuf,
    /// The uncompressed kernel, an ELF file.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// What it says of itself.
    pub manifest: Manifest,
}

/// Why there is no usable bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// No directory is configured or found.
    #[error("no guest bundle was found")]
    NotFound,
    /// A file is missing or cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The manifest is not one.
    #[error("`{path}` is not a bundle manifest")]
    Manifest {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The agent inside is of another release.
    #[error(
        "the guest bundle in `{dir}` speaks protocol {theirs}, this pyro speaks {}",
        pyro_agent::wire::VERSION
    )]
    Protocol {
        /// The bundle.
        dir: PathBuf,
        /// Its protocol.
        theirs: u32,
    },
}

impl Explain for BundleError {
    fn explain(&self) -> Problem {
        let hint = "`cargo xtask guest` makes one; PYRO_RUNTIME_BUNDLE_DIR names another place";
        let code = match self {
            Self::NotFound => "bundle_not_found",
            Self::Read { .. } | Self::Manifest { .. } => "bundle_broken",
            Self::Protocol { .. } => "bundle_version",
        };
        Problem::new(code, Blame::Host, self).with_hint(hint)
    }
}

impl GuestBundle {
    /// Opens the bundle in `dir`. File contents are not hashed here; see [`GuestBundle::verify`].
    pub fn open(dir: Option<&Path>) -> Result<Self, BundleError> {
        let dir = dir.ok_or(BundleError::NotFound)?;
        let path = dir.join("manifest.json");
        let read = |source| BundleError::Read { path: path.clone(), source };
        if std::fs::metadata(&path).map_err(read)?.len() > MANIFEST_BYTES {
            return Err(read(io::Error::other("too large for a manifest")));
        }
        let text = std::fs::read(&path).map_err(read)?;
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|source| BundleError::Manifest { path: path.clone(), source })?;
        if manifest.protocol != pyro_agent::wire::VERSION {
            return Err(BundleError::Protocol { dir: dir.to_owned(), theirs: manifest.protocol });
        }
        let bundle = Self {
            dir: dir.to_owned(),
            kernel: dir.join("vmlinux"),
            initramfs: dir.join("initramfs.cpio"),
            manifest,
        };
        for path in [&bundle.kernel, &bundle.initramfs] {
            std::fs::metadata(path).map_err(|source| BundleError::Read { path: path.clone(), source })?;
        }
        Ok(bundle)
    }

    /// Names of files whose contents do not match the manifest. Reads everything.
    pub fn verify(&self) -> Result<Vec<String>, BundleError> {
        use sha2::Digest;
        let mut wrong = Vec::new();
        for path in [&self.kernel, &self.initramfs] {
            let read = |source| BundleError::Read { path: path.clone(), source };
            let mut hash = sha2::Sha256::new();
            io::copy(&mut std::fs::File::open(path).map_err(read)?, &mut hash).map_err(read)?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if self.manifest.sha256.get(&name) != Some(&hex::encode(hash.finalize())) {
                wrong.push(name);
            }
        }
        Ok(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(protocol: u32) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("vmlinux"), b"kernel").unwrap();
        std::fs::write(dir.path().join("initramfs.cpio"), b"cpio").unwrap();
        let manifest = serde_json::json!({
            "bundle_version": "1", "protocol": protocol, "component_versions": {},
            "sha256": {"vmlinux": "8a", "initramfs.cpio": "9b"},
        });
        std::fs::write(dir.path().join("manifest.json"), manifest.to_string()).unwrap();
        dir
    }

    #[test]
    fn a_changed_file_is_named() {
        let dir = bundle(pyro_agent::wire::VERSION);
        let wrong = GuestBundle::open(Some(dir.path())).unwrap().verify().unwrap();
        assert_eq!(wrong, ["vmlinux", "initramfs.cpio"]);
    }

    #[test]
    fn another_protocol_or_a_missing_file_is_refused() {
        let dir = bundle(pyro_agent::wire::VERSION + 1);
        assert!(matches!(GuestBundle::open(Some(dir.path())), Err(BundleError::Protocol { .. })));
        let dir = bundle(pyro_agent::wire::VERSION);
        std::fs::remove_file(dir.path().join("vmlinux")).unwrap();
        assert!(matches!(GuestBundle::open(Some(dir.path())), Err(BundleError::Read { .. })));
        assert!(matches!(GuestBundle::open(None), Err(BundleError::NotFound)));
    }
}
