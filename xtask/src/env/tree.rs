//! One root file system as an archive, by mmdebstrap: as root where we are root, else without.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::recipe::{EPOCH, EXCLUDED};
use crate::output;

/// What a root file system is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contents<'a> {
    /// What people call it.
    pub(crate) name: &'a str,
    /// The suite of the Debian archive.
    pub(crate) suite: &'a str,
    /// Packages beside Debian's minimal base; what they depend on comes along.
    pub(crate) packages: &'a [&'a str],
    /// Options of dpkg beside those that every tree gets, such as paths to leave out.
    pub(crate) dpkg_options: &'a [&'a str],
}

/// Shell text run with the new tree as `$1`, after all packages are in.
///
/// The guest's init writes host name and resolver at every boot; an empty machine-id means "not set yet".
const FINISH: &[&str] = &[
    r#"chroot "$1" useradd --create-home --uid 1000 --user-group --shell /bin/bash pyro"#,
    r#"rm -f "$1"/etc/hostname "$1"/etc/resolv.conf "$1"/etc/ssh/ssh_host_*"#,
    r#": > "$1"/etc/machine-id"#,
    r#"rm -rf "$1"/var/log/*.log "$1"/var/log/apt/* "$1"/var/cache/ldconfig/aux-cache"#,
];

/// Builds `contents` from the archives in `sources` into `tar`, and lists its packages in `packages`.
///
/// The same packages give the same bytes: every time is [`EPOCH`], entries are sorted, nothing of this
/// machine is copied.
pub(crate) fn build(contents: Contents<'_>, sources: &str, tar: &Path, packages: &Path) -> Result<()> {
    let Contents { name, suite, packages: wanted, .. } = contents;
    output::step(&format!("{name}: mmdebstrap {suite} with {}", wanted.join(" ")));
    let started = Instant::now();
    let unfinished = tar.with_extension("tar.partial");
    let mut mmdebstrap = command(contents, &unfinished, packages);
    let mut child = mmdebstrap
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot run mmdebstrap; `cargo xtask setup` installs it")?;
    // mmdebstrap reads its sources to the end before it starts anything, so this cannot block.
    let written = child.stdin.take().context("mmdebstrap's input was piped")?.write_all(sources.as_bytes());
    let status = child.wait().context("cannot wait for mmdebstrap")?;
    output::done(name, started.elapsed());
    if !status.success() {
        std::fs::remove_file(&unfinished).ok();
        bail!("{name}: mmdebstrap failed ({status})");
    }
    written.context("cannot hand the sources to mmdebstrap")?;
    std::fs::rename(&unfinished, tar).with_context(|| format!("cannot write {}", tar.display()))
}

fn command(contents: Contents<'_>, tar: &Path, packages: &Path) -> Command {
    let mut command = Command::new("mmdebstrap");
    command
        .env("SOURCE_DATE_EPOCH", EPOCH)
        .env("PYRO_PACKAGES", packages)
        // Kernels among the packages get no initrd of Debian's: nobody here boots one.
        .env("INITRD", "No")
        .args(["--mode=auto", "--variant=minbase", "--format=tar", "--architectures=amd64"])
        .arg(format!("--include={}", contents.packages.join(",")));
    for option in EXCLUDED.iter().chain(contents.dpkg_options) {
        command.arg(format!("--dpkgopt={option}"));
    }
    for text in FINISH {
        command.arg(format!("--customize-hook={text}"));
    }
    command
        .arg(format!(
            "--customize-hook={}",
            r#"chroot "$1" dpkg-query --show --showformat='${Package}=${Version}\n' > "$PYRO_PACKAGES""#
        ))
        .arg(contents.suite)
        .arg(tar)
        .arg("-");
    command
}
