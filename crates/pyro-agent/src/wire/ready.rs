//! Messages about programs that go on running: whether they are ready, and what they use.

use super::GuestPath;
use serde::{Deserialize, Serialize};

/// What tells that something in the guest is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Probe {
    /// Something is at this path.
    File {
        /// An absolute path.
        path: GuestPath,
    },
    /// A connection is accepted.
    Tcp {
        /// An address, `localhost`, or a name that the guest's `/etc/hosts` has.
        host: String,
        /// The port.
        port: u16,
    },
    /// A GET is answered with a status from 200 to 399. A redirection is not followed.
    Http {
        /// As in `Tcp`.
        host: String,
        /// The port.
        port: u16,
        /// Path and query, as they stand in the request line.
        target: String,
    },
}

/// How the wait for a [`Probe`] went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readied {
    /// Whether it was ready in time.
    pub ready: bool,
    /// How often it was looked at.
    pub attempts: u64,
    /// What the last look found, where that was not readiness.
    pub problem: Option<String>,
}

/// What the processes of a running exec use together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time since the exec began, microseconds.
    pub cpu_us: u64,
    /// Memory, caches of files included; known of a confined exec.
    pub memory_bytes: Option<u64>,
    /// Processes and threads; known of a confined exec.
    pub task_count: Option<u64>,
}
