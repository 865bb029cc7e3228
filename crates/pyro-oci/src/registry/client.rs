//! Requests to one repository, on its registry and on its mirrors.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode, Url};

use super::auth::{self, Challenge, Secret, TokenAnswer, is_docker_hub, same_registry};
use super::{RegistryConfig, RegistryError, chain};
use crate::digest::Digest;
use crate::limits::{self, ATTEMPTS, ERROR_BODY_BYTES, INDEX_DEPTH, MANIFEST_BYTES, REDIRECTS, TOKEN_BYTES};
use crate::manifest::{
    self, DOCKER_LIST, DOCKER_MANIFEST, Descriptor, Document, ManifestError, OCI_INDEX, OCI_MANIFEST,
};
use crate::progress::Progress;
use crate::reference::ImageReference;
use crate::store::PullError;

/// What is to be done with a repository; tokens are given for one or the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Access {
    Pull,
    Push,
}

/// A connection pool with its configuration.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    pub(super) config: Arc<RegistryConfig>,
}

impl Client {
    pub(crate) fn new(config: &RegistryConfig) -> Result<Self, RegistryError> {
        // Said explicitly: with two providers in a program the default would be a matter of luck.
        // An error only means that the program has chosen already.
        drop(rustls::crypto::ring::default_provider().install_default());
        let invalid = |address: &str, why: &dyn std::error::Error| RegistryError::Address {
            address: address.to_owned(),
            why: chain(why),
        };
        // The environment's proxy variables are for the front end to read.
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(config.timing.connect)
            .read_timeout(config.timing.stall)
            .user_agent(concat!("pyro/", env!("CARGO_PKG_VERSION")));
        if let Some(proxy) = &config.proxy {
            let parsed = reqwest::Proxy::all(proxy).map_err(|e| invalid(proxy, &e))?;
            let direct = reqwest::NoProxy::from_string("localhost,127.0.0.0/8,::1");
            builder = builder.proxy(parsed.no_proxy(direct));
        }
        let http = builder.build().map_err(|e| invalid("https", &e))?;
        Ok(Self { http, config: Arc::new(config.clone()) })
    }

    /// A session for one repository. The registry itself is the last of its endpoints.
    pub(crate) fn session(
        &self,
        image: &ImageReference,
        access: Access,
        progress: Arc<dyn Progress>,
    ) -> Result<Session, RegistryError> {
        let mut endpoints = Vec::new();
        if access == Access::Pull {
            let wanted = |registry: &Option<String>| {
                registry.as_ref().is_none_or(|r| same_registry(r, &image.registry))
            };
            for mirror in self.config.mirrors.iter().filter(|m| wanted(&m.registry)) {
                endpoints.push(self.endpoint(&mirror.endpoint, &image.repository, Some(&image.registry))?);
            }
        }
        endpoints.push(self.endpoint(&image.registry, &image.repository, None)?);
        let endpoints = endpoints.into();
        let tokens = Arc::new(Mutex::new(HashMap::new()));
        Ok(Session { client: self.clone(), image: image.clone(), access, endpoints, tokens, progress })
    }

