//! pyro's own programs, built as people get them.

use std::path::PathBuf;

use anyhow::Result;

use crate::{root, steps};

const BUILD: [&str; 6] = ["build", "--release", "--package", "pyro-cli", "--package", "pyro-vmm"];
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds `pyro` and `pyro-vmm` for release and returns the path of `pyro`.
pub(crate) fn release() -> Result<PathBuf> {
    steps::run("build pyro", &mut steps::cargo(&BUILD))?;
    Ok(root::target().join("release/pyro"))
}

/// Builds both for other machines, without the paths of this one, and returns the directory that has them.
pub(crate) fn distributable() -> Result<PathBuf> {
    let mut cargo = steps::cargo(&BUILD);
    // A target of its own keeps these flags away from the builds of everyday work.
    cargo.args(["--target", TARGET, "--locked"]).env("CARGO_ENCODED_RUSTFLAGS", encoded(&path_flags()));
    let prefix_maps: Vec<String> =
        mapped_paths().map(|(path, name)| format!("-ffile-prefix-map={}={name}", path.display())).collect();
    cargo.env("CFLAGS", prefix_maps.join(" "));
    steps::run("build pyro for other machines", &mut cargo)?;
    Ok(root::target().join(TARGET).join("release"))
}

/// Flags of rustc that leave this machine's paths out of what it makes, so that every tree and user gets the same bytes.
pub(crate) fn path_flags() -> Vec<String> {
    mapped_paths().map(|(path, name)| format!("--remap-path-prefix={}={name}", path.display())).collect()
}

/// Flags as cargo reads them from a variable: paths may hold spaces.
pub(crate) fn encoded(flags: &[String]) -> String {
    flags.join("\u{1f}")
}

/// Where sources are here, and what they are called in programs.
fn mapped_paths() -> impl Iterator<Item = (PathBuf, &'static str)> {
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    [(cargo_home, "/cargo"), (Some(root::workspace()), "/pyro")]
        .into_iter()
        .filter_map(|(path, name)| Some((path?, name)))
}
