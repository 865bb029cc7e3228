//! `cargo xtask setup`: the Debian packages that building and testing need.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::{output, steps};

/// Installs the Debian packages that are missing; when not root, names the one command that does
#[derive(clap::Args, Default)]
pub(crate) struct Arguments {}

/// Each package with what it is needed for. This is the only list of them.
const PACKAGES: &[(&str, &str)] = &[
    ("apache2-utils", "htpasswd: the registry tests log in"),
    ("bc", "kernel build"),
    ("bison", "kernel build"),
    ("build-essential", "compiler and linker: kernel build, crates with C in them"),
    ("curl", "tests of published ports ask as a user would"),
    ("docker-registry", "the registry tests and the replayed first run"),
    ("e2fsprogs", "e2fsck and debugfs check the file systems that pyro writes; the lab's disks"),
    ("fakechroot", "mmdebstrap without root where user namespaces are closed"),
    ("flex", "kernel build"),
    ("hyperfine", "benchmarks"),
    ("libelf-dev", "kernel build"),
    ("libssl-dev", "kernel build"),
    ("linux-source-6.12", "the guest kernel's source"),
    ("mmdebstrap", "makes the environments' file systems, and the lab's"),
    ("passt", "benchmarks: pasta beside the network stack"),
    ("python3-venv", "dist-check installs the wheel as its users do"),
    ("python3-pip", "the lab: fetches Firecracker's wheel"),
    ("qemu-system-x86", "the emulated engine's processors, and the lab's"),
    ("time", "benchmarks: peak memory"),
    ("uidmap", "mmdebstrap without root"),
    ("xz-utils", "unpacks the kernel's source, and the lab's kernel"),
];

/// Installs what is missing, or says how.
pub(crate) fn run(_: &Arguments) -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    for (package, reason) in PACKAGES.iter().filter(|(package, _)| missing.contains(package)) {
        output::note(&format!("missing: {package} ({reason})"));
    }
    install(&missing)
}

/// Installs Debian packages, or says how.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    if !is_root() {
        bail!(
            "{} Debian packages are missing; install them with\n\n    sudo apt-get update && sudo apt-get install --no-install-recommends -y {}\n",
            packages.len(),
            packages.join(" ")
        );
    }
    if !all_known(packages) {
        update_lists()?;
    }
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(packages);
    if apt("packages", &install).is_ok() {
        return Ok(());
    }
    // Old lists name files that the archive no longer has; with fresh ones the same command works.
    update_lists()?;
    apt("packages", &install)
}

/// Fetches apt's package lists anew.
pub(crate) fn update_lists() -> Result<()> {
    apt("package lists", &["update"])
}

fn missing() -> Vec<&'static str> {
    PACKAGES.iter().map(|(package, _)| *package).filter(|package| !is_installed(package)).collect()
}

fn is_installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status}", package])
        .stderr(Stdio::null())
        .output()
        .is_ok_and(|result| result.stdout == b"installed")
}

/// Whether apt's lists know every package: on a fresh machine they may be empty.
fn all_known(packages: &[&str]) -> bool {
    packages.iter().all(|package| {
        Command::new("apt-cache")
            .args(["show", "--no-all-versions", package])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}

/// Whether this process may install packages.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(Path::new("/proc/self")).is_ok_and(|own| own.uid() == 0)
}

fn apt(name: &str, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    steps::run(name, &mut command)
}
