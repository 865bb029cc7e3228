//! Registries: the distribution protocol as far as pulling and pushing need it.
//!
//! Spoken over `reqwest` directly, because what hostile and overloaded servers make necessary has to be
//! seen at the level of the request: bounded bodies, `Retry-After`, redirects that lose the
//! credentials, transfers that resume.

mod auth;
mod blob;
mod client;
mod push;

use std::path::PathBuf;
use std::time::Duration;

use crate::digest::Digest;
use crate::limits;
use crate::store::{CACHE_HINT, Fault, StoreError};

pub(crate) use blob::BlobStore;
pub(crate) use client::{Access, Client, Session};
pub use push::push_layout;

/// How registries are reached.
#[derive(Debug, Clone, Default)]
pub struct RegistryConfig {
    /// Mirrors, tried in this order before the registry itself.
    pub mirrors: Vec<Mirror>,
    /// Hosts (with port, where there is one) that are spoken to in plain HTTP. Loopback ones always are.
    pub plain_http: Vec<String>,
    /// Docker's `config.json`, for credentials and credential helpers.
    pub docker_config: Option<PathBuf>,
    /// Credentials by host; these win over Docker's.
    pub credentials: Vec<(String, Credentials)>,
    /// Proxy for all requests except those to loopback addresses.
    pub proxy: Option<String>,
    /// How long to wait.
    pub timing: Timing,
}

/// Another place that holds a registry's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The registry it mirrors; `None` for all.
    pub registry: Option<String>,
    /// `HOST[:PORT]`, or a URL with `http` or `https` and an optional path prefix.
    pub endpoint: String,
}

/// A user name and a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user name.
    pub username: String,
    /// The password or access token.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// How long to wait for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// For a connection.
    pub connect: Duration,
    /// For the next byte.
    pub stall: Duration,
    /// For a whole small request.
    pub request: Duration,
    /// Before the second attempt; doubled from then on.
    pub backoff: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: limits::CONNECT_TIMEOUT,
            stall: limits::STALL_TIMEOUT,
            request: limits::REQUEST_TIMEOUT,
            backoff: limits::BACKOFF_START,
        }
    }
}

/// Why a registry did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No connection, or it broke.
    #[error("failed to fetch OCI resource {url}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What the connection said.
        #[source]
        source: reqwest::Error,
    },
    /// No byte for too long, or too few for far too long.
    #[error("{url} stalled: {got} bytes in {seconds} s")]
    Stalled {
        /// What was asked for.
        url: String,
        /// Bytes that came.
        got: u64,
        /// How long it took.
        seconds: u64,
    },
    /// 401 or 403 after everything that could be tried.
    #[error("{registry} denied access to {repository} ({status})")]
    Denied {
        /// The registry.
        registry: String,
        /// The repository.
        repository: String,
        /// The status, with the registry's words where it said any.
        status: String,
    },
    /// 404.
    #[error("{registry} has no {what}")]
    NotFound {
        /// The registry.
        registry: String,
        /// What was asked for.
        what: String,
    },
    /// 429, after waiting as often as is reasonable, or for longer than is.
    #[error("{registry} limits requests (429){}", retry_text(*.retry_after))]
    RateLimited {
        /// The registry.
        registry: String,
        /// What it asked for.
        retry_after: Option<Duration>,
    },
    /// Any other status.
    #[error("{url} answered {status}{}", if .message.is_empty() { String::new() } else { format!(": {}", .message) })]
    Status {
        /// What was asked for.
        url: String,
        /// The status code.
        status: u16,
        /// The registry's words.
        message: String,
    },
    /// A manifest whose bytes are not those that were asked for.
    #[error("OCI digest mismatch for {expected}; got {actual}")]
    ManifestDigest {
        /// What was promised.
        expected: Digest,
        /// What the bytes give.
        actual: Digest,
    },
    /// A blob whose bytes are not those that were asked for.
    #[error("OCI blob digest mismatch for {expected}; got {actual}")]
    BlobDigest {
        /// What was promised.
        expected: Digest,
        /// What the bytes give.
        actual: Digest,
    },
    /// More bytes than there should be.
    #[error("{url} sent more than the {limit} bytes it should have")]
    TooLong {
        /// What was asked for.
        url: String,
        /// How many were expected or allowed.
        limit: u64,
    },
    /// Fewer bytes than there should be.
    #[error("{url} ended after {got} of {expected} bytes")]
    Truncated {
        /// What was asked for.
        url: String,
        /// Bytes that came.
        got: u64,
        /// Bytes that should have.
        expected: u64,
    },
    /// A redirect that is not followed.
    #[error("{url} redirects to {target}, which is not followed: {why}")]
    Redirect {
        /// What was asked for.
        url: String,
        /// Where it points.
        target: String,
        /// The rule.
        why: &'static str,
    },
    /// The authentication dance itself.
    #[error("{0}")]
    Auth(String),
    /// Stored credentials that cannot be read.
    #[error("credentials for {registry} cannot be read: {why}")]
    Credentials {
        /// The registry.
        registry: String,
        /// What went wrong.
        why: String,
    },
    /// A mirror, proxy or registry that is no address.
    #[error("invalid registry address '{address}': {why}")]
    Address {
        /// The address.
        address: String,
        /// What is wrong with it.
        why: String,
    },
    /// A mirror failed, and then the registry did.
    #[error("mirror {mirror} failed ({mirror_error}), and then the registry did")]
    AfterMirror {
        /// The registry's error.
        #[source]
        origin: Box<RegistryError>,
        /// The mirror.
        mirror: String,
        /// Its error, with causes.
        mirror_error: String,
    },
    /// A download could not be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn retry_text(after: Option<Duration>) -> String {
    after.map_or_else(String::new, |after| format!("; it asks to retry after {} s", after.as_secs()))
}

