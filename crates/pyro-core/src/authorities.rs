//! Certificate authorities that guests trust beside their images' own, as a company's proxy or servers need them.
//!
//! What is taken is only certificates, each read as X.509, and it is kept as text of its own making: comments, other
//! blocks and whatever else a file had are not.

use crate::limits::{AUTHORITIES, AUTHORITY_FILE_BYTES};
use crate::problem::{Blame, Explain, Problem};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use pyro_agent::wire::{
    AUTHORITY_BUNDLE_VARIABLES, AUTHORITY_EXTRA_VARIABLES, AUTHORITY_SETTINGS_VARIABLE, MAX_AUTHORITIES_BYTES,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{PemObject as _, SectionKind};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

#[cfg(test)]
mod tests;

/// Where some authorities came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthoritySource {
    /// `host`, or the file.
    pub source: String,
    /// How many it had that were not there yet.
    pub count: u64,
}

/// Certificate authorities for a guest.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Authorities {
    sources: Vec<AuthoritySource>,
    pem: String,
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.sources).finish()
    }
}

/// Why a file's certificates cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The file cannot be read.
    #[error("cannot read the file of certificate authorities '{}'", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Over [`AUTHORITY_FILE_BYTES`].
    #[error("'{0}' has more than {AUTHORITY_FILE_BYTES} bytes, which no file of certificate authorities has")]
    FileTooLarge(String),
    /// A key in it: it would be in every guest.
    #[error("'{0}' holds a private key; give a file with certificates alone")]
    PrivateKey(String),
    /// A block of another kind.
    #[error("'{source_name}' holds a block '{label}'; only blocks 'CERTIFICATE' can be used")]
    Block {
        /// The file.
        source_name: String,
        /// What the block says it is.
        label: String,
    },
    /// Text that is no PEM.
    #[error("'{source_name}' is not PEM: {reason}")]
    Malformed {
        /// The file.
        source_name: String,
        /// What is wrong.
        reason: String,
    },
    /// No certificate.
    #[error("'{0}' holds no certificate: it must have blocks that begin with -----BEGIN CERTIFICATE-----")]
    Nothing(String),
    /// A block that is no certificate inside.
    #[error("certificate {number} of '{source_name}' is not an X.509 certificate: {reason}")]
    Certificate {
        /// The file.
        source_name: String,
        /// Which one, from 1.
        number: usize,
        /// What is wrong.
        reason: String,
    },
    /// More than [`AUTHORITIES`].
    #[error("more than {AUTHORITIES} certificate authorities were given")]
    TooMany,
    /// Over what the agent takes.
    #[error("the certificate authorities have more than {MAX_AUTHORITIES_BYTES} bytes together")]
    TooLarge,
}

impl Explain for AuthorityError {
    fn explain(&self) -> Problem {
        let problem = Problem::new("invalid_certificate_authorities", Blame::Caller, self);
        match self {
            Self::Read { .. } => problem,
            Self::PrivateKey(_) => {
                problem.with_hint("guests need the authority's certificate, never its key")
            }
            Self::Block { .. }
            | Self::Malformed { .. }
            | Self::Nothing(_)
            | Self::Certificate { .. }
            | Self::FileTooLarge(_) => problem.with_hint(
                "`openssl x509 -in FILE -inform der -outform pem` makes PEM of a certificate in DER",
            ),
            Self::TooMany | Self::TooLarge => problem.with_hint("give only the authorities that guests need"),
        }
    }
}

impl Authorities {
    /// How the host's own store is called among the sources.
    pub const HOST: &'static str = "host";