    fn endpoint(
        &self,
        address: &str,
        repository: &str,
        mirrored: Option<&str>,
    ) -> Result<Endpoint, RegistryError> {
        let invalid = |why: &str| RegistryError::Address { address: address.to_owned(), why: why.to_owned() };
        let text = if address.contains("://") {
            address.to_owned()
        } else {
            let host = if is_docker_hub(address) { "registry-1.docker.io" } else { address };
            let scheme = if self.is_plain(address) { "http" } else { "https" };
            format!("{scheme}://{host}")
        };
        let url = Url::parse(&text).map_err(|e| invalid(&e.to_string()))?;
        let host = url.host_str().ok_or_else(|| invalid("it has no host"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(invalid("only http and https are spoken"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid("credentials do not belong into an address"));
        }
        let name = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let base = format!("{}/v2/{repository}", url.as_str().trim_end_matches('/'));
        let namespace =
            mirrored.map(|r| if is_docker_hub(r) { "docker.io".to_owned() } else { r.to_owned() });
        Ok(Endpoint { name, base, namespace, given_up: AtomicBool::new(false) })
    }

    fn is_plain(&self, address: &str) -> bool {
        self.config.plain_http.iter().any(|h| h == address) || is_loopback(address)
    }
}

/// Whether a host (with or without port) can only be this machine.
fn is_loopback(address: &str) -> bool {
    let host = match address.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => address.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// One place where the repository is served.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Host and port.
    pub(super) name: String,
    base: String,
    /// What a mirror is asked to be.
    namespace: Option<String>,
    /// A mirror that failed is not asked again: each blob would wait for it anew.
    given_up: AtomicBool,
}

impl Endpoint {
    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    pub(super) fn url(&self, path: &str) -> Result<Url, RegistryError> {
        let ns = self.namespace.as_ref().map_or_else(String::new, |ns| format!("?ns={ns}"));
        let text = format!("{}/{path}{ns}", self.base);
        Url::parse(&text).map_err(|e| RegistryError::Address { address: text, why: e.to_string() })
    }
}

/// Repeats what may succeed next time, with growing pauses or those that the registry asks for. A macro,
/// because a future made by an asynchronous closure cannot yet be promised to move between threads.
macro_rules! retrying {
    ($session:expr, $attempt:expr) => {{
        let mut failures = 0;
        loop {
            match $attempt.await {
                Ok(value) => break Ok(value),
                Err(error) => {
                    failures += 1;
                    if let Err(error) = $session.pause(error, failures).await {
                        break Err(error);
                    }
                }
            }
        }
    }};
}

/// Tries the endpoints in turn: mirrors first, then the registry, whose answer counts.
macro_rules! on_endpoints {
    ($session:expr, $endpoint:ident, $attempt:expr) => {{
        let mut endpoints = $session.endpoints.iter();
        let mut mirror_failed = None;
        loop {
            let $endpoint = endpoints.next().expect("the registry's own endpoint is the last");
            if $endpoint.is_given_up() {
                continue;
            }
            match $attempt.await {
                Ok(value) => break Ok(value),
                Err(error) if endpoints.len() > 0 => match $session.mirror_failure($endpoint, error) {
                    Ok(failed) => mirror_failed = Some(failed),
                    Err(error) => break Err(error),
                },
                Err(error) => break Err(error.after_mirror(mirror_failed)),
            }
        }
    }};
}
pub(super) use {on_endpoints, retrying};

/// Access to one repository.
#[derive(Clone)]
pub(crate) struct Session {
    client: Client,
    pub(super) image: ImageReference,
    access: Access,
    pub(super) endpoints: Arc<[Endpoint]>,
    /// Authorization by endpoint.
    tokens: Arc<Mutex<HashMap<String, HeaderValue>>>,
    pub(super) progress: Arc<dyn Progress>,
}

/// A request that can be sent again.
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: bytes::Bytes,
}

impl Ask {
    pub(super) fn get(url: Url) -> Self {
        Self { method: Method::GET, url, headers: HeaderMap::new(), body: bytes::Bytes::new() }
    }
}

impl Session {
    pub(super) fn timing(&self) -> &super::Timing {
        &self.client.config.timing
    }

    /// The image's manifest for the guest's platform and its digest; every step verified.
    pub(crate) async fn manifest(&self) -> Result<(manifest::ImageManifest, Digest), PullError> {
        let selector = self.image.selector();
        let mut expected = self.image.digest;
        let mut target = selector;
        for _ in 0..INDEX_DEPTH {
            let (bytes, digest) =
                on_endpoints!(self, endpoint, self.manifest_once(endpoint, &target, expected))?;
            match manifest::parse(&bytes)? {
                Document::Image(image) => return Ok((image, digest)),
                Document::Index(entries) => {
                    let chosen = manifest::for_guest(&entries)?;
                    expected = Some(chosen.digest);
                    target = chosen.digest.to_string();
                }
            }
        }
        Err(ManifestError::NoPlatform("indexes of indexes".into()).into())
    }

    async fn manifest_once(
        &self,
        endpoint: &Endpoint,
        target: &str,
        expected: Option<Digest>,
    ) -> Result<(Vec<u8>, Digest), RegistryError> {
        let mut ask = Ask::get(endpoint.url(&format!("manifests/{target}"))?);
        let accepted = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].join(", ");
        ask.headers.insert(ACCEPT, HeaderValue::from_str(&accepted).expect("media types are header text"));
        retrying!(self, async {
            let response = self.send(endpoint, &ask).await?;
            let response = self
                .success(endpoint, response, &format!("manifest {target} of {}", self.image.repository))
                .await?;
            let promised = response.headers().get("docker-content-digest").and_then(|v| v.to_str().ok());
            // An algorithm that we do not compute promises nothing; what we asked for by digest stays.
            let promised = expected.or_else(|| promised.and_then(|d| d.parse().ok()));
            let bytes = self.bounded(response, MANIFEST_BYTES).await?;
            let actual = Digest::of(&bytes);
            match promised {
                Some(expected) if expected != actual => {
                    Err(RegistryError::ManifestDigest { expected, actual })
                }
                _ => Ok((bytes, actual)),
            }
        })
    }

