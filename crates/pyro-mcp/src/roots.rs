//! Directories that a client names as its own. Clients of protocols with a handshake are asked when a path is looked
//! at; later ones cannot be asked, and send them with a call that is answered by that wish.

use crate::limits::ROOTS_DEADLINE;
use rmcp::RoleServer;
use rmcp::model::{
    CallToolRequestParams, InputRequest, InputRequests, InputRequiredResult, InputResponses, JsonObject,
};
use rmcp::service::{Peer, RequestContext};
use std::path::PathBuf;

/// What the client's answer is called.
const KEY: &str = "roots";
/// Arguments, of any tool, that name something of the host.
const PATHS: [&str; 4] = ["seed_path", "source_path", "output_path", "secrets"];

/// How to learn a client's directories.
#[derive(Clone)]
pub(crate) enum ClientRoots {
    /// It has none, or they do not count.
    None,
    /// It is asked.
    Asked(Peer<RoleServer>),
    /// It has told them.
    Told(Vec<PathBuf>),
}

/// A call cannot begin before its client has told its directories.
pub(crate) struct Wish;

impl ClientRoots {
    /// Those of the client that makes this call.
    pub(crate) fn of(
        context: &RequestContext<RoleServer>,
        request: &CallToolRequestParams,
    ) -> Result<Self, Wish> {
        if context.client_capabilities().is_none_or(|can| can.roots.is_none()) {
            return Ok(Self::None);
        }
        if context.protocol_version().is_none_or(|version| version.has_initialize()) {
            return Ok(Self::Asked(context.peer.clone()));
        }
        match &request.input_responses {
            Some(responses) => Ok(Self::Told(told(responses))),
            None if request.arguments.as_ref().is_some_and(names_path) => Err(Wish),
            None => Ok(Self::None),
        }
    }

    pub(crate) async fn paths(&self) -> Vec<PathBuf> {
        match self {
            Self::None => Vec::new(),
            Self::Asked(peer) => ask(peer).await,
            Self::Told(paths) => paths.clone(),
        }
    }
}

impl From<Wish> for InputRequiredResult {
    #[expect(deprecated, reason = "clients of today name their roots; nothing takes the place of that yet")]
    fn from(_: Wish) -> Self {
        let request = InputRequest::ListRoots(rmcp::model::ListRootsRequest::default());
        Self::from_input_requests(InputRequests::from([(KEY.to_owned(), request)]))
    }
}

fn names_path(arguments: &JsonObject) -> bool {
    PATHS.iter().any(|name| arguments.contains_key(*name))
}

fn told(responses: &InputResponses) -> Vec<PathBuf> {
    let roots = responses.get(KEY).and_then(|answer| answer["roots"].as_array());
    usable(roots.into_iter().flatten().filter_map(|root| root["uri"].as_str()))
}

#[expect(deprecated, reason = "clients of today name their roots; nothing takes the place of that yet")]
async fn ask(peer: &Peer<RoleServer>) -> Vec<PathBuf> {
    match tokio::time::timeout(ROOTS_DEADLINE, peer.list_roots()).await {
        Ok(Ok(listed)) => usable(listed.roots.iter().map(|root| root.uri.as_str())),
        _ => Vec::new(),
    }
}

fn usable<'a>(uris: impl Iterator<Item = &'a str>) -> Vec<PathBuf> {
    let paths = uris.filter_map(|uri| local_path(uri)?.canonicalize().ok());
    // The root of everything is no project.
    paths.filter(|path| path.is_dir() && path.parent().is_some()).collect()
}

/// The path of a `file` URL of this host.
fn local_path(uri: &str) -> Option<PathBuf> {
    let rest = uri.strip_prefix("file://")?;
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                bytes.push(u8::from_str_radix(std::str::from_utf8(&[*high, *low]).ok()?, 16).ok()?);
                rest = after;
            }
            _ => bytes.push(*first),
        }
    }
    let path = PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes));
    path.is_absolute().then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_client_tells_directories_that_there_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        let uris = [format!("file://{}", path.display()), "file:///".into(), "file:///no/where".into()];
        let answer = json!({ "roots": uris.map(|uri| json!({ "uri": uri })) });
        assert_eq!(told(&InputResponses::from([(KEY.to_owned(), answer)])), [path]);
        for other in [json!(null), json!({ "roots": 1 }), json!({ "roots": [1, {}] })] {
            assert!(told(&InputResponses::from([(KEY.to_owned(), other)])).is_empty());
        }
    }

    #[test]
    fn every_argument_that_names_the_host_is_known() {
        for tool in crate::tools::all() {
            let schema = tool.declaration("", |_| false).input_schema;
            for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten()
            {
                let text = property.to_string();
                let is_host =
                    ["Host path", "Host directory", "A host file"].iter().any(|word| text.contains(word));
                assert_eq!(is_host, PATHS.contains(&name.as_str()), "{name} of {}: {text}", tool.name);
            }
        }
    }

    #[test]
    fn only_urls_of_local_files_are_paths() {
        assert_eq!(local_path("file:///home/u/a%20b"), Some(PathBuf::from("/home/u/a b")));
        assert_eq!(local_path("file://localhost/x"), Some(PathBuf::from("/x")));
        for other in ["https://example.com/", "file://server/share", "file://", "/home", "file:///%zz"] {
            assert_eq!(local_path(other), None, "{other}");
        }
    }
}
