//! One root file system as an archive, by mmdebstrap: as root where we are root, else without.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::recipe::{EPOCH, EXCLUDED, Recipe};
use crate::output;

/// Shell text run with the new tree as `$1`, after all packages are in.
///
/// The guest's init writes host name and resolver at every boot; an empty machine-id means "not set yet".
const FINISH: &[&str] = &[
    r#"chroot "$1" useradd --create-home --uid 1000 --user-group --shell /bin/bash pyro"#,
    r#"rm -f "$1"/etc/hostname "$1"/etc/resolv.conf "$1"/etc/ssh/ssh_host_*"#,
    r#": > "$1"/etc/machine-id"#,
    r#"rm -rf "$1"/var/log/*.log "$1"/var/log/apt/* "$1"/var/cache/ldconfig/aux-cache"#,
];

/// Builds `recipe` from the archives in `sources` into `tar`, and lists its packages in `packages`.
///
/// The same packages give the same bytes: every time is [`EPOCH`], entries are sorted, nothing of this
/// machine is copied.
pub(super) fn build(recipe: &Recipe, sources: &str, tar: &Path, packages: &Path) -> Result<()> {
    output::step(&format!("{}: mmdebstrap {} with {}", recipe.name, recipe.suite, recipe.packages.join(" ")));
    let started = Instant::now();
    let unfinished = tar.with_extension("tar.partial");
    let mut mmdebstrap = command(recipe, &unfinished, packages);
    let mut child = mmdebstrap
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot run mmdebstrap; `cargo xtask setup` installs it")?;
    // mmdebstrap reads its sources to the end before it starts anything, so this cannot block.
    let written = child.stdin.take().context("mmdebstrap's input was piped")?.write_all(sources.as_bytes());
    let status = child.wait().context("cannot wait for mmdebstrap")?;
    output::done(recipe.name, started.elapsed());
    if !status.success() {
        std::fs::remove_file(&unfinished).ok();
        bail!("{}: mmdebstrap failed ({status})", recipe.name);
    }
    written.context("cannot hand the sources to mmdebstrap")?;
    std::fs::rename(&unfinished, tar).with_context(|| format!("cannot write {}", tar.display()))
}

fn command(recipe: &Recipe, tar: &Path, packages: &Path) -> Command {
    let mut command = Command::new("mmdebstrap");
    command
        .env("SOURCE_DATE_EPOCH", EPOCH)
        .env("PYRO_PACKAGES", packages)
        .args(["--mode=auto", "--variant=minbase", "--format=tar", "--architectures=amd64"])
        .arg(format!("--include={}", recipe.packages.join(",")));
    for path in EXCLUDED {
        command.arg(format!("--dpkgopt={path}"));
    }
    for text in FINISH {
        command.arg(format!("--customize-hook={text}"));
    }
    command
        .arg(format!(
            "--customize-hook={}",
            r#"chroot "$1" dpkg-query --show --showformat='${Package}=${Version}\n' > "$PYRO_PACKAGES""#
        ))
        .arg(recipe.suite)
        .arg(tar)
        .arg("-");
    command
}