    /// A small blob, verified.
    pub(crate) async fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        on_endpoints!(self, endpoint, self.document_once(endpoint, descriptor))
    }

    async fn document_once(
        &self,
        endpoint: &Endpoint,
        descriptor: &Descriptor,
    ) -> Result<Vec<u8>, RegistryError> {
        let ask = Ask::get(endpoint.url(&format!("blobs/{}", descriptor.digest))?);
        retrying!(self, async {
            let response = self.send(endpoint, &ask).await?;
            let response = self.success(endpoint, response, &format!("blob {}", descriptor.digest)).await?;
            let bytes = self.bounded(response, descriptor.size.min(MANIFEST_BYTES)).await?;
            let actual = Digest::of(&bytes);
            if actual == descriptor.digest {
                Ok(bytes)
            } else {
                Err(RegistryError::BlobDigest { expected: descriptor.digest, actual })
            }
        })
    }

    /// Notes that a mirror could not help. What went wrong on this machine would go wrong again.
    pub(super) fn mirror_failure(
        &self,
        mirror: &Endpoint,
        error: RegistryError,
    ) -> Result<(String, String), RegistryError> {
        if matches!(error, RegistryError::Store(_)) {
            return Err(error);
        }
        // One that lacks something may have the rest.
        mirror.given_up.fetch_or(!matches!(error, RegistryError::NotFound { .. }), Ordering::Relaxed);
        let text = chain(&error);
        self.progress.retry(&format!("mirror {}: {text}", mirror.name));
        Ok((mirror.name.clone(), text))
    }

    /// Waits before attempt `failures + 1`, or gives the error back when there is none.
    pub(super) async fn pause(&self, error: RegistryError, failures: u32) -> Result<(), RegistryError> {
        let pause = match &error {
            _ if failures >= ATTEMPTS => return Err(error),
            RegistryError::RateLimited { retry_after: Some(after), .. } if *after > limits::RETRY_AFTER => {
                return Err(error);
            }
            RegistryError::RateLimited { retry_after: Some(after), .. } => *after,
            RegistryError::Unreachable { .. }
            | RegistryError::Stalled { .. }
            | RegistryError::Truncated { .. }
            | RegistryError::RateLimited { .. }
            | RegistryError::Status { status: 408 | 500..=599, .. } => {
                backoff(self.timing().backoff, failures)
            }
            _ => return Err(error),
        };
        self.progress.retry(&chain(&error));
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// Sends with what authorization there is; a 401 is answered once. Another host, to which a redirect
    /// or an upload led, has no say in where credentials go.
    pub(super) async fn send(&self, endpoint: &Endpoint, ask: &Ask) -> Result<Response, RegistryError> {
        let known = self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(&endpoint.base).cloned();
        let response = self.follow(endpoint, ask, known.as_ref()).await?;
        let home = endpoint.url("")?.origin();
        if response.status() != StatusCode::UNAUTHORIZED || response.url().origin() != home {
            return Ok(response);
        }
        let challenge = Challenge::from_headers(response.headers())?;
        drop(response);
        let authorization = self.authorize(endpoint, &challenge).await?;
        self.tokens
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(endpoint.base.clone(), authorization.clone());
        self.follow(endpoint, ask, Some(&authorization)).await
    }

    /// Follows redirects. Another origin never sees the authorization, and none is followed from
    /// https to http.
    async fn follow(
        &self,
        endpoint: &Endpoint,
        ask: &Ask,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, RegistryError> {
        let home = endpoint.url("")?.origin();
        let mut url = ask.url.clone();
        for _ in 0..=REDIRECTS {
            let mut request =
                self.client.http.request(ask.method.clone(), url.clone()).headers(ask.headers.clone());
            if url.origin() == home
                && let Some(value) = authorization
            {
                request = request.header(AUTHORIZATION, value.clone());
            }
            if !ask.body.is_empty() || matches!(ask.method, Method::POST | Method::PUT | Method::PATCH) {
                request = request.body(ask.body.clone());
            }
            let waited = tokio::time::timeout(self.timing().request, request.send()).await;
            let response = waited.map_err(|_| self.stalled(&url, 0, self.timing().request))?;
            let response = response.map_err(|source| unreachable_url(&url, source))?;
            let redirects = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            if !redirects || !matches!(ask.method, Method::GET | Method::HEAD) {
                return Ok(response);
            }
            url = redirect_target(&url, &response)?;
        }
        let target = shown_url(&url);
        Err(RegistryError::Redirect { url: shown_url(&ask.url), target, why: "there are too many" })
    }

    /// Gets what the challenge asks for. Credentials are those of the endpoint's own host, so a mirror
    /// never sees the registry's.
    async fn authorize(
        &self,
        endpoint: &Endpoint,
        challenge: &Challenge,
    ) -> Result<HeaderValue, RegistryError> {
        let secret = auth::lookup(&self.client.config, &endpoint.name).await?;
        let (realm, service) = match (challenge, &secret) {
            (Challenge::Bearer { realm, service }, _) => (realm, service),
            (Challenge::Basic, Secret::Password(c)) => return header_value(&basic(&c.username, &c.password)),
            (Challenge::Basic, Secret::Anonymous | Secret::Refresh(_)) => {
                return Err(self.denied(endpoint, "401: it wants a user name and password"));
            }
        };
        let realm_url = Url::parse(realm)
            .map_err(|e| RegistryError::Address { address: realm.clone(), why: e.to_string() })?;
        let plain_endpoint = endpoint.base.starts_with("http:");
        if realm_url.scheme() != "https" && !plain_endpoint {
            let why = "a token server must be reached by https";
            return Err(RegistryError::Redirect { url: endpoint.base.clone(), target: realm.clone(), why });
        }
        let actions = match self.access {
            Access::Pull => "pull",
            Access::Push => "pull,push",
        };
        let scope = format!("repository:{}:{actions}", self.image.repository);
        // Whoever sends the request that needs the token tries again, so this does not: attempts would
        // multiply.
        let request = self.token_request(realm_url.clone(), service.as_deref(), &scope, &secret)?;
        let waited = tokio::time::timeout(self.timing().request, request.send()).await;
        let response = waited.map_err(|_| self.stalled(&realm_url, 0, self.timing().request))?;
        let response = response.map_err(|source| unreachable_url(&realm_url, source))?;
        if matches!(response.status().as_u16(), 400 | 401 | 403) {
            let said = format!("{} from {}", response.status().as_u16(), shown_url(&realm_url));
            return Err(self.denied(endpoint, &said));
        }
        let response = self.success(endpoint, response, "token server").await?;
        let token = TokenAnswer::parse(&self.bounded(response, TOKEN_BYTES).await?)?;
        header_value(&format!("Bearer {token}"))
    }

    fn token_request(
        &self,
        mut url: Url,
        service: Option<&str>,
        scope: &str,
        secret: &Secret,
    ) -> Result<reqwest::RequestBuilder, RegistryError> {
        if let Secret::Refresh(token) = secret {
            let mut form = Url::parse("form:").expect("a constant");
            let mut pairs = form.query_pairs_mut();
            pairs.append_pair("grant_type", "refresh_token").append_pair("client_id", "pyro");
            pairs.append_pair("refresh_token", token).append_pair("scope", scope);
            pairs.append_pair("service", service.unwrap_or_default());
            let body = pairs.finish().query().unwrap_or_default().to_owned();
            let form_type = "application/x-www-form-urlencoded";
            return Ok(self
                .client
                .http
                .post(url)
                .header(reqwest::header::CONTENT_TYPE, form_type)
                .body(body));
        }
        if let Some(service) = service {
            url.query_pairs_mut().append_pair("service", service);
        }
        url.query_pairs_mut().append_pair("scope", scope);
        let request = self.client.http.get(url);
        Ok(match secret {
            Secret::Password(c) => {
                request.header(AUTHORIZATION, header_value(&basic(&c.username, &c.password))?)
            }
            Secret::Anonymous | Secret::Refresh(_) => request,
        })
    }

    /// Turns a refusal into an error that says who refused what.
    pub(super) async fn success(
        &self,
        endpoint: &Endpoint,
        response: Response,
        what: &str,
    ) -> Result<Response, RegistryError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let registry = endpoint.name.clone();
        let url = shown_url(response.url());
        let retry_after =
            response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.trim().parse().ok());
        let message = self.message(response).await;
        Err(match status.as_u16() {
            401 | 403 => self.denied(endpoint, format!("{} {message}", status.as_u16()).trim_end()),
            404 => RegistryError::NotFound { registry, what: what.to_owned() },
            429 => RegistryError::RateLimited { registry, retry_after: retry_after.map(Duration::from_secs) },
            status => RegistryError::Status { url, status, message },
        })
    }

    fn denied(&self, endpoint: &Endpoint, status: &str) -> RegistryError {
        let (registry, repository) = (endpoint.name.clone(), self.image.repository.clone());
        RegistryError::Denied { registry, repository, status: status.to_owned() }
    }

    /// What a registry says about a refusal, on one line, if anything.
    async fn message(&self, response: Response) -> String {
        let Ok(body) = self.bounded(response, ERROR_BODY_BYTES).await else { return String::new() };
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let said = json["errors"][0]["message"].as_str().or(json["details"].as_str()).unwrap_or_default();
        said.chars().filter(|c| !c.is_control()).take(300).collect()
    }

    /// A whole body of at most `limit` bytes.
    pub(super) async fn bounded(&self, mut response: Response, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let url = response.url().clone();
        let mut body = Vec::new();
        let read = async {
            while let Some(chunk) = response.chunk().await.map_err(|source| unreachable_url(&url, source))? {
                if body.len() as u64 + chunk.len() as u64 > limit {
                    return Err(RegistryError::TooLong { url: shown_url(&url), limit });
                }
                body.extend_from_slice(&chunk);
            }
            Ok(())
        };
        let waited = tokio::time::timeout(self.timing().request, read).await;
        match waited {
            Ok(result) => result.map(|()| body),
            Err(_) => Err(self.stalled(&url, 0, self.timing().request)),
        }
    }

    pub(super) fn stalled(&self, url: &Url, got: u64, after: Duration) -> RegistryError {
        RegistryError::Stalled { url: shown_url(url), got, seconds: after.as_secs() }
    }
}

