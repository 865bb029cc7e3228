//! The process that owns one machine: it spawns the jailed `pyro-vmm`, waits for the agent, hands out
//! streams into the guest, enforces the time to live, and ends with its machine or its client.
//!
//! It is the same executable as the front end, started with the supervisor command of
//! [`Config`](crate::Config), its standard input being the control socket. When it dies, however it dies, the
//! kernel ends the machine's processes and frees everything they held.
//!
//! ```text
//! Start -> Booting --agent ready--> Running --Stop | client gone | expired | machine exit--> Ended
//! ```

mod boot;
mod client;
mod detached;
pub mod protocol;
mod serve;
mod supervised;

pub use serve::serve_stdin;
