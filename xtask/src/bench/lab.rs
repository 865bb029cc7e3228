//! The native engine beside Firecracker in the lab, where time counts instructions: one thousand million a second.
//!
//! Same kernel, initramfs, disk image and virtio devices, one vCPU, 256 MiB. Firecracker has its own words for the
//! kernel (no serial console), its filter of system calls and no jailer; pyro its own words (a serial console), and all
//! of its jail.
//! An entry of the guest costs an emulated processor one instruction, and eight copied bytes two: exits cost less here
//! than on a real processor, copies more.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::table::{Bound, Table};
use crate::{env, guest, lab, output, programs, root, steps};

/// Firecracker and QEMU boot it as their root, pyro as the image below a layer.
const DISK_BYTES: usize = 64 << 20;
/// QEMU's microvm has no timer that needs no calibration: a tenth of a second by the processor's counter
/// (`calibrate_APIC_clock` in Linux).
const CALIBRATION: f64 = 100e6;
/// What is measured, each in an L1 of its own.
const PARTS: [&str; 3] = ["boots", "loads", "run"];
/// Several times what a part takes.
const PART_LIMIT_SECONDS: u32 = 600;
/// QEMU's emulator now and then delivers an interrupt to a guest of L1 twice, which a kernel may hang of (docs/lab.md).
const ATTEMPTS: u32 = 5;
/// What is compared by its rate, guest to host and back.
const RATES: [(&str, &str); 9] = [
    ("read-sequential", "disk, 1 MiB reads in sequence"),
    ("read-random", "disk, 4 KiB reads here and there"),
    ("write-sequential", "disk, 1 MiB writes in sequence, blocks that the image has"),
    ("write-new", "disk, 1 MiB writes in sequence, a hole of the image"),
    ("write-random", "disk, 4 KiB writes here and there"),
    ("rewrite-sequential", "disk, 1 MiB writes in sequence, again"),
    ("rewrite-random", "disk, 4 KiB writes here and there, again"),
    ("vsock-to-host", "vsock, guest to host"),
    ("vsock-to-guest", "vsock, host to guest"),
];

/// Measures both and prints the table.
pub(super) fn run() -> Result<()> {
    let pyro = programs::release()?;
    let example = ["build", "--release", "--package", "pyro-vmm", "--example", "lab_bench"];
    steps::run("build the measuring program", &mut steps::cargo(&example))?;
    let place = root::target().join("bench");
    fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
    let (initramfs, disk) = (place.join("lab.cpio"), place.join("lab.img"));
    write(&initramfs, &guest::initramfs(&init(&place)?))?;
    // Without holes; the measuring program adds one.
    write(&disk, &b"pyro".repeat(DISK_BYTES / 4))?;
    let files = Files {
        program: root::target().join("release/examples/lab_bench"),
        vmm: pyro.with_file_name("pyro-vmm"),
        pyro,
        firecracker: lab::firecracker()?,
        bundle: guest::build(&guest::Arguments::default())?.directory,
        environments: env::ensure("debian:12")?,
        initramfs,
        disk,
    };
    let microvm = microvm_counter(&files)?;
    let figures = Figures::parse(&files.measure()?);
    let mut table = Table::new("QEMU's emulator with KVM in it; a second is 10^9 instructions".to_owned());
    figures.judge(microvm, &mut table);
    table.lines().iter().for_each(|line| output::line(line));
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

fn init(place: &Path) -> Result<Vec<u8>> {
    let program = place.join("speed-init");
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--edition=2024", "-Copt-level=2", "-Ctarget-feature=+crt-static", "-Cpanic=abort"]);
    rustc.args(["--target=x86_64-unknown-linux-gnu", "-Cstrip=symbols", "-o"]).arg(&program);
    rustc.arg("crates/pyro-vmm/tests/guest/speed_init.rs").current_dir(root::workspace());
    steps::run("init that is measured", &mut rustc)?;
    fs::read(&program).with_context(|| format!("cannot read {}", program.display()))
}

/// What L1 gets.
struct Files {
    program: PathBuf,
    vmm: PathBuf,
    pyro: PathBuf,
    firecracker: PathBuf,
    bundle: PathBuf,
    environments: PathBuf,
    initramfs: PathBuf,
    disk: PathBuf,
}

impl Files {
    /// Runs all parts, and returns what was printed.
    fn measure(&self) -> Result<String> {
        let mut text = String::new();
        for part in PARTS {
            text += &steps::call(&format!("measure {part} in the lab"), || self.measure_part(part))?;
        }
        write(&root::target().join("bench/lab.txt"), text.as_bytes())?;
        Ok(text)
    }

    fn measure_part(&self, part: &str) -> Result<String> {
        for _ in 1..ATTEMPTS {
            match steps::read(&mut self.command(part)?) {
                Ok(text) => return Ok(text),
                Err(error) if is_late(&error) => output::note(&format!("{part} once more: its time was up")),
                Err(error) => return Err(error),
            }
        }
        steps::read(&mut self.command(part)?)
    }

    fn command(&self, part: &str) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
        command.args(["lab", "run", "--icount", "--timeout", &PART_LIMIT_SECONDS.to_string()]);
        let all = [
            &self.program,
            &self.vmm,
            &self.pyro,
            &self.firecracker,
            &self.bundle,
            &self.environments,
            &self.initramfs,
            &self.disk,
        ];
        for path in all {
            command.arg("--pack").arg(path);
        }
        command.args(["--", "bash", "-c", MEASURE, "measure"]);
        command.args([&self.program, &self.vmm, &self.firecracker]);
        command.args([&self.bundle.join("vmlinux"), &self.initramfs, &self.disk]);
        command.args([&self.pyro, &self.bundle, &self.environments]).arg(part);
        Ok(command)
    }
}

