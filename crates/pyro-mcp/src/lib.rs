//! pyro for models: tools over the Model Context Protocol, on standard streams or HTTP.
//!
//! Knows pyro-core and the protocol. It reads no environment variable and no arguments: who starts a server
//! says what it may do, see [`Grants`], and which tools it shows, see [`Surface`]. The model behind the
//! protocol is not trusted: its paths are held against roots, its networks against the grant, and every answer
//! is bounded.

mod bounded;
mod grants;
mod hints;
mod http;
pub mod limits;
mod progress;
mod project;
mod roots;
mod schema;
mod server;
mod surface;
mod tool;
mod tools;

pub use grants::{GrantError, Grants};
pub use http::{HttpError, HttpOptions, random_token, serve_http};
pub use project::{Project, ProjectError};
pub use server::{Options, ServeError, Server, serve_stdio};
pub use surface::{Mode, Profile, Surface, UnknownSurface};
