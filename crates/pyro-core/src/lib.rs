//! Disposable Linux machines for programs: run one command in a microVM.
//!
//! This crate joins the parts: environments (`pyro-oci`), the machine (`pyro-vmm`) and the agent in the
//! guest (`pyro-agent`). It reads no environment variable and no home directory and prints nothing: a
//! front end hands it a [`Config`] and shows what it returns.
//!
//! A machine lives as long as its supervisor, a process that the first command spawns. See [`machine`].
//!
//! [`workspace::Pyro`] is the way in for machines that are kept, [`machine::Machine`] for one that is thrown away:
//!
//! ```no_run
//! use pyro_core::Config;
//! use pyro_core::environments::Silent;
//! use pyro_core::exec::{ExecEvent, ExecRequest};
//! use pyro_core::workspace::{Captured, CreateWorkspace, Pyro, WorkspaceCommand};
//! use std::sync::Arc;
//!
//! # async fn example(config: Config) -> Result<(), Box<dyn std::error::Error>> {
//! let pyro = Pyro::open(config)?;
//! let made = pyro.create(&CreateWorkspace::new("debian:12"), Arc::new(Silent), &|_| ()).await?;
//! let id = made.workspace_id.as_str();
//!
//! let command = WorkspaceCommand { exec: ExecRequest::shell("uname -r"), shown_command: "uname -r".to_owned() };
//! let (running, _input, mut output) = pyro.exec(id, &command).await?;
//! let mut captured = Captured::default();
//! let exit = loop {
//!     match output.next().await? {
//!         ExecEvent::Stdout(bytes) => captured.stdout.extend(bytes),
//!         ExecEvent::Stderr(bytes) => captured.stderr.extend(bytes),
//!         ExecEvent::Exited(exit) => break exit,
//!     }
//! };
//! let record = running.finish(&exit, captured).await?;
//! println!("{} {}", record.exit_code, record.stdout);
//!
//! pyro.delete(id).await?;
//! # Ok(())
//! # }
//! ```
//!
//! `docs/sdk.md` tells what a front end has to bring along, and what stays as it is between versions.

pub mod authorities;
pub mod config;
pub mod doctor;
mod engine;
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
