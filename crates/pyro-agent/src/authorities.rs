//! Certificate authorities that the host gives beside the image's own: files in memory, and variables that lead
//! programs to them. Nothing of the image is changed.
//!
//! Programs take one file of authorities and no second one beside it, so theirs holds the image's and the host's
//! together. It is made anew when the image's own has changed, as after an installation of `ca-certificates`.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use pyro_agent::wire::{
    AUTHORITY_BUNDLE_VARIABLES, AUTHORITY_EXTRA_VARIABLES, AUTHORITY_SETTINGS_VARIABLE, FrameKind,
    MAX_AUTHORITIES_BYTES,
};

use crate::connection::Connection;
use crate::console::say;
use crate::limits::MAX_IMAGE_BUNDLE_BYTES;
use crate::paths::FileError;

#[cfg(test)]
mod tests;

/// Where distributions keep their own, the first that is there counts: Debian and Alpine, Fedora, SUSE, old Red Hat,
/// BSD's habit.
const IMAGE_BUNDLES: [&str; 6] = [
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/ssl/ca-bundle.pem",
    "etc/pki/tls/cacert.pem",
    "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "etc/ssl/cert.pem",
];

/// The host's authorities.
#[derive(Debug)]
pub(crate) struct Authorities {
    /// Where the image is.
    root: PathBuf,
    /// Where files are made.
    directory: PathBuf,
    current: Mutex<Current>,
}

#[derive(Debug, Default)]
struct Current {
    /// PEM text; nothing where the host gave none.
    extra: Vec<u8>,
    /// The image's file that the bundle was made with.
    image: Option<Stamp>,
}

/// What tells one state of a file from another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    path: PathBuf,
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Authorities {
    /// None yet, in the image at `root`; files will be in `directory`.
    pub(crate) fn new(root: impl Into<PathBuf>, directory: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), directory: directory.into(), current: Mutex::default() }
    }

    /// Receives authorities and puts them in place of those there were; none takes them away.
    pub(crate) fn install(&self, connection: &mut Connection) -> Result<(), FileError> {
        let extra = receive(connection)?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |source| FileError::Os { path: self.directory.display().to_string(), source };
        if extra.is_empty() {
            // Programs that run may still look for the files.
            *current = Current::default();
            return Ok(());
        }
        self.write_fixed(&extra).map_err(failed)?;
        *current = Current { extra, image: None };
        self.write_bundle(&mut current).map_err(failed)
    }

    /// Variables for a command, which lead to files that are up to date.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.extra.is_empty() {
            return Vec::new();
        }
        if image_bundle(&self.root) != current.image
            && let Err(error) = self.write_bundle(&mut current)
        {
            say(&format!("warning: certificate authorities are out of date: {error}"));
        }
        let bundle = AUTHORITY_BUNDLE_VARIABLES.into_iter().map(|name| (name, self.bundle()));
        let extra = AUTHORITY_EXTRA_VARIABLES.into_iter().map(|name| (name, self.extra()));
        let settings = [(AUTHORITY_SETTINGS_VARIABLE, self.settings())];
        bundle
            .chain(extra)
            .chain(settings)
            .map(|(name, path)| (name.to_owned(), path.display().to_string()))
            .collect()
    }

    fn bundle(&self) -> PathBuf {
        self.directory.join("ca-bundle.pem")
    }

    fn extra(&self) -> PathBuf {
        self.directory.join("ca-extra.pem")
    }

    fn settings(&self) -> PathBuf {
        self.directory.join("apt.conf")
    }

    fn write_fixed(&self, extra: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        put(&self.extra(), extra)?;
        // The only program here that takes a file of settings and no variable for it.
        put(&self.settings(), format!("Acquire::https::CAInfo \"{}\";\n", self.bundle().display()).as_bytes())
    }

    fn write_bundle(&self, current: &mut Current) -> io::Result<()> {
        let image = image_bundle(&self.root);
        let mut bundle = image.as_ref().map(|image| read_bundle(&image.path)).unwrap_or_default();
        if !bundle.is_empty() && !bundle.ends_with(b"\n") {
            bundle.push(b'\n');
        }
        bundle.extend_from_slice(&current.extra);
        put(&self.bundle(), &bundle)?;
        current.image = image;
        Ok(())
    }
}

fn receive(connection: &mut Connection) -> Result<Vec<u8>, FileError> {
    let mut text = Vec::new();
    loop {
        match connection.receive().map_err(FileError::Host)? {
            Some((FrameKind::Data, chunk)) if chunk.is_empty() => return Ok(text),
            Some((FrameKind::Data, chunk)) if text.len() + chunk.len() <= MAX_AUTHORITIES_BYTES => {
                text.extend_from_slice(&chunk);
            }
            Some((FrameKind::Data, _)) => {
                let text = format!("more than {MAX_AUTHORITIES_BYTES} bytes of certificate authorities");
                return Err(FileError::BadStream(text));
            }
            Some((other, _)) => {
                return Err(FileError::BadStream(format!("{other:?} frame inside a transfer")));
            }
            None => return Err(FileError::Host(io::ErrorKind::ConnectionAborted.into())),
        }
    }
}

/// The image's own authorities as they are now.
fn image_bundle(root: &Path) -> Option<Stamp> {
    IMAGE_BUNDLES.iter().find_map(|name| {
        let path = root.join(name);
        let found = fs::metadata(&path).ok().filter(|found| found.is_file() && found.len() > 0)?;
        Some(Stamp {
            path,
            device: found.dev(),
            inode: found.ino(),
            size: found.len(),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    })
}

/// What cannot be read, or is no bundle by its size, is as good as none.
fn read_bundle(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What the name leads to may have become a pipe meanwhile.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let read = file.and_then(|file| file.take(MAX_IMAGE_BUNDLE_BYTES + 1).read_to_end(&mut bytes));
    match read {
        Ok(count) if count as u64 <= MAX_IMAGE_BUNDLE_BYTES => bytes,
        Ok(_) | Err(_) => Vec::new(),
    }
}

/// Puts a file in place in one step: programs may be reading the one before.
fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = path.with_extension("new");
    let _ = fs::remove_file(&aside);
    fs::write(&aside, bytes)?;
    fs::rename(&aside, path)
}
