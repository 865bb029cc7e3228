//! The proxy that this host's own programs use, for guests that are to go through it.

use crate::problem::{Blame, Explain, Problem};
use pyro_net::{Proxy, ProxyError};
use std::fmt;

/// A proxy as a front end found it. It may hold a password: nothing here shows the URL.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct HostProxy {
    /// `http://[USER:PASSWORD@]HOST:PORT`; `None` where the host has none.
    pub url: Option<String>,
    /// Names that go past it, as in `NO_PROXY`.
    pub exempt: String,
}

impl fmt::Debug for HostProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.url.is_some() { "HostProxy(***)" } else { "HostProxy(none)" })
    }
}

/// Why guests cannot go through the host's proxy.
#[derive(Debug, thiserror::Error)]
pub enum HostProxyError {
    /// There is none.
    #[error("connections are to go through the host's proxy, and the host has none")]
    None,
    /// It is of no use.
    #[error("the host's proxy cannot be used")]
    Invalid(#[from] ProxyError),
}

impl Explain for HostProxyError {
    fn explain(&self) -> Problem {
        let problem = Problem::new("host_proxy", Blame::Caller, self);
        match self {
            Self::None => problem.with_hint(
                "set HTTPS_PROXY, ALL_PROXY or HTTP_PROXY; `pyro workspace update --no-host-proxy` does without",
            ),
            Self::Invalid(_) => {
                problem.with_hint("HTTPS_PROXY=http://[USER:PASSWORD@]HOST:PORT; letters like @ are written %40")
            }
        }
    }
}

impl HostProxy {
    /// The proxy, if it can be used.
    pub fn parse(&self) -> Result<Proxy, HostProxyError> {
        let url = self.url.as_deref().ok_or(HostProxyError::None)?;
        Ok(Proxy::parse(url, &self.exempt)?)
    }
}