fn is_late(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<steps::Failed>()
        .is_some_and(|failed| failed.status.code() == Some(lab::TIME_UP.into()))
}

/// As root: opens KVM's counts and tracepoints to the ordinary user, who measures.
const MEASURE: &str = r##"
set -e
mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug
chmod a+rx /sys/kernel/debug
mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing
cd /sys/kernel/tracing
chmod a+rx . events events/kvm events/kvm/kvm_entry events/kvm/kvm_exit
chmod a+rw tracing_on trace trace_clock buffer_size_kb events/kvm/kvm_entry/enable events/kvm/kvm_exit/enable
chown -R pyro:pyro /scratch/pack 2> /dev/null || :
cat > /tmp/measure <<'SCRIPT'
set -e
[ "${10}" = run ] || exec "$1" "$2" "$3" "$4" "$5" "$6" "${10}"
export PYRO_RUNTIME_BUNDLE_DIR="$8" PYRO_ENVIRONMENT_CACHE_DIR="$9"
for run in cold warm first second; do
    begin=${EPOCHREALTIME/./}
    "$7" run debian:12 --mem-mib 256 -- true
    end=${EPOCHREALTIME/./}
    echo "# pyro run, $run: $((end - begin)) us"
done
echo "pyro run-ms $(((end - begin) / 1000)).$(printf %03d $(((end - begin) % 1000)))"
SCRIPT
cd /tmp
export HOME=/home/pyro USER=pyro
exec setpriv --reuid=pyro --regid=pyro --init-groups --inh-caps=-all bash /tmp/measure "$@"
"##;

/// The guest's counter at init under QEMU alone, with time that counts instructions, without the calibration.
fn microvm_counter(files: &Files) -> Result<f64> {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
    qemu.args(["-cpu", lab::COUNTED_PROCESSOR]);
    qemu.args(["-machine", "microvm,acpi=on,pit=off,pic=off,rtc=on", "-accel", "tcg,thread=single"]);
    qemu.args(["-icount", "shift=0,sleep=off", "-seed", "1", "-smp", "1", "-m", "256M", "-serial", "stdio"]);
    qemu.args(["-append", "console=ttyS0 quiet loglevel=1 panic=-1 reboot=t pci=off tsc_early_khz=1000000"]);
    qemu.arg("-kernel").arg(files.bundle.join("vmlinux")).arg("-initrd").arg(&files.initramfs);
    let text = steps::read(&mut qemu)?;
    let counter = text.lines().find_map(|line| line.trim().strip_prefix("counter "));
    let counter: f64 = counter.context("the guest of QEMU's microvm tells no counter")?.parse()?;
    Ok(counter - CALIBRATION)
}

