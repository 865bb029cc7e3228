//! Credentials, challenges and tokens.

use std::fs::File;

use docker_credential::{CredentialRetrievalError, DockerCredential};
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};
use serde::Deserialize;

use super::{Credentials, RegistryConfig, RegistryError};
use crate::tarball::shown;

/// What a registry is shown.
#[derive(Clone)]
pub(super) enum Secret {
    Anonymous,
    Password(Credentials),
    /// To be exchanged for a token by OAuth 2.
    Refresh(String),
}

/// Looks a host's credentials up: those given explicitly, then Docker's. Helpers are programs that may
/// never answer, so they are asked on a thread of its own, which nobody has to wait for.
pub(super) async fn lookup(config: &RegistryConfig, host: &str) -> Result<Secret, RegistryError> {
    if let Some((_, found)) = config.credentials.iter().find(|(h, _)| same_registry(h, host)) {
        return Ok(Secret::Password(found.clone()));
    }
    let Some(path) = config.docker_config.clone() else { return Ok(Secret::Anonymous) };
    let failed = |why: String| RegistryError::Credentials { registry: host.to_owned(), why };
    // Docker stores its own registry under this name since its first version.
    let key = if is_docker_hub(host) { "https://index.docker.io/v1/".to_owned() } else { host.to_owned() };
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let ask = move || {
        let found = match File::open(&path) {
            Ok(file) => docker_credential::get_credential_from_reader(file, &key),
            Err(_) => Err(CredentialRetrievalError::ConfigNotFound),
        };
        drop(sender.send(found));
    };
    std::thread::Builder::new().name("credentials".into()).spawn(ask).map_err(|e| failed(e.to_string()))?;
    let answer = tokio::time::timeout(config.timing.request, receiver).await;
    let answer = answer.map_err(|_| failed("the credential helper does not answer".into()))?;
    match answer.map_err(|e| failed(e.to_string()))? {
        Ok(DockerCredential::UsernamePassword(username, password)) => {
            Ok(Secret::Password(Credentials { username, password }))
        }
        Ok(DockerCredential::IdentityToken(token)) => Ok(Secret::Refresh(token)),
        Err(CredentialRetrievalError::ConfigNotFound | CredentialRetrievalError::NoCredentialConfigured) => {
            Ok(Secret::Anonymous)
        }
        // How every helper says that it knows nothing of this host.
        Err(CredentialRetrievalError::HelperFailure { stdout, stderr, .. })
            if stdout.contains("credentials not found") || stderr.contains("credentials not found") =>
        {
            Ok(Secret::Anonymous)
        }
        Err(CredentialRetrievalError::HelperFailure { helper, stdout, stderr }) => {
            // Helpers complain on either stream, at any length.
            let said = stderr.lines().chain(stdout.lines()).find(|line| !line.trim().is_empty());
            Err(failed(format!("`{helper}` failed: {}", shown(said.unwrap_or_default().as_bytes()))))
        }
        Err(error) => Err(failed(error.to_string())),
    }
}

pub(super) fn is_docker_hub(host: &str) -> bool {
    matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io")
}

pub(super) fn same_registry(a: &str, b: &str) -> bool {
    a == b || (is_docker_hub(a) && is_docker_hub(b))
}

/// What a 401 asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

impl Challenge {
    pub(super) fn from_headers(headers: &HeaderMap) -> Result<Self, RegistryError> {
        let auth = |text: &str| RegistryError::Auth(text.to_owned());
        let mut values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok()).peekable();
        if values.peek().is_none() {
            return Err(auth("OCI registry denied access without an auth challenge"));
        }
        let challenges: Vec<_> = values.flat_map(parse).collect();
        let of = |scheme: &str| challenges.iter().find(|(s, _)| s.eq_ignore_ascii_case(scheme));
        if let Some((_, parameters)) = of("bearer") {
            let get = |key: &str| {
                parameters.iter().find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, v)| v.clone())
            };
            let realm =
                get("realm").ok_or_else(|| auth("OCI auth challenge did not include a token realm"))?;
            return Ok(Self::Bearer { realm, service: get("service") });
        }
        of("basic").map(|_| Self::Basic).ok_or_else(|| auth("unsupported OCI authentication scheme"))
    }
}

type Parameters = Vec<(String, String)>;

/// Splits a header into challenges. A word without `=` begins a new one; quoted values may hold commas.
fn parse(header: &str) -> Vec<(String, Parameters)> {
    let mut out: Vec<(String, Parameters)> = Vec::new();
    let mut rest = header.trim_start();
    while !rest.is_empty() {
        let end = rest.find([' ', '=', ',']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let value_follows = after.trim_start().strip_prefix('=');
        match (value_follows, out.last_mut()) {
            (Some(value), Some((_, parameters))) => {
                let (value, after) = value_of(value.trim_start());
                parameters.push((word.to_owned(), value));
                rest = after;
            }
            (Some(value), None) => rest = value_of(value.trim_start()).1,
            (None, _) => {
                if !word.is_empty() {
                    out.push((word.to_owned(), Vec::new()));
                }
                rest = after;
            }
        }
        rest = rest.trim_start_matches([' ', ',', '\t']);
    }
    out
}

fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            _ => value.push(c),
        }
    }
    (value, "")
}

/// A token server's answer.
#[derive(Deserialize)]
pub(super) struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

impl TokenAnswer {
    pub(super) fn parse(bytes: &[u8]) -> Result<String, RegistryError> {
        let bad = || RegistryError::Auth("OCI auth token response is not valid".into());
        let answer: Self = serde_json::from_slice(bytes).map_err(|_| bad())?;
        answer.token.or(answer.access_token).filter(|t| !t.is_empty()).ok_or_else(bad)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn challenge(values: &[&str]) -> Result<Challenge, String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        Challenge::from_headers(&headers).map_err(|e| e.to_string())
    }

    #[test]
    fn challenges_are_split_outside_of_quotes() {
        let bearer = r#"Basic realm="x, y", Bearer realm="https://auth.example/t?a=b",service="a,b",scope="repository:x:pull,push""#;
        let expected =
            Challenge::Bearer { realm: "https://auth.example/t?a=b".into(), service: Some("a,b".into()) };
        assert_eq!(challenge(&[bearer]), Ok(expected));
        assert_eq!(challenge(&["Basic realm=\"t\""]), Ok(Challenge::Basic));
        assert_eq!(
            challenge(&["Bearer service=\"s\""]),
            Err("OCI auth challenge did not include a token realm".into())
        );
        assert_eq!(challenge(&["Negotiate"]), Err("unsupported OCI authentication scheme".into()));
        assert_eq!(challenge(&[]), Err("OCI registry denied access without an auth challenge".into()));
    }

    proptest! {
        #[test]
        fn arbitrary_challenges_end(text in "[ -~]{0,200}") {
            let _ = parse(&text);
        }
    }
}
