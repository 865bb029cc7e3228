//! What a service is: how it is run, what tells that it is ready, when it is started again, what it publishes.
//! Texts become values here; nothing is done with them.

mod ports;
mod readiness;
#[cfg(test)]
mod tests;

pub use ports::{PortLimits, PortRequest, PublishedPort, distinct_ports};
pub(crate) use readiness::Check;
pub use readiness::Readiness;

use crate::exec::ExecRequest;
use crate::limits::{self, OutOfRange, PUBLISHED_PORTS, RESTARTS};
use crate::problem::{Blame, Explain, Problem};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Everything that it takes to run a service, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServiceSpec {
    pub(crate) exec: ExecRequest,
    pub(crate) readiness: Option<Readiness>,
    pub(crate) ready_timeout: Duration,
    pub(crate) ready_interval: Duration,
    pub(crate) restart: RestartPolicy,
    /// Wanted ports.
    pub(crate) ports: Vec<PortRequest>,
    /// Bounds of each. Records of earlier versions have none.
    #[serde(default)]
    pub(crate) port_limits: PortLimits,
}

/// Whether a service is started again that ends by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// When it ends with another exit code than 0 or by a signal, or is not ready in time after a restart; this
    /// often in a row at most.
    OnFailure {
        /// `None` is without end.
        most: Option<u64>,
    },
}

/// What is wrong with a service's description.
#[derive(Debug, thiserror::Error)]
pub enum ServiceSyntaxError {
    /// Not a restart policy.
    #[error("restart must be one of: no, on-failure, on-failure:COUNT, not '{0}'")]
    Restart(String),
    /// A number out of its bounds.
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
    /// Not an address.
    #[error("readiness.address must be in HOST:PORT format, not '{0}'")]
    Address(String),
    /// Not a URL that can be asked.
    #[error("readiness.url must be http://HOST[:PORT][/PATH], not '{0}'")]
    Url(String),
    /// HTTPS.
    #[error("readiness.url must use http, not https: '{0}'")]
    Https(String),
    /// Nothing.
    #[error("readiness.{0} is required")]
    Empty(&'static str),
    /// Too long.
    #[error("readiness.{what} must be at most {} bytes, not {bytes}", limits::READINESS_BYTES)]
    TooLong {
        /// Which part.
        what: &'static str,
        /// How long it is.
        bytes: usize,
    },
    /// Not ports.
    #[error("published ports must use GUEST_PORT or HOST_PORT:GUEST_PORT, not '{0}'")]
    Port(String),
    /// No port.
    #[error("published ports must not be empty")]
    EmptyPort,
    /// The same twice.
    #[error("published ports must not repeat the same host/guest port mapping: {0}")]
    PortTwice(String),
    /// One host port for two.
    #[error("published ports must not use host port {0} more than once")]
    HostPortTwice(u16),
    /// Too many.
    #[error("a service can publish at most {PUBLISHED_PORTS} ports, not {0}")]
    TooManyPorts(usize),
}

impl Explain for ServiceSyntaxError {
    fn explain(&self) -> Problem {
        let problem = |code| Problem::new(code, Blame::Caller, self);
        match self {
            Self::Restart(_) => problem("invalid_restart"),
            Self::OutOfRange(error) => error.explain(),
            Self::Address(_) => {
                problem("invalid_readiness").with_hint("for example: --ready-tcp 127.0.0.1:8080")
            }
            Self::Url(_) => problem("invalid_readiness")
                .with_hint("for example: --ready-http http://127.0.0.1:8080/health"),
            Self::Https(_) => problem("invalid_readiness")
                .with_hint("--ready-tcp looks whether the port is open; --ready-command can run curl"),
            Self::Empty(_) | Self::TooLong { .. } => problem("invalid_readiness"),
            Self::Port(_)
            | Self::EmptyPort
            | Self::PortTwice(_)
            | Self::HostPortTwice(_)
            | Self::TooManyPorts(_) => {
                problem("invalid_port").with_hint("for example: --publish 8080, or --publish 18080:8080")
            }
        }
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::OnFailure { most: None } => f.write_str("on-failure"),
            Self::OnFailure { most: Some(most) } => write!(f, "on-failure:{most}"),
        }
    }
}

impl FromStr for RestartPolicy {
    type Err = ServiceSyntaxError;

    fn from_str(text: &str) -> Result<Self, ServiceSyntaxError> {
        let unknown = || ServiceSyntaxError::Restart(text.escape_debug().to_string());
        match text.split_once(':') {
            None if text == "no" => Ok(Self::No),
            None if text == "on-failure" => Ok(Self::OnFailure { most: None }),
            Some(("on-failure", most)) => {
                let most = most.parse().map_err(|_| unknown())?;
                Ok(Self::OnFailure { most: Some(limits::check("restart", most, &RESTARTS)?) })
            }
            None | Some(_) => Err(unknown()),
        }
    }
}

impl TryFrom<String> for RestartPolicy {
    type Error = ServiceSyntaxError;

    fn try_from(text: String) -> Result<Self, ServiceSyntaxError> {
        text.parse()
    }
}

impl From<RestartPolicy> for String {
    fn from(policy: RestartPolicy) -> Self {
        policy.to_string()
    }
}

impl RestartPolicy {
    /// Whether a service is started again that has failed this often in a row.
    pub(crate) fn allows(self, failures: u64) -> bool {
        match self {
            Self::No => false,
            Self::OnFailure { most } => most.is_none_or(|most| failures <= most),
        }
    }
}

/// How long to wait before a service is started again that has failed this often in a row.
pub(crate) fn backoff(failures: u64) -> Duration {
    let doublings = u32::try_from(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    let factor = 2u32.checked_pow(doublings).unwrap_or(u32::MAX);
    limits::BACKOFF.start().saturating_mul(factor).min(*limits::BACKOFF.end())
}
