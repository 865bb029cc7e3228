//! Blobs: large, resumable, verified.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use reqwest::header::{CONTENT_RANGE, HeaderValue, RANGE};
use reqwest::{Response, StatusCode, Url};

use super::RegistryError;
use super::client::{Ask, Endpoint, Session, on_endpoints, shown_url, unreachable_url};
use crate::digest::Hasher;
use crate::limits::{ATTEMPTS, SLOWEST_BYTES_PER_SECOND};
use crate::manifest::Descriptor;
use crate::store::{Lock, StoreError};

/// The directory of downloads: `HEX.part` while a blob grows, `HEX` when it is whole.
#[derive(Debug, Clone)]
pub(crate) struct BlobStore {
    dir: PathBuf,
}

/// A download as far as it got.
struct Part {
    file: File,
    path: PathBuf,
    hasher: Hasher,
    len: u64,
}

impl BlobStore {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn path(&self, descriptor: &Descriptor, suffix: &str) -> PathBuf {
        self.dir.join(format!("{}{suffix}", descriptor.digest.hex()))
    }

    /// The blob as a file, downloaded unless it is here. What an earlier attempt left is continued
    /// after it has been hashed again. One process downloads a blob, others wait for it.
    pub(crate) async fn fetch(
        &self,
        session: &Session,
        descriptor: &Descriptor,
    ) -> Result<File, RegistryError> {
        let lock_path = self.path(descriptor, ".lock");
        let _lock = Lock::wait(lock_path.clone()).await.map_err(StoreError::at("locking", &lock_path))?;
        let whole = self.path(descriptor, "");
        if let Some(file) = self.whole(descriptor).await? {
            return Ok(file);
        }
        let mut part = self.open_part(descriptor).await?;
        let fetched = on_endpoints!(session, endpoint, session.download(endpoint, descriptor, &mut part));
        if fetched.is_err() && part.len == 0 {
            // Nothing to resume; the error that matters is the transfer's.
            drop(fs::remove_file(&part.path));
        }
        fetched?;
        fs::rename(&part.path, &whole).map_err(StoreError::at("renaming", &whole))?;
        Ok(part.file)
    }

    /// Forgets blobs that have been used.
    pub(crate) fn forget(&self, descriptor: &Descriptor) {
        // Whatever stays is found by the next prune.
        drop(fs::remove_file(self.path(descriptor, "")));
    }

    async fn whole(&self, descriptor: &Descriptor) -> Result<Option<File>, StoreError> {
        let path = self.path(descriptor, "");
        let Ok(file) = File::open(&path) else { return Ok(None) };
        let (file, hasher, len) = hash(file).await.map_err(StoreError::at("reading", &path))?;
        if len == descriptor.size && hasher.finish() == descriptor.digest {
            return Ok(Some(file));
        }
        fs::remove_file(&path).map_err(StoreError::at("removing", &path))?;
        Ok(None)
    }

    async fn open_part(&self, descriptor: &Descriptor) -> Result<Part, StoreError> {
        let path = self.path(descriptor, ".part");
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = opened.map_err(StoreError::at("creating", &path))?;
        let (file, hasher, len) = hash(file).await.map_err(StoreError::at("reading", &path))?;
        let mut part = Part { file, path, hasher, len };
        if len > descriptor.size {
            part.restart()?;
        }
        Ok(part)
    }
}

