//! The yardstick: QEMU alone boots the same kernel to an init that powers off at once.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{guest, steps};

/// An init of two system calls: sync, then reboot(2) with its power-off command; microvm has no power-off
/// without ACPI, so the restart command ends QEMU there (`-no-reboot`).
const INIT: &str = r#"
.globl _start
_start:
    mov $169, %eax
    mov $0xfee1dead, %edi
    mov $0x28121969, %esi
    mov $0x01234567, %edx
    xor %r10d, %r10d
    syscall
    hlt
"#;

/// The command that boots `bundle`'s kernel with as much memory and as many CPUs as `pyro run` has by default.
pub(super) fn command(bundle: &Path, place: &Path) -> Result<Vec<OsString>> {
    let initramfs = place.join("bare.cpio");
    std::fs::write(&initramfs, guest::initramfs(&init(place)?))
        .with_context(|| format!("cannot write {}", initramfs.display()))?;
    let mut words: Vec<OsString> = "qemu-system-x86_64 -nodefaults -no-user-config -no-reboot -display none \
        -machine microvm,acpi=on,pit=off,pic=off,rtc=on -accel tcg,thread=single,tb-size=256 -cpu max -smp 1 -m 1024M"
        .split_whitespace()
        .map(OsString::from)
        .collect();
    let append = format!("quiet panic=-1 reboot=t pci=off mitigations=off {}", tsc());
    words.extend(["-append".into(), append.into()]);
    words.extend(["-kernel".into(), bundle.join("vmlinux").into()]);
    words.extend(["-initrd".into(), initramfs.into()]);
    Ok(words)
}

fn init(place: &Path) -> Result<Vec<u8>> {
    let (source, object, program) = (place.join("init.s"), place.join("init.o"), place.join("init"));
    std::fs::write(&source, INIT).with_context(|| format!("cannot write {}", source.display()))?;
    steps::read(Command::new("as").arg("-o").arg(&object).arg(&source))?;
    steps::read(Command::new("ld").arg("-o").arg(&program).arg(&object))?;
    std::fs::read(&program).with_context(|| format!("cannot read {}", program.display()))
}

/// The emulated clock runs at the host's rate; without this word the kernel measures it, in vain on a busy host.
fn tsc() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let megahertz = cpuinfo.lines().find_map(|line| line.strip_prefix("cpu MHz")?.split_once(": "));
    let megahertz = megahertz.and_then(|(_, number)| number.trim().parse::<f64>().ok());
    megahertz.map(|number| format!("tsc_early_khz={:.0}", number * 1000.0)).unwrap_or_default()
}
