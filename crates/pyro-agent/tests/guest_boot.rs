//! The agent as PID 1 under QEMU's emulator with QEMU's own disk: no vsock, so what it says on the console is
//! what can be seen. Everything that needs the host's side is tested where both sides are.
// Test code outside of `#[test]` functions, which clippy cannot tell.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs::File;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Emulated boots take under a second on an idle machine; a loaded one may be twenty times slower.
const PATIENCE: Duration = Duration::from_secs(90);

/// The bundle that `cargo xtask guest` made, or why there is none.
fn bundle() -> Result<PathBuf, String> {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest");
    let bundle = std::env::var_os("PYRO_RUNTIME_BUNDLE_DIR").map_or(made, PathBuf::from);
    if !bundle.join("vmlinux").is_file() {
        return Err(format!("no guest bundle in {}", bundle.display()));
    }
    for program in ["qemu-system-x86_64", "mke2fs"] {
        let found = Command::new(program).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if found.is_err() {
            return Err(format!("no {program}"));
        }
    }
    Ok(bundle)
}

/// The bundle, unless the test is to be skipped.
fn bundle_or_skip() -> Option<PathBuf> {
    match bundle() {
        Ok(bundle) => Some(bundle),
        Err(reason) => {
            let required = std::env::var("PYRO_REQUIRE").unwrap_or_default();
            assert!(!required.split(',').any(|word| word == "guest"), "a guest is required: {reason}");
            println!("skipped ({reason})");
            None
        }
    }
}

/// A running QEMU, killed when dropped, and its console as it comes.
struct Guest {
    qemu: Child,
    lines: mpsc::Receiver<Vec<u8>>,
    console: String,
}

impl Guest {
    fn boot(bundle: &Path, disk: Option<&Path>) -> Self {
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-M", "microvm,acpi=on,accel=tcg,x-option-roms=off", "-cpu", "max", "-m", "256"])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"])
            .args(["-global", "virtio-mmio.force-legacy=false"])
            .arg("-kernel")
            .arg(bundle.join("vmlinux"))
            .arg("-initrd")
            .arg(bundle.join("initramfs.cpio"))
            .arg("-append")
            .arg(command_line());
        if let Some(disk) = disk {
            let drive = format!("file={},if=none,id=root,format=raw", disk.display());
            command.args(["-drive", &drive, "-device", "virtio-blk-device,drive=root"]);
        }
        let mut qemu =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let mut output = qemu.stdout.take().unwrap();
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(len @ 1..) = output.read(&mut chunk) {
                if sender.send(chunk[..len].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { qemu, lines, console: String::new() }
    }

    /// Waits for a text on the console.
    fn expect(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.console.contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(chunk) => self.console.push_str(&String::from_utf8_lossy(&chunk)),
                Err(error) => panic!("{error} before {text:?}; the console:\n{}", self.console),
            }
        }
    }

    /// Waits until the machine has switched itself off.
    fn expect_off(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(chunk) => self.console.push_str(&String::from_utf8_lossy(&chunk)),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(error) => panic!("{error} before the end; the console:\n{}", self.console),
            }
        }
        assert!(self.qemu.wait().unwrap().success());
        assert!(!self.console.contains("panic"), "{}", self.console);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

fn command_line() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mhz =
        cpus.lines().find_map(|line| line.strip_prefix("cpu MHz")?.split_once(':')?.1.trim().parse().ok());
    let tsc = mhz.map(|mhz: f64| format!(" tsc_early_khz={}", mhz * 1000.0)).unwrap_or_default();
    format!("console=ttyS0 quiet panic=-1 pci=off rcupdate.rcu_expedited=1{tsc}")
}

#[test]
fn the_agent_boots_from_a_disk_that_holds_nothing() {
    let Some(bundle) = bundle_or_skip() else { return };
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().join("root.ext4");
    let made = Command::new("mke2fs").args(["-q", "-t", "ext4"]).arg(&disk).arg("16M").status().unwrap();
    assert!(made.success());
    let mut guest = Guest::boot(&bundle, Some(&disk));
    guest.expect("pyro-agent: ready after ");
    assert!(!guest.console.contains("warning"), "{}", guest.console);
}

#[test]
fn a_disk_without_a_file_system_is_told_and_the_machine_goes_off() {
    let Some(bundle) = bundle_or_skip() else { return };
    let mut disk = tempfile::NamedTempFile::new().unwrap();
    disk.write_all(&vec![0xa5; 1 << 20]).unwrap();
    let mut guest = Guest::boot(&bundle, Some(disk.path()));
    guest.expect("pyro-agent: error: cannot mount the root disk /dev/vda as ext4");
    guest.expect_off();
}

#[test]
fn a_missing_disk_is_told_and_the_machine_goes_off() {
    let Some(bundle) = bundle_or_skip() else { return };
    let mut guest = Guest::boot(&bundle, None);
    guest.expect("pyro-agent: error: no root disk: /dev/vda did not appear");
    guest.expect_off();
}

#[test]
fn the_bundles_kernel_is_of_this_machine_and_its_manifest_tells_the_protocol() {
    let Some(bundle) = bundle_or_skip() else { return };
    let mut magic = [0; 20];
    File::open(bundle.join("vmlinux")).unwrap().read_exact(&mut magic).unwrap();
    assert_eq!((&magic[..4], magic[18]), (&b"\x7fELF"[..], 62));
    let manifest = std::fs::read(bundle.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["protocol"], pyro_agent::wire::VERSION);
    assert!(manifest["kernel_source"].as_str().unwrap().contains("linux-source-6.12"));
}
