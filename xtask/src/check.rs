//! `cargo xtask check`: every gate that needs no guest.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::counts::Counts;
use crate::suite::{self, BINARY_TIME, Ring, Settings};
use crate::{output, steps, tidy};

/// Format, lints, documentation, tidy, and the tests that need no guest
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Leave the tests out, for when `cargo xtask test` follows
    #[arg(long)]
    no_tests: bool,
}

/// Runs the gates in the order of their cost, and stops at the first that fails.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    steps::run("format", &mut steps::cargo(&["fmt", "--all", "--check"]))?;
    steps::call("tidy", tidy::check_tree)?;
    steps::run(
        "lints",
        &mut steps::cargo(&["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]),
    )?;
    steps::run(
        "documentation",
        steps::cargo(&["doc", "--workspace", "--no-deps", "--document-private-items"])
            .env("RUSTDOCFLAGS", "--deny warnings"),
    )?;
    dependencies()?;
    if arguments.no_tests {
        return Ok(());
    }
    Ok(run_tests()?.conclude()?)
}

/// Licences and sources of what is built in. The program takes as long to build as pyro does, and is not needed for
/// anything else: where it is not installed, that is told and nothing more.
fn dependencies() -> Result<()> {
    let is_there = steps::read(&mut steps::cargo(&["deny", "--version"])).is_ok();
    if !is_there {
        output::skip("dependencies", "cargo-deny is not installed: cargo install --locked cargo-deny");
        return Ok(());
    }
    steps::run(
        "dependencies",
        &mut steps::cargo(&["deny", "--offline", "check", "licenses", "bans", "sources"]),
    )
}

fn run_tests() -> Result<Counts> {
    let settings = Settings {
        filters: &[],
        variables: BTreeMap::new(),
        prefix: Vec::new(),
        words: Vec::new(),
        limit: BINARY_TIME,
    };
    let mut sum = Counts::default();
    for binary in suite::build()?.iter().filter(|binary| binary.ring < Ring::Guest) {
        sum += suite::run(binary, &settings)?;
    }
    sum += suite::run_doc_tests()?;
    Ok(sum)
}
