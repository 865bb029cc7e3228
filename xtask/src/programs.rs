//! pyro's own programs, built as people get them.

use std::path::PathBuf;

use anyhow::Result;

use crate::{root, steps};

/// Builds `pyro` and `pyro-vmm` for release and returns the path of `pyro`.
pub(crate) fn release() -> Result<PathBuf> {
    steps::run(
        "build pyro",
        &mut steps::cargo(&["build", "--release", "--package", "pyro-cli", "--package", "pyro-vmm"]),
    )?;
    Ok(root::target().join("release/pyro"))
}
