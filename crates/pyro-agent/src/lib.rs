//! The wire format between the host and `pyro-agent`, PID 1 of every guest.
//!
//! This library knows bytes only: no sockets, no clock, no files. The host (pyro-core) and the agent's
//! binary both speak through it. It must not know machines, environments or workspaces.
//!
//! One operation is one vsock connection to [`wire::AGENT_PORT`]: the host sends one
//! [`wire::Request`] frame, then host and agent exchange the operation's own frames until the agent
//! sends [`wire::FrameKind::Exit`], [`wire::FrameKind::Reply`] or [`wire::FrameKind::Error`] and closes.

pub mod redact;
pub mod wire;
