//! `cargo xtask demo`: from a fresh clone to one command in a real guest.

use std::process::Command;

use anyhow::Result;

use crate::{env, guest, programs, setup, steps};

/// Set everything up and run `pyro demo`: one guest, one command, JSON with the result
#[derive(clap::Args)]
pub(crate) struct Arguments {}

/// Installs packages, builds pyro, the guest bundle and `debian:12` where they are missing, then runs the demo.
pub(crate) fn run(_: &Arguments) -> Result<()> {
    setup::run(&setup::Arguments::default())?;
    let pyro = programs::release()?;
    guest::build(&guest::Arguments::default())?;
    env::ensure("debian:12")?;
    steps::run("demo", Command::new(pyro).arg("demo"))
}
