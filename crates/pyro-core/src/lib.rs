//! Disposable Linux machines for programs: run one command in a microVM.
//!
//! This crate joins the parts: environments (`pyro-oci`), the machine (`pyro-vmm`) and the agent in the
//! guest (`pyro-agent`). It reads no environment variable and no home directory and prints nothing: a
//! front end hands it a [`Config`] and shows what it returns.
//!
//! A machine lives as long as its supervisor, a process that the first command spawns. See [`machine`].

pub mod authorities;
pub mod config;
pub mod doctor;
pub mod environments;
pub mod exec;
#[doc(hidden)]
pub mod faults;
pub mod guest;
pub mod guest_bundle;
pub mod limits;
pub mod machine;
pub mod network;
mod packet;
mod places;
pub mod problem;
mod service_logs;
pub mod services;
pub mod store;
pub mod supervisor;
mod sys;
pub mod terminal;
pub mod transfer;
pub mod workspace;

pub use config::Config;
pub use problem::{Blame, Explain, Problem};
