//! The protocol over HTTP, on the loopback alone and for who has the token.

use crate::limits::{ACCEPT_PAUSE, CONNECTIONS};
use crate::server::{Handler, Server};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use pyro_core::{Blame, Explain, Problem};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// The path that speaks the protocol.
const PATH: &str = "/mcp";

/// Where and for whom.
#[derive(Clone)]
pub struct HttpOptions {
    /// Must be a loopback address; port 0 is one that is free.
    pub address: SocketAddr,
    /// What clients must send as `Authorization: Bearer TOKEN`.
    pub token: String,
}

/// Why it cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// An address that others reach.
    #[error("the MCP server listens on loopback addresses only, not on {0}")]
    NotLoopback(SocketAddr),
    /// Nobody could be told from anybody.
    #[error("the bearer token must have at least 16 characters, all of them visible ASCII")]
    WeakToken,
    /// The address cannot be had.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

impl Explain for HttpError {
    fn explain(&self) -> Problem {
        match self {
            Self::NotLoopback(_) => Problem::new("not_loopback", Blame::Caller, self)
                .with_hint("an SSH tunnel brings a loopback port to another machine"),
            Self::WeakToken => Problem::new("weak_token", Blame::Caller, self),
            Self::Listen { .. } => {
                Problem::new("listen_failed", Blame::Host, self).with_hint("port 0 takes one that is free")
            }
        }
    }
}

/// A token that nobody guesses.
pub fn random_token() -> String {
    let mut bytes = [0; crate::limits::TOKEN_BYTES];
    getrandom::fill(&mut bytes).expect("the system has randomness");
    hex::encode(bytes)
}

/// Serves any number of clients until `stop` is ready. `told` gets the URL as soon as clients can come.
pub async fn serve_http(
    server: Arc<Server>,
    options: HttpOptions,
    told: impl FnOnce(String),
    stop: impl Future<Output = ()>,
) -> Result<(), HttpError> {
    if !options.address.ip().is_loopback() {
        return Err(HttpError::NotLoopback(options.address));
    }
    if options.token.len() < 16 || !options.token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(HttpError::WeakToken);
    }
    let listen = |source| HttpError::Listen { address: options.address, source };
    let listener = TcpListener::bind(options.address).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    told(format!("http://{address}{PATH}"));
    let config = StreamableHttpServerConfig::default()
        .with_max_request_body_bytes(crate::limits::MESSAGE_BYTES)
        // A browser's page is no client, wherever it is from.
        .enforce_origin_validation();
    let cancel = config.cancellation_token.clone();
    let factory = {
        let server = Arc::clone(&server);
        move || Ok(Handler::new(Arc::clone(&server)))
    };
    let service = StreamableHttpService::new(factory, Arc::new(LocalSessionManager::default()), config);
    let authorization: Arc<str> = format!("Bearer {}", options.token).into();
    let accept = accept(listener, service, authorization);
    tokio::select! {
        () = stop => {}
        never = accept => match never {},
    }
    cancel.cancel();
    server.close().await;
    Ok(())
}

type Service = StreamableHttpService<Handler, LocalSessionManager>;

async fn accept(listener: TcpListener, service: Service, authorization: Arc<str>) -> Infallible {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: those that are open go first.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (service, authorization) = (service.clone(), Arc::clone(&authorization));
        tokio::spawn(async move {
            serve_connection(stream, service, authorization).await;
            drop(place);
        });
    }
}

async fn serve_connection(stream: TcpStream, service: Service, authorization: Arc<str>) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let (service, authorization) = (service.clone(), Arc::clone(&authorization));
        async move {
            if let Some(refusal) = refuse(&request, &authorization) {
                let mut response = Response::new(told_body(refusal.1));
                *response.status_mut() = refusal.0;
                if refusal.0 == StatusCode::UNAUTHORIZED {
                    response
                        .headers_mut()
                        .insert(WWW_AUTHENTICATE, hyper::header::HeaderValue::from_static("Bearer"));
                }
                return Ok::<_, Infallible>(response);
            }
            Ok(service.handle(request).await)
        }
    });
    // What a client does to its own connection concerns nobody else.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

fn refuse(request: &Request<Incoming>, authorization: &str) -> Option<(StatusCode, &'static str)> {
    let given = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes()).unwrap_or_default();
    if !same(given, authorization.as_bytes()) {
        return Some((StatusCode::UNAUTHORIZED, "the bearer token is missing or wrong\n"));
    }
    if request.uri().path() != PATH {
        return Some((StatusCode::NOT_FOUND, "the protocol is spoken at /mcp\n"));
    }
    None
}

fn told_body(text: &'static str) -> BoxBody<Bytes, Infallible> {
    Full::new(Bytes::from_static(text.as_bytes())).boxed()
}

/// Compares in a time that depends on the lengths alone.
fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}
