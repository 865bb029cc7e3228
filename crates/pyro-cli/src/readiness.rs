//! Whether the daily loop with an environment (create, exec, reset, delete) has been proved on this host.
//!
//! What was proved is a small manifest, `prepared/NAME.json` in the environment cache's directory. It says for which
//! version of the environment, which guest bundle and which pyro it holds; where one of them is another now, it is
//! stale. A manifest that cannot be read proves nothing.

use pyro_core::environments::{self, EnvironmentError};
use pyro_core::guest_bundle::{BundleError, GuestBundle};
use pyro_core::{Blame, Config, Explain, Problem};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const FORMAT: u32 = 1;
/// A manifest is a page of text.
const MOST_BYTES: u64 = 64 << 10;
/// File systems take 255 bytes. Names that are cut to the same share a file, which tells whose it is.
const MOST_NAME_BYTES: usize = 200;

/// What a proof holds for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Basis {
    pub(crate) environment: String,
    pub(crate) environment_version: String,
    /// Of what was installed, where that has one.
    pub(crate) source_digest: Option<String>,
    pub(crate) bundle_version: String,
    /// SHA-256 of the bundle's files.
    pub(crate) bundle_sha256: BTreeMap<String, String>,
    pub(crate) pyro_version: String,
}

/// How long each step took, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Timings {
    /// Finding or pulling the environment.
    pub(crate) pull_ms: u64,
    pub(crate) create_ms: u64,
    pub(crate) exec_ms: u64,
    pub(crate) reset_ms: u64,
    pub(crate) delete_ms: u64,
}

/// A loop that was gone through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proof {
    format: u32,
    #[serde(flatten)]
    pub(crate) basis: Basis,
    /// Whether its workspace had a network.
    pub(crate) network: bool,
    /// When, in seconds since 1970.
    pub(crate) prepared_at: u64,
    pub(crate) timings: Timings,
}

/// How ready an environment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Warmth {
    /// The loop was proved with everything as it is now.
    Warm,
    /// It never was, or the environment is not installed.
    Cold,
    /// It was, with something else.
    Stale,
}

impl Warmth {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Cold => "cold",
            Self::Stale => "stale",
        }
    }
}

/// How ready an environment is, and why.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Readiness {
    pub(crate) environment: String,
    pub(crate) state: Warmth,
    /// Why it is not warm.
    pub(crate) reasons: Vec<String>,
    /// Where the proof is, or would be.
    pub(crate) manifest: PathBuf,
    /// The proof, where there is one.
    pub(crate) proof: Option<Proof>,
}

/// Why readiness cannot be told or kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadinessError {
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error("cannot write '{}'", .path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl Explain for ReadinessError {
    fn explain(&self) -> Problem {
        match self {
            Self::Environment(error) => error.explain(),
            Self::Bundle(error) => error.explain(),
            Self::Write { .. } => Problem::new("cache_failed", Blame::Host, self)
                .with_hint("PYRO_ENVIRONMENT_CACHE_DIR must name a directory that you can write to"),
        }
    }
}

impl Basis {
    /// What holds now for the environment `name`.
    pub(crate) fn now(config: &Config, name: &str) -> Result<Self, ReadinessError> {
        let found = environments::inspect(config, name)?;
        let bundle = GuestBundle::open(config.guest_bundle_dir.as_deref())?;
        Ok(Self {
            environment: found.name,
            environment_version: found.version,
            source_digest: found.source_digest,
            bundle_version: bundle.manifest.bundle_version,
            bundle_sha256: bundle.manifest.sha256,
            pyro_version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }

    /// What is otherwise in `proved`, in words.
    fn changes_since(&self, proved: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        let mut compare = |what: &str, was: &str, is: &str| {
            if was != is {
                changes.push(format!("{what} was {was} then and is {is} now"));
            }
        };
        compare("the environment's version", &proved.environment_version, &self.environment_version);
        compare("pyro", &proved.pyro_version, &self.pyro_version);
        compare("the guest bundle", &proved.bundle_version, &self.bundle_version);
        if proved.source_digest != self.source_digest {
            changes.push("the environment was installed from another source".to_owned());
        }
        if proved.bundle_sha256 != self.bundle_sha256 {
            changes.push("the guest bundle's files are others".to_owned());
        }
        changes
    }
}

impl Readiness {
    /// Looks at the environment `name` and its proof.
    pub(crate) fn of(config: &Config, name: &str) -> Result<Self, ReadinessError> {
        let found = environments::inspect(config, name)?;
        let manifest = manifest_path(&config.environment_cache_dir, &found.name);
        let proof = read(&manifest).filter(|proof| proof.basis.environment == found.name);
        let (state, reasons) = match (&proof, found.installed) {
            (_, false) => (Warmth::Cold, vec!["it is not installed".to_owned()]),
            (None, true) => (Warmth::Cold, vec!["the loop was never proved".to_owned()]),
            (Some(proof), true) => match Basis::now(config, name) {
                Ok(now) => match now.changes_since(&proof.basis) {
                    changes if changes.is_empty() => (Warmth::Warm, changes),
                    changes => (Warmth::Stale, changes),
                },
                Err(error) => (Warmth::Stale, vec![error.explain().message]),
            },
        };
        Ok(Self { environment: found.name, state, reasons, manifest, proof })
    }

    /// Whether nothing is to be done for a loop with or without a network.
    pub(crate) fn covers(&self, wanted: Network) -> bool {
        let has = self.proof.as_ref().is_some_and(|proof| proof.network);
        self.state == Warmth::Warm && (has || wanted == Network::Off)
    }
}

/// Whether a loop's workspace has a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    Off,
    Egress,
}

impl Proof {
    /// A loop that was gone through just now, at `now` seconds since 1970.
    pub(crate) fn new(basis: Basis, network: Network, timings: Timings, now: u64) -> Self {
        Self { format: FORMAT, basis, network: network == Network::Egress, prepared_at: now, timings }
    }

    /// Keeps it: the manifest is the old one or this one, whoever looks.
    pub(crate) fn keep(&self, config: &Config) -> Result<PathBuf, ReadinessError> {
        let path = manifest_path(&config.environment_cache_dir, &self.basis.environment);
        let mut text = serde_json::to_string_pretty(self).expect("a proof has string keys");
        text.push('\n');
        write(&path, &text).map_err(|source| ReadinessError::Write { path: path.clone(), source })?;
        Ok(path)
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir)?;
    let mut aside = tempfile::NamedTempFile::new_in(dir)?;
    aside.write_all(text.as_bytes())?;
    aside.as_file().sync_all()?;
    aside.persist(path)?;
    File::open(dir)?.sync_all()
}

fn read(path: &Path) -> Option<Proof> {
    if fs::metadata(path).ok()?.len() > MOST_BYTES {
        return None;
    }
    let proof: Proof = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    (proof.format == FORMAT).then_some(proof)
}

fn manifest_path(cache: &Path, environment: &str) -> PathBuf {
    let mut name = String::new();
    for byte in environment.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' => name.push(char::from(byte)),
            byte => name.push_str(&format!("_{byte:02x}")),
        }
    }
    name.truncate(MOST_NAME_BYTES);
    cache.join("prepared").join(format!("{name}.json"))
}

#[cfg(test)]
mod tests;
