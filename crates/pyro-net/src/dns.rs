//! The gateway as the only name server: the wire format, addresses given to allowed names, and whom it asks.

mod pinned;
mod records;
mod resolver;
mod servers;
mod synthetic;
mod wire;

pub(crate) use pinned::Pinned;
pub use records::Record;
pub(crate) use records::{Response, is_known, parse_response};
pub use resolver::{Found, HostResolver, ResolveError, Resolver, Ticket, Wanted};
pub(crate) use synthetic::Synthetic;
pub use wire::{Answer, Malformed, Question, RecordKind};