    /// Adds the certificates of the PEM file at `path`.
    pub fn add_file(&mut self, path: &Path) -> Result<(), AuthorityError> {
        let failed = |source| AuthorityError::Read { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(failed)?;
        file.take(AUTHORITY_FILE_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
        self.add_pem(&path.display().to_string(), &bytes)
    }

    /// Adds the certificates of PEM text that came from `source`. All of it must be certificates, with any text
    /// between them.
    pub fn add_pem(&mut self, source: &str, text: &[u8]) -> Result<(), AuthorityError> {
        if text.len() > AUTHORITY_FILE_BYTES {
            return Err(AuthorityError::FileTooLarge(source.to_owned()));
        }
        check_labels(source, text)?;
        let mut found = Vec::new();
        for block in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
            let (_, der) = block.map_err(|error| AuthorityError::Malformed {
                source_name: source.to_owned(),
                reason: error.to_string(),
            })?;
            found.push(der);
        }
        if found.is_empty() {
            return Err(AuthorityError::Nothing(source.to_owned()));
        }
        self.add_der(source, found.iter().map(Vec::as_slice))
    }

    /// Adds certificates that came from `source`.
    pub fn add_der<'a>(
        &mut self,
        source: &str,
        certificates: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<(), AuthorityError> {
        let mut added = Vec::new();
        for (index, der) in certificates.into_iter().enumerate() {
            webpki::anchor_from_trusted_cert(&CertificateDer::from(der)).map_err(|error| {
                AuthorityError::Certificate {
                    source_name: source.to_owned(),
                    number: index + 1,
                    reason: error.to_string(),
                }
            })?;
            let block = emit_pem(der);
            // Twice the same would only be read twice.
            if !self.pem.contains(&block) && !added.contains(&block) {
                added.push(block);
            }
        }
        if self.count() + added.len() as u64 > AUTHORITIES {
            return Err(AuthorityError::TooMany);
        }
        if self.pem.len() + added.iter().map(String::len).sum::<usize>() > MAX_AUTHORITIES_BYTES {
            return Err(AuthorityError::TooLarge);
        }
        self.sources.push(AuthoritySource { source: source.to_owned(), count: added.len() as u64 });
        self.pem.extend(added);
        Ok(())
    }

    /// Whether `der` is an X.509 certificate.
    pub fn is_certificate(der: &[u8]) -> bool {
        webpki::anchor_from_trusted_cert(&CertificateDer::from(der)).is_ok()
    }

    /// What was stored.
    pub(crate) fn stored(sources: Vec<AuthoritySource>, pem: String) -> Self {
        Self { sources, pem }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pem.is_empty()
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.sources.iter().map(|source| source.count).sum()
    }

    /// Where they came from.
    pub fn sources(&self) -> &[AuthoritySource] {
        &self.sources
    }

    /// All of them as PEM text.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Whether a variable is one by which guests are led to authorities. An image's own gives way; a caller's counts.
    pub(crate) fn is_variable(name: &str) -> bool {
        name == AUTHORITY_SETTINGS_VARIABLE
            || AUTHORITY_BUNDLE_VARIABLES.contains(&name)
            || AUTHORITY_EXTRA_VARIABLES.contains(&name)
    }
}

/// The PEM reader passes over kinds of blocks that it does not know, an encrypted key among them.
fn check_labels(source: &str, text: &[u8]) -> Result<(), AuthorityError> {
    const BEGIN: &[u8] = b"-----BEGIN ";
    const SHOWN_LABEL_BYTES: usize = 40;
    for line in text.split(|byte| *byte == b'\n' || *byte == b'\r') {
        let Some(rest) = line.trim_ascii_start().strip_prefix(BEGIN) else { continue };
        let rest = &rest[..rest.len().min(SHOWN_LABEL_BYTES)];
        let label = String::from_utf8_lossy(rest).trim_end().trim_end_matches('-').to_owned();
        if label.contains("PRIVATE KEY") {
            return Err(AuthorityError::PrivateKey(source.to_owned()));
        }
        if label != "CERTIFICATE" {
            return Err(AuthorityError::Block { source_name: source.to_owned(), label });
        }
    }
    Ok(())
}

fn emit_pem(der: &[u8]) -> String {
    const LINE: usize = 64;
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    let encoded = BASE64_STANDARD.encode(der);
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}
