//! The gateway as the only name server: the wire format, addresses given to allowed names, and whom it asks.

mod pinned;
mod resolver;
mod synthetic;
mod wire;

pub(crate) use pinned::Pinned;
pub use resolver::{HostResolver, ResolveError, Resolver, Ticket};
pub(crate) use synthetic::Synthetic;
pub use wire::{Answer, Malformed, Question, RecordKind};
