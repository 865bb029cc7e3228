//! `cargo xtask smoke`: the guest suite alone.

use anyhow::Result;

use crate::test;

/// The tests that boot real guests, and nothing else
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only tests whose names contain one of these
    filters: Vec<String>,
}

/// The same as `cargo xtask test --ring 3`.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    test::run(&test::Arguments::guests(&arguments.filters))
}