/// Doubles with each failure; the second half of the pause is random, so that clients which failed
/// together do not come back together.
fn backoff(start: Duration, failures: u32) -> Duration {
    let full = start * 2_u32.pow(failures.saturating_sub(1).min(6));
    let mut random = [0; 1];
    // Without randomness the pause is merely regular.
    let _ = getrandom::fill(&mut random);
    full / 2 + full * u32::from(random[0]) / 512
}

fn redirect_target(from: &Url, response: &Response) -> Result<Url, RegistryError> {
    let location = response.headers().get(LOCATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let refused = |target: &str, why| RegistryError::Redirect {
        url: shown_url(from),
        target: target.chars().take(300).collect(),
        why,
    };
    let target = from.join(location).map_err(|_| refused(location, "it is no address"))?;
    match (from.scheme(), target.scheme()) {
        _ if location.is_empty() => Err(refused(location, "it names no target")),
        ("https", "https") | ("http", "http" | "https") => Ok(target),
        ("https", "http") => Err(refused(&shown_url(&target), "it would leave https")),
        _ => Err(refused(&shown_url(&target), "only http and https are spoken")),
    }
}

pub(super) fn unreachable_url(url: &Url, source: reqwest::Error) -> RegistryError {
    // The address is in our own text, and without its query, which may be signed.
    RegistryError::Unreachable { url: shown_url(url), source: source.without_url() }
}

/// An address for messages: what follows `?` may be a signature that grants access.
pub(super) fn shown_url(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.to_string()
}

fn basic(username: &str, password: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}")))
}

