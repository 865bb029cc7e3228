//! Secrets' values: files of their own, apart from every record, readable by the owner alone.

use crate::places::{Places, create_private_dir};
use crate::store::{SecretSource, WorkspaceId};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The most that one secret holds, bytes.
pub(crate) const MAX_SECRET_BYTES: usize = 64 << 10;

/// A secret's value. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SecretText(String);

impl SecretText {
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[REDACTED]")
    }
}

/// Where a secret comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum SecretValue {
    /// The value itself.
    Literal(String),
    /// A file of the host, taken as it is.
    File(PathBuf),
}

impl SecretValue {
    pub(crate) fn kind(&self) -> SecretSource {
        match self {
            Self::Literal(_) => SecretSource::Literal,
            Self::File(_) => SecretSource::File,
        }
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(_) => f.write_str("Literal([REDACTED])"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// A secret for a new workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretSpec {
    /// A name that an environment variable could have.
    pub name: String,
    /// Its value.
    pub value: SecretValue,
}

/// Why a secret cannot be taken. No text holds a value.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// An empty value hides nothing and would redact everything.
    #[error("secret '{0}' must not be empty")]
    Empty(String),
    /// Over [`MAX_SECRET_BYTES`].
    #[error("secret '{0}' must be at most {MAX_SECRET_BYTES} bytes")]
    TooLarge(String),
    /// Programs could not get it as a variable.
    #[error("secret '{0}' must be valid UTF-8 text without zero bytes")]
    NotText(String),
    /// The file is not there.
    #[error("secret file for '{name}' does not exist: {}", .path.display())]
    NoFile {
        /// The secret.
        name: String,
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("failed to read secret file for '{name}': {}", .path.display())]
    Read {
        /// The secret.
        name: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl SecretSpec {
    /// Reads and checks the value.
    pub(crate) fn load(&self) -> Result<SecretText, SecretError> {
        let name = || self.name.clone();
        let bytes = match &self.value {
            SecretValue::Literal(text) => text.clone().into_bytes(),
            SecretValue::File(path) => read_bounded(path).map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => SecretError::NoFile { name: name(), path: path.clone() },
                _ => SecretError::Read { name: name(), path: path.clone(), source },
            })?,
        };
        if bytes.is_empty() {
            return Err(SecretError::Empty(name()));
        }
        if bytes.len() > MAX_SECRET_BYTES {
            return Err(SecretError::TooLarge(name()));
        }
        let text = String::from_utf8(bytes).map_err(|_| SecretError::NotText(name()))?;
        if text.contains('\0') {
            return Err(SecretError::NotText(name()));
        }
        Ok(SecretText(text))
    }
}

/// At most one byte more than a secret may hold.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_SECRET_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Stores the values of a new workspace's secrets.
pub(crate) fn write_all(
    places: &Places,
    id: WorkspaceId,
    secrets: &[(String, SecretText)],
) -> io::Result<()> {
    if secrets.is_empty() {
        return Ok(());
    }
    let dir = places.secrets(id);
    create_private_dir(&dir)?;
    for (name, value) in secrets {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(dir.join(name))?;
        file.write_all(value.expose().as_bytes())?;
        file.sync_all()?;
    }
    File::open(&dir)?.sync_all()
}

/// The values of a workspace's secrets by name, in no order.
pub(crate) fn read_all(places: &Places, id: WorkspaceId) -> io::Result<Vec<(String, SecretText)>> {
    let entries = match std::fs::read_dir(places.secrets(id)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut secrets = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let text = String::from_utf8(read_bounded(&entry.path())?).map_err(io::Error::other)?;
        secrets.push((name, SecretText(text)));
    }
    Ok(secrets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(value: &str) -> SecretSpec {
        SecretSpec { name: "TOKEN".into(), value: SecretValue::Literal(value.into()) }
    }

    #[test]
    fn a_value_never_shows_in_debug_output() {
        let spec = literal("hunter2");
        let shown = format!("{spec:?} {:?}", spec.load().unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn empty_large_and_binary_values_are_refused_by_name() {
        assert_eq!(literal("").load().unwrap_err().to_string(), "secret 'TOKEN' must not be empty");
        let large = "x".repeat(MAX_SECRET_BYTES + 1);
        assert_eq!(
            literal(&large).load().unwrap_err().to_string(),
            "secret 'TOKEN' must be at most 65536 bytes"
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"\xff").unwrap();
        let spec = SecretSpec { name: "T".into(), value: SecretValue::File(file.path().into()) };
        assert!(matches!(spec.load(), Err(SecretError::NotText(_))));
        let spec = SecretSpec { name: "T".into(), value: SecretValue::File("/nonexistent/x".into()) };
        assert_eq!(
            spec.load().unwrap_err().to_string(),
            "secret file for 'T' does not exist: /nonexistent/x"
        );
    }

    #[test]
    fn values_are_kept_apart_and_for_their_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let places = Places::new(dir.path());
        let id = WorkspaceId::from_bytes([1; 6]);
        let secrets = vec![("TOKEN".to_owned(), literal("a\nb").load().unwrap())];
        write_all(&places, id, &secrets).unwrap();
        let path = places.secrets(id).join("TOKEN");
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read_all(&places, id).unwrap(), secrets);
        assert!(read_all(&places, WorkspaceId::from_bytes([2; 6])).unwrap().is_empty());
    }
}
