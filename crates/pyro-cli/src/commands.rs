//! One file per command: its arguments, whose doc comments are the help, and one `run`.

pub(crate) mod completion;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod env;
pub(crate) mod run;