/// What was measured, by side and name.
struct Figures(BTreeMap<(String, String), f64>);

impl Figures {
    /// Lines `SIDE NAME VALUE`; what begins with `#` is for people.
    fn parse(text: &str) -> Self {
        let figure = |line: &str| {
            let mut words = line.split_whitespace();
            let (side, name, value) = (words.next()?, words.next()?, words.next()?.parse().ok()?);
            (side != "#").then(|| ((side.to_owned(), name.to_owned()), value))
        };
        Self(text.lines().filter_map(figure).collect())
    }

    fn get(&self, side: &str, name: &str) -> Option<f64> {
        self.0.get(&(side.to_owned(), name.to_owned())).copied()
    }

    /// Ours and Firecracker's.
    fn pair(&self, name: &str) -> Option<(f64, f64)> {
        self.get("pyro", name).zip(self.get("firecracker", name))
    }

    fn judge(&self, microvm: f64, table: &mut Table) {
        self.compare(table, "init-ms", "process start to init", "ms", Bound::AtMost(0.8));
        self.compare(table, "end-ms", "process start to its end, init ends it at once", "ms", Bound::None);
        if let Some((ours, theirs)) = self.pair("guest-instructions") {
            table.add("guest instructions to init, pyro", ours / 1e6, "million", Bound::None);
            table.add("guest instructions to init, Firecracker", theirs / 1e6, "million", Bound::None);
            table.add("guest instructions to init, microvm", microvm / 1e6, "million", Bound::None);
            table.add("pyro : microvm", ours / microvm, "", Bound::AtMost(1.05));
        } else {
            table.missing("guest instructions to init", "no trace");
        }
        self.compare(table, "exits", "KVM exits to init", "", Bound::AtMost(1.0));
        for name in ["io_exits", "mmio_exits", "halt_exits", "irq_exits", "insn_emulation", "pf_taken"] {
            self.compare(table, name, name, "", Bound::None);
        }
        for (name, label) in RATES {
            self.compare(table, name, label, "MiB/s", Bound::AtLeast(1.0));
        }
        let run = self.get("pyro", "run-ms").zip(self.get("firecracker", "end-ms"));
        match run {
            Some((ours, theirs)) => {
                table.add("pyro run debian:12 --mem-mib 256 -- true", ours, "ms", Bound::None);
                table.add("pyro run : Firecracker's start to end", ours / theirs, "", Bound::AtMost(1.0));
            }
            None => table.missing("pyro run debian:12 --mem-mib 256 -- true", "not measured"),
        }
    }

    fn compare(&self, table: &mut Table, name: &str, label: &str, unit: &str, ratio: Bound) {
        let Some((ours, theirs)) = self.pair(name) else {
            return table.missing(label, "not measured on both sides");
        };
        table.add(&format!("{label}, pyro"), ours, unit, Bound::None);
        table.add(&format!("{label}, Firecracker"), theirs, unit, Bound::None);
        if theirs > 0.0 {
            table.add("pyro : Firecracker", ours / theirs, "", ratio);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_and_remarks_are_not() {
        let figures = Figures::parse("pyro init-ms 80\n# pyro init-ms 90\nfirecracker init-ms 100\n\n");
        assert_eq!(figures.pair("init-ms"), Some((80.0, 100.0)));
        assert_eq!(figures.pair("end-ms"), None);
        let mut table = Table::new(String::new());
        figures.judge(1.0, &mut table);
        assert!(table.lines().iter().any(|line| line.contains("0.80") && line.contains("met")));
    }
}
