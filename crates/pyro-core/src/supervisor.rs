//! The process that owns one machine: it spawns the jailed `pyro-vmm`, waits for the agent, hands out
//! streams into the guest, enforces the time to live, and ends with its machine. A one-shot machine ends with
//! its client, a workspace's outlives its clients once the workspace has been made.
//!
//! It is the same executable as the front end, started with the supervisor command of
//! [`Config`](crate::Config), its standard input being the control socket. When it dies, however it dies, the
//! kernel ends the machine's processes and frees everything they held.
//!
//! ```text
//! Start -> Booting --agent ready--> Running --Stop | abandoned | expired | machine exit--> Ended
//! ```

mod boot;
mod client;
mod detached;
mod network;
mod ports;
pub mod protocol;
mod serve;
mod services;
pub(crate) mod shells;
mod supervised;

pub use serve::serve_stdin;
