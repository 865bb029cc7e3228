//! One file per command: its arguments, whose doc comments are the help, and one `run`.

pub(crate) mod byte_size;
pub(crate) mod command_line;
pub(crate) mod company;
pub(crate) mod completion;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod engine;
pub(crate) mod env;
pub(crate) mod fsck;
pub(crate) mod man;
pub(crate) mod mcp;
pub(crate) mod network;
pub(crate) mod run;
pub(crate) mod session;
pub(crate) mod workspace;
