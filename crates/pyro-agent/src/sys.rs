//! The system calls that have no safe form elsewhere.
#![allow(unsafe_code)]

mod kernel;
mod spawn;
mod vsock;

pub(crate) use kernel::{add_entropy, freeze, kill_all, loopback_up, thaw};
pub(crate) use spawn::{Program, Step, StepFault, spawn};
pub(crate) use vsock::{HOST_CID, accept, connect, listen, try_accept};
