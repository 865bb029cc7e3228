//! Pushing a local layout to a registry.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, StatusCode, Url};
use serde_json::json;

use super::client::{Access, Ask, Client, Endpoint, Session, retrying, shown_url};
use super::{RegistryConfig, RegistryError};
use crate::digest::Digest;
use crate::layout::Layout;
use crate::limits::UPLOAD_CHUNK_BYTES;
use crate::manifest::{Descriptor, OCI_MANIFEST};
use crate::progress::{Phase, Progress};
use crate::reference::{ImageReference, LocalReference};
use crate::store::{PullError, StoreError};

/// Pushes the image of an `oci-layout` directory; returns its manifest's digest. Blobs that are
/// there already are not sent.
///
/// # Errors
/// When the layout is damaged or the registry refuses.
pub async fn push_layout(
    config: &RegistryConfig,
    layout: &Path,
    target: &ImageReference,
    progress: Arc<dyn Progress>,
) -> Result<Digest, PullError> {
    let layout = Layout::directory(&LocalReference { path: layout.to_owned(), tag: None });
    let (manifest, digest) = layout.manifest()?;
    let session = Client::new(config)?.session(target, Access::Push, Arc::clone(&progress))?;
    let endpoint = session.endpoints.last().expect("the registry's own endpoint");
    progress.phase(Phase::Resolve);
    for descriptor in manifest.layers.iter().chain([&manifest.config]) {
        let file = layout.blob(descriptor, || Err(std::io::ErrorKind::Unsupported.into()))?;
        session.push_blob(endpoint, descriptor, &file).await?;
    }
    let bytes = layout.document(&Descriptor {
        media_type: OCI_MANIFEST.into(),
        digest,
        size: 0,
        annotations: Default::default(),
        platform: None,
    })?;
    session.push_manifest(endpoint, bytes.into()).await?;
    progress.phase(Phase::Ready);
    Ok(digest)
}

impl Session {
    async fn push_blob(
        &self,
        endpoint: &Endpoint,
        descriptor: &Descriptor,
        file: &File,
    ) -> Result<(), RegistryError> {
        let head =
            Ask { method: Method::HEAD, ..Ask::get(endpoint.url(&format!("blobs/{}", descriptor.digest))?) };
        let there = retrying!(self, self.send(endpoint, &head))?;
        self.progress.blob(&descriptor.digest, 0, descriptor.size);
        if there.status() != StatusCode::OK {
            retrying!(self, self.upload(endpoint, descriptor, file))?;
        }
        self.progress.blob(&descriptor.digest, descriptor.size, descriptor.size);
        Ok(())
    }

    async fn upload(
        &self,
        endpoint: &Endpoint,
        descriptor: &Descriptor,
        file: &File,
    ) -> Result<(), RegistryError> {
        let start = Ask { method: Method::POST, ..Ask::get(endpoint.url("blobs/uploads/")?) };
        let mut location = self.expect_location(endpoint, &start, StatusCode::ACCEPTED).await?;
        let mut offset = 0;
        while offset < descriptor.size {
            let len = (descriptor.size - offset).min(UPLOAD_CHUNK_BYTES as u64);
            let mut chunk = vec![0; len as usize];
            file.read_exact_at(&mut chunk, offset).map_err(StoreError::at("reading", Path::new("a blob")))?;
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            let range = format!("{offset}-{}", offset + len - 1);
            headers.insert(CONTENT_RANGE, HeaderValue::from_str(&range).expect("digits are header text"));
            let ask = Ask { method: Method::PATCH, url: location, headers, body: Bytes::from(chunk) };
            location = self.expect_location(endpoint, &ask, StatusCode::ACCEPTED).await?;
            offset += len;
            self.progress.blob(&descriptor.digest, offset, descriptor.size);
        }
        location.query_pairs_mut().append_pair("digest", &descriptor.digest.to_string());
        let finish = Ask { method: Method::PUT, ..Ask::get(location) };
        self.expect(endpoint, &finish, StatusCode::CREATED).await.map(drop)
    }

    async fn push_manifest(&self, endpoint: &Endpoint, bytes: Bytes) -> Result<(), RegistryError> {
        let mut ask = Ask::get(endpoint.url(&format!("manifests/{}", self.image.selector()))?);
        ask.method = Method::PUT;
        ask.headers.insert(CONTENT_TYPE, HeaderValue::from_static(OCI_MANIFEST));
        ask.body = bytes;
        retrying!(self, self.expect(endpoint, &ask, StatusCode::CREATED)).map(drop)
    }

    async fn expect(
        &self,
        endpoint: &Endpoint,
        ask: &Ask,
        status: StatusCode,
    ) -> Result<reqwest::Response, RegistryError> {
        let response = self.send(endpoint, ask).await?;
        let response =
            self.success(endpoint, response, &format!("repository {}", self.image.repository)).await?;
        if response.status() == status {
            return Ok(response);
        }
        let (url, message) = (shown_url(&ask.url), format!("{} was expected", status.as_u16()));
        Err(RegistryError::Status { url, status: response.status().as_u16(), message })
    }

    /// Where an upload goes on; perhaps on another host, which then gets no authorization.
    async fn expect_location(
        &self,
        endpoint: &Endpoint,
        ask: &Ask,
        status: StatusCode,
    ) -> Result<Url, RegistryError> {
        let response = self.expect(endpoint, ask, status).await?;
        let location = response.headers().get(LOCATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let target = ask.url.join(location).ok().filter(|_| !location.is_empty());
        let target = target.filter(|t| t.scheme() == "https" || ask.url.scheme() == "http");
        target.ok_or_else(|| RegistryError::Redirect {
            url: shown_url(&ask.url),
            target: json!(location).to_string(),
            why: "an upload cannot go on there",
        })
    }
}