impl RegistryError {
    /// Who can do something about it.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Denied { .. } | Self::NotFound { .. } | Self::Credentials { .. } | Self::Address { .. } => {
                Fault::Caller
            }
            Self::Store(_) => Fault::Host,
            Self::AfterMirror { origin, .. } => origin.fault(),
            Self::Unreachable { .. }
            | Self::Stalled { .. }
            | Self::RateLimited { .. }
            | Self::Status { .. }
            | Self::ManifestDigest { .. }
            | Self::BlobDigest { .. }
            | Self::TooLong { .. }
            | Self::Truncated { .. }
            | Self::Redirect { .. }
            | Self::Auth(_) => Fault::Remote,
        }
    }

    fn after_mirror(self, mirror: Option<(String, String)>) -> Self {
        match mirror {
            Some((mirror, mirror_error)) => {
                Self::AfterMirror { origin: Box::new(self), mirror, mirror_error }
            }
            None => self,
        }
    }

    /// What to try, for people.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unreachable { .. } | Self::Stalled { .. } => {
                Some("check the network, or name a mirror in config.toml or PYRO_REGISTRY_MIRROR")
            }
            Self::Denied { .. } => Some("log in with `docker login`, or check the repository's name"),
            Self::RateLimited { .. } => Some("log in with `docker login`, or use a mirror"),
            Self::NotFound { .. } => Some("check the repository and the tag"),
            Self::ManifestDigest { .. }
            | Self::BlobDigest { .. }
            | Self::TooLong { .. }
            | Self::Truncated { .. } => {
                Some("the registry or something in between sent wrong data; try again, or another mirror")
            }
            Self::AfterMirror { origin, .. } => origin.hint(),
            Self::Status { .. } | Self::Redirect { .. } => {
                Some("the registry does not work as it should: try again later, or use a mirror")
            }
            Self::Auth(_) => Some("check the registry's name, and log in with `docker login`"),
            Self::Credentials { .. } => {
                Some("check Docker's config.json and the credential helper that it names")
            }
            Self::Address { .. } => {
                Some("check the registry's name, and the mirrors in config.toml and PYRO_REGISTRY_MIRROR")
            }
            Self::Store(_) => Some(CACHE_HINT),
        }
    }
}

/// An error with its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
