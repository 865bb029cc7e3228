//! Small images, as bytes by path of the distribution protocol, and as layouts.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use pyro_oci::Digest;
use serde_json::json;

/// Documents and blobs of one image.
pub(crate) struct Image {
    pub(crate) manifest: Vec<u8>,
    pub(crate) blobs: HashMap<Digest, Vec<u8>>,
    pub(crate) layers: Vec<Digest>,
}

pub(crate) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o755);
        header.set_mtime(1_700_000_000);
        header.set_cksum();
        builder.append_data(&mut header, path, *data).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Layers as (uncompressed, as sent).
pub(crate) fn image(layers: &[(Vec<u8>, Vec<u8>)]) -> Image {
    let diff_ids: Vec<Digest> = layers.iter().map(|(plain, _)| Digest::of(plain)).collect();
    let config = json!({
        "os": "linux", "architecture": "amd64",
        "config": {"Env": ["PATH=/bin", "X=y"], "WorkingDir": "/work", "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = config.to_string().into_bytes();
    let mut blobs = HashMap::from([(Digest::of(&config), config.clone())]);
    let mut descriptors = Vec::new();
    let mut order = Vec::new();
    for (_, sent) in layers {
        let digest = Digest::of(sent);
        order.push(digest);
        descriptors.push(json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": sent.len(),
        }));
        blobs.insert(digest, sent.clone());
    }
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::of(&config), "size": config.len()},
        "layers": descriptors,
    });
    Image { manifest: manifest.to_string().into_bytes(), blobs, layers: order }
}

impl Image {
    pub(crate) fn one_layer(data: &[u8]) -> Self {
        let layer = tar(&[("bin/tool", data)]);
        image(&[(layer.clone(), layer)])
    }

    /// What an honest registry answers.
    pub(crate) fn answer(&self, path: &str) -> Option<Vec<u8>> {
        let (_, last) = path.rsplit_once('/')?;
        if path.contains("/manifests/") {
            return Some(self.manifest.clone());
        }
        self.blobs.get(&last.parse().ok()?).cloned()
    }

    pub(crate) fn write_layout(&self, dir: &Path) {
        let blobs = dir.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        for (digest, bytes) in &self.blobs {
            std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
        }
        let digest = Digest::of(&self.manifest);
        std::fs::write(blobs.join(digest.hex()), &self.manifest).unwrap();
        let index = json!({"schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": self.manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": "v1"},
        }]});
        std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
        std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    }
}