/// Hashes what a file holds, away from the runtime's threads.
async fn hash(file: File) -> io::Result<(File, Hasher, u64)> {
    let work = move || {
        let mut hasher = Hasher::default();
        let mut buffer = vec![0; 1 << 20];
        let mut len = 0;
        loop {
            match (&file).read(&mut buffer)? {
                0 => return Ok((file, hasher, len)),
                n => {
                    hasher.update(&buffer[..n]);
                    len += n as u64;
                }
            }
        }
    };
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

impl Part {
    fn restart(&mut self) -> Result<(), StoreError> {
        self.file.set_len(0).map_err(StoreError::at("truncating", &self.path))?;
        self.hasher = Hasher::default();
        self.len = 0;
        Ok(())
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all_at(bytes, self.len).map_err(StoreError::at("writing", &self.path))?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }
}

impl Session {
    /// Brings the part to its full, verified length from one endpoint.
    async fn download(
        &self,
        endpoint: &Endpoint,
        descriptor: &Descriptor,
        part: &mut Part,
    ) -> Result<(), RegistryError> {
        let mut failures = 0;
        let mut resumed = part.len > 0;
        let mut restarted = false;
        let mut furthest = part.len;
        loop {
            let error = match self.transfer(endpoint, descriptor, part).await {
                Ok(()) => match self.verify(descriptor, part) {
                    Ok(()) => return Ok(()),
                    // Perhaps only what was found on the disk was bad: once more from the start.
                    Err(_) if resumed && !restarted => {
                        restarted = true;
                        furthest = 0;
                        part.restart()?;
                        continue;
                    }
                    Err(error) => {
                        part.restart()?;
                        return Err(error);
                    }
                },
                Err(error @ RegistryError::TooLong { .. }) => {
                    part.restart()?;
                    return Err(error);
                }
                Err(error) => error,
            };
            resumed |= part.len > 0;
            // Progress earns new attempts, but only beyond what was reached before: a server that cuts every
            // few bytes, or lets everything begin again and again, does not get them for ever.
            let step = (descriptor.size / u64::from(ATTEMPTS * 4)).max(64 << 10);
            failures += 1;
            if part.len >= furthest.saturating_add(step) {
                (failures, furthest) = (1, part.len);
            }
            self.pause(error, failures).await?;
        }
    }

    fn verify(&self, descriptor: &Descriptor, part: &Part) -> Result<(), RegistryError> {
        let actual = part.hasher.clone().finish();
        if actual == descriptor.digest {
            return Ok(());
        }
        Err(RegistryError::BlobDigest { expected: descriptor.digest, actual })
    }

    async fn transfer(
        &self,
        endpoint: &Endpoint,
        descriptor: &Descriptor,
        part: &mut Part,
    ) -> Result<(), RegistryError> {
        self.progress.blob(&descriptor.digest, part.len, descriptor.size);
        if part.len == descriptor.size {
            return Ok(());
        }
        let mut ask = Ask::get(endpoint.url(&format!("blobs/{}", descriptor.digest))?);
        if part.len > 0 {
            let range =
                HeaderValue::from_str(&format!("bytes={}-", part.len)).expect("digits are header text");
            ask.headers.insert(RANGE, range);
        }
        let response = self.send(endpoint, &ask).await?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            part.restart()?;
            let url = shown_url(response.url());
            return Err(RegistryError::Truncated { url, got: 0, expected: descriptor.size });
        }
        let response = self.success(endpoint, response, &format!("blob {}", descriptor.digest)).await?;
        let continues = response.status() == StatusCode::PARTIAL_CONTENT && starts_at(&response, part.len);
        if !continues && part.len > 0 {
            part.restart()?;
        }
        self.receive(response, descriptor, part).await
    }

    async fn receive(
        &self,
        mut response: Response,
        descriptor: &Descriptor,
        part: &mut Part,
    ) -> Result<(), RegistryError> {
        let url: Url = response.url().clone();
        let started = Instant::now();
        let missing = descriptor.size - part.len;
        let longest = self.timing().request + Duration::from_secs(missing / SLOWEST_BYTES_PER_SECOND);
        loop {
            let waited = tokio::time::timeout(self.timing().stall, response.chunk()).await;
            let chunk = waited.map_err(|_| self.stalled(&url, part.len, started.elapsed()))?;
            let Some(chunk) = chunk.map_err(|source| unreachable_url(&url, source))? else { break };
            if part.len + chunk.len() as u64 > descriptor.size {
                return Err(RegistryError::TooLong { url: shown_url(&url), limit: descriptor.size });
            }
            part.push(&chunk)?;
            self.progress.blob(&descriptor.digest, part.len, descriptor.size);
            if started.elapsed() > longest {
                return Err(self.stalled(&url, part.len, started.elapsed()));
            }
        }
        if part.len < descriptor.size {
            let (got, expected) = (part.len, descriptor.size);
            return Err(RegistryError::Truncated { url: shown_url(&url), got, expected });
        }
        Ok(())
    }
}

/// Whether a partial answer is the part that was asked for.
fn starts_at(response: &Response, offset: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    range
        .trim_start_matches("bytes")
        .trim_start()
        .split('-')
        .next()
        .is_some_and(|start| start == offset.to_string())
}