fn header_value(text: &str) -> Result<HeaderValue, RegistryError> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| RegistryError::Auth("the credentials or the token are not header text".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for address in ["localhost", "localhost:5000", "127.0.0.1:1", "127.9.9.9", "[::1]:5000"] {
            assert!(is_loopback(address), "{address}");
        }
        for address in ["localhost.example", "10.0.0.1", "[::2]:5000", "127.0.0.1.example:80", "docker.io"] {
            assert!(!is_loopback(address), "{address}");
        }
    }

    #[test]
    fn pauses_grow_and_stay_bounded() {
        let start = Duration::from_millis(400);
        for failures in 1..40 {
            let pause = backoff(start, failures);
            let full = start * 2_u32.pow(failures.saturating_sub(1).min(6));
            assert!(pause >= full / 2 && pause <= full, "{failures}: {pause:?}");
        }
    }

    #[test]
    fn endpoints_are_https_except_where_plain_is_allowed() {
        let config = RegistryConfig { plain_http: vec!["lab:5000".into()], ..RegistryConfig::default() };
        let client = Client::new(&config).unwrap();
        let base = |address: &str| client.endpoint(address, "a/b", None).map(|e| e.base);
        assert_eq!(base("docker.io").unwrap(), "https://registry-1.docker.io/v2/a/b");
        assert_eq!(base("lab:5000").unwrap(), "http://lab:5000/v2/a/b");
        assert_eq!(base("127.0.0.1:5000").unwrap(), "http://127.0.0.1:5000/v2/a/b");
        assert_eq!(base("https://m.example/prefix/").unwrap(), "https://m.example/prefix/v2/a/b");
        assert!(base("ftp://x").is_err() && base("https://u:p@x").is_err());
    }
}
