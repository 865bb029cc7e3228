//! Manifests, indexes and configurations: documents of others, parsed into bounded values.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, DigestParseError};
use crate::limits::{INDEX_ENTRIES, LAYERS, MANIFEST_BYTES};
use crate::tarball::shown;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const TITLE: &str = "org.opencontainers.image.title";
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Why a document cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON of the expected shape.
    #[error("the OCI {document} is not valid: {why}")]
    Malformed {
        /// Which document.
        document: &'static str,
        /// What the parser says.
        why: String,
    },
    /// A descriptor's digest.
    #[error(transparent)]
    Digest(#[from] DigestParseError),
    /// Larger than [`crate::limits::MANIFEST_BYTES`], or with more parts than are allowed.
    #[error("the OCI {document} has {count} {what}; the limit is {limit}")]
    TooLarge {
        /// Which document.
        document: &'static str,
        /// Of what it has too many.
        what: &'static str,
        /// How many.
        count: u64,
        /// The bound.
        limit: u64,
    },
    /// No layers at all.
    #[error("OCI manifest did not contain any layers")]
    NoLayers,
    /// A media type that this crate does not read.
    #[error("unsupported OCI media type: {0}")]
    MediaType(String),
    /// No image for the guest's platform.
    #[error("OCI index did not contain a linux/amd64 manifest (it has: {0})")]
    NoPlatform(String),
    /// Built for another platform.
    #[error("the image is for {0}, not linux/amd64")]
    WrongPlatform(String),
    /// The configuration and the manifest disagree.
    #[error("OCI manifest layer count is {layers}, but its configuration lists {diff_ids} diff_ids")]
    LayerCount {
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
}

/// Points to a document or blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    #[serde(deserialize_with = "digest")]
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Platform {
    pub(crate) os: String,
    pub(crate) architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageManifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// What a reference leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    Index(Vec<Descriptor>),
    Image(ImageManifest),
}

/// How a container of this image would be started, and its layers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// `NAME=value` pairs.
    #[serde(default)]
    pub env: Vec<String>,
    /// Working directory; empty when none is named.
    #[serde(default)]
    pub working_dir: String,
    /// User, by name or number, with optional group; empty when none is named.
    #[serde(default)]
    pub user: String,
    /// Words in front of every command.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// Words of the default command.
    #[serde(default)]
    pub cmd: Vec<String>,
    /// Free-form labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: u64,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default, deserialize_with = "null_is_default")]
    config: RawRuntime,
    rootfs: RawRootfs,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawRuntime {
    #[serde(deserialize_with = "null_is_default")]
    env: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    working_dir: String,
    #[serde(deserialize_with = "null_is_default")]
    user: String,
    #[serde(deserialize_with = "null_is_default")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    cmd: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

fn null_is_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

fn digest<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

/// Reads a manifest or an index.
pub(crate) fn parse(bytes: &[u8]) -> Result<Document, ManifestError> {
    let raw: RawDocument = json("manifest", bytes)?;
    let malformed = |why: &str| ManifestError::Malformed { document: "manifest", why: why.into() };
    if raw.schema_version != 2 {
        return Err(malformed(&format!("schema version {} is not 2", raw.schema_version)));
    }
    match (raw.media_type.as_deref(), raw.manifests, raw.config, raw.layers) {
        (Some(OCI_INDEX | DOCKER_LIST) | None, Some(manifests), None, None) => {
            at_most("index", "entries", manifests.len(), INDEX_ENTRIES)?;
            Ok(Document::Index(manifests))
        }
        (Some(OCI_MANIFEST | DOCKER_MANIFEST) | None, None, Some(config), Some(layers)) => {
            image(config, layers).map(Document::Image)
        }
        (Some(OCI_INDEX | DOCKER_LIST | OCI_MANIFEST | DOCKER_MANIFEST), _, _, None) => {
            Err(ManifestError::NoLayers)
        }
        (Some(OCI_INDEX | DOCKER_LIST | OCI_MANIFEST | DOCKER_MANIFEST) | None, ..) => {
            Err(malformed("it is neither an image nor an index"))
        }
        (Some(other), ..) => Err(ManifestError::MediaType(shown(other.as_bytes()))),
    }
}

fn image(config: Descriptor, layers: Vec<Descriptor>) -> Result<ImageManifest, ManifestError> {
    if layers.is_empty() {
        return Err(ManifestError::NoLayers);
    }
    at_most("manifest", "layers", layers.len(), LAYERS)?;
    if config.size > MANIFEST_BYTES {
        return Err(ManifestError::TooLarge {
            document: "configuration",
            what: "bytes",
            count: config.size,
            limit: MANIFEST_BYTES,
        });
    }
    // Layers that stand elsewhere (`urls`) are an old way to make clients fetch from any address.
    if let Some(layer) =
        layers.iter().find(|l| l.media_type.contains("foreign") || l.media_type.contains("nondistributable"))
    {
        return Err(ManifestError::MediaType(shown(layer.media_type.as_bytes())));
    }
    Ok(ImageManifest { config, layers })
}

fn at_most(
    document: &'static str,
    what: &'static str,
    count: usize,
    limit: usize,
) -> Result<(), ManifestError> {
    if count <= limit {
        return Ok(());
    }
    Err(ManifestError::TooLarge { document, what, count: count as u64, limit: limit as u64 })
}

fn json<'a, T: Deserialize<'a>>(document: &'static str, bytes: &'a [u8]) -> Result<T, ManifestError> {
    at_most(document, "bytes", bytes.len(), MANIFEST_BYTES as usize)?;
    // The parser's words quote the document, which may be long.
    serde_json::from_slice(bytes)
        .map_err(|e| ManifestError::Malformed { document, why: shown(e.to_string().as_bytes()) })
}

/// The entry of an index that the guest can run.
pub(crate) fn for_guest(entries: &[Descriptor]) -> Result<&Descriptor, ManifestError> {
    let attestation = |d: &&Descriptor| {
        d.annotations.get("vnd.docker.reference.type").is_some_and(|kind| kind == "attestation-manifest")
    };
    let mut candidates = entries.iter().filter(|d| !attestation(d)).filter(|d| {
        d.platform.as_ref().is_some_and(|p| p.os == "linux" && matches!(&*p.architecture, "amd64" | "x86_64"))
    });
    let plain = |d: &&Descriptor| {
        d.platform.as_ref().is_some_and(|p| matches!(p.variant.as_deref(), None | Some("" | "v1")))
    };
    let found = candidates.clone().find(plain).or_else(|| candidates.next());
    let only = || match entries {
        // A layout with a single image need not say for what it is; its configuration does.
        [one] if one.platform.is_none() => Some(one),
        _ => None,
    };
    found.or_else(only).ok_or_else(|| {
        let names = entries.iter().filter_map(|d| d.platform.as_ref()).take(20);
        let names: Vec<String> =
            names.map(|p| shown(format!("{}/{}", p.os, p.architecture).as_bytes())).collect();
        ManifestError::NoPlatform(names.join(", "))
    })
}

/// Reads a configuration: how to start, and the `diff_id` of each layer.
pub(crate) fn parse_config(bytes: &[u8], layers: usize) -> Result<(ImageConfig, Vec<Digest>), ManifestError> {
    let raw: RawConfig = json("configuration", bytes)?;
    let linux = raw.os.is_empty() || raw.os == "linux";
    let amd64 = matches!(&*raw.architecture, "" | "amd64" | "x86_64");
    if !linux || !amd64 {
        let platform = format!("{}/{}", raw.os, raw.architecture);
        return Err(ManifestError::WrongPlatform(shown(platform.as_bytes())));
    }
    if raw.rootfs.diff_ids.len() != layers {
        return Err(ManifestError::LayerCount { layers, diff_ids: raw.rootfs.diff_ids.len() });
    }
    let diff_ids = raw.rootfs.diff_ids.iter().map(|id| id.parse()).collect::<Result<_, _>>()?;
    let RawRuntime { env, working_dir, user, entrypoint, cmd, labels } = raw.config;
    Ok((ImageConfig { env, working_dir, user, entrypoint, cmd, labels }, diff_ids))
}

/// Drives every parser in this module with arbitrary bytes; for fuzzing.
pub fn fuzz_manifest(data: &[u8]) {
    match parse(data) {
        Ok(Document::Index(entries)) => drop(for_guest(&entries)),
        Ok(Document::Image(_)) | Err(_) => {}
    }
    drop(parse_config(data, 1));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn descriptor(extra: serde_json::Value) -> serde_json::Value {
        let mut value = json!({"mediaType": OCI_LAYER, "digest": Digest::of(b"x"), "size": 1});
        value.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        value
    }

    fn parse_value(value: &serde_json::Value) -> Result<Document, ManifestError> {
        parse(value.to_string().as_bytes())
    }

    #[test]
    fn an_index_is_resolved_to_linux_amd64_past_attestations() {
        let entry = |os: &str, arch: &str, attested: bool| {
            let annotations = if attested {
                json!({"vnd.docker.reference.type": "attestation-manifest"})
            } else {
                json!(null)
            };
            descriptor(json!({"platform": {"os": os, "architecture": arch}, "annotations": annotations}))
        };
        let index = json!({"schemaVersion": 2, "manifests": [
            entry("linux", "arm64", false), entry("linux", "amd64", true), entry("linux", "amd64", false)]});
        let Document::Index(entries) = parse_value(&index).unwrap() else { panic!() };
        assert_eq!(for_guest(&entries).unwrap(), &entries[2]);
        let error = for_guest(&entries[..1]).unwrap_err().to_string();
        assert_eq!(error, "OCI index did not contain a linux/amd64 manifest (it has: linux/arm64)");
    }

    #[test]
    fn documents_that_break_the_rules_are_refused() {
        let no_layers = json!({"schemaVersion": 2, "config": descriptor(json!({})), "layers": []});
        assert!(matches!(parse_value(&no_layers), Err(ManifestError::NoLayers)));
        let many: Vec<_> = (0..300).map(|_| descriptor(json!({}))).collect();
        let many = json!({"schemaVersion": 2, "config": descriptor(json!({})), "layers": many});
        assert!(matches!(parse_value(&many), Err(ManifestError::TooLarge { count: 300, .. })));
        let digest = json!({"schemaVersion": 2, "config": descriptor(json!({"digest": "sha256:../../x"})), "layers": []});
        assert!(parse_value(&digest).unwrap_err().to_string().contains("invalid OCI digest: sha256:../../x"));
        let foreign =
            descriptor(json!({"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}));
        let foreign = json!({"schemaVersion": 2, "config": descriptor(json!({})), "layers": [foreign]});
        assert!(matches!(parse_value(&foreign), Err(ManifestError::MediaType(_))));
        assert!(matches!(parse(&vec![b' '; 5 << 20]), Err(ManifestError::TooLarge { .. })));
    }

    #[test]
    fn what_a_document_says_cannot_write_to_the_terminal() {
        let evil = format!("\u{1b}]0;owned\u{7}{}", "x".repeat(100_000));
        let typed = json!({"schemaVersion": 2, "mediaType": evil});
        let foreign = descriptor(json!({"mediaType": format!("foreign{evil}")}));
        let foreign = json!({"schemaVersion": 2, "config": descriptor(json!({})), "layers": [foreign]});
        let digest = json!({"schemaVersion": 2, "manifests": [descriptor(json!({"digest": evil}))]});
        let shape = json!({"schemaVersion": evil});
        for document in [typed, foreign, digest, shape] {
            let error = parse_value(&document).unwrap_err().to_string();
            assert!(error.len() < 2000 && !error.contains(char::is_control), "{error:?}");
        }
    }

    #[test]
    fn a_configuration_tells_how_to_start() {
        let config = json!({"os": "linux", "architecture": "amd64",
            "config": {"Env": ["A=b"], "WorkingDir": "/w", "Cmd": null, "Entrypoint": ["e"], "User": "1:1"},
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"x")]}});
        let (parsed, ids) = parse_config(config.to_string().as_bytes(), 1).unwrap();
        assert_eq!(
            (parsed.env, parsed.entrypoint, ids),
            (vec!["A=b".into()], vec!["e".into()], vec![Digest::of(b"x")])
        );
        assert!(matches!(
            parse_config(config.to_string().as_bytes(), 2),
            Err(ManifestError::LayerCount { .. })
        ));
        let arm = json!({"os": "linux", "architecture": "arm64", "rootfs": {}});
        assert!(matches!(parse_config(arm.to_string().as_bytes(), 0), Err(ManifestError::WrongPlatform(_))));
    }

    proptest! {
        #[test]
        fn arbitrary_documents_never_panic(data in proptest::collection::vec(any::<u8>(), 0..500)) {
            fuzz_manifest(&data);
        }
    }
}
