//! Every bound, and why there.

use std::time::Duration;

/// Connections of one port at a time: what a load test opens.
pub(crate) const CONNECTIONS: usize = 1024;
/// Connections that the kernel may hold until there is room; it has a bound of its own (`somaxconn`).
pub(crate) const BACKLOG: u32 = 1024;
/// Longer than browsers and database clients leave a connection unused, and than keep-alive probes of
/// protocols that have them.
pub(crate) const IDLE: Duration = Duration::from_secs(3600);
/// A guest on a busy machine may be slow to answer.
pub(crate) const CONNECT_DEADLINE: Duration = Duration::from_secs(15);
/// Bytes under way in each direction of a connection.
pub(crate) const COPY_BYTES: usize = 64 << 10;
/// How soon the next connection is accepted after that failed.
pub(crate) const ACCEPT_RETRY: Duration = Duration::from_millis(100);
