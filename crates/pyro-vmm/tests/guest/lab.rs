//! What the guest tests share: a kernel, a tiny init, machines.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pyro_vmm::engine::{EngineChoice, choose, probe_kvm};
use pyro_vmm::{DiskSpec, EngineSpec, Event, ExitReason, Machine, MachineSpec, SeccompAction, Started};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Under emulation on a busy machine a boot may take many times its usual second.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two looks at what can only be looked at.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);
/// Size of the test disk: 64 MiB, its first block marked.
pub(crate) const DISK_BYTES: u64 = 64 << 20;
/// The first bytes of the test disk.
pub(crate) const DISK_MARK: &[u8; 16] = b"pyro test disk 1";

/// What every guest test needs.
pub(crate) struct Lab {
    kernel: PathBuf,
    initramfs: tempfile::TempDir,
    engine: EngineSpec,
}

impl Lab {
    /// `None`, said aloud, where something is missing.
    pub(crate) fn open() -> Option<Self> {
        let Some(kernel) = kernel() else {
            return skip("no guest kernel: set PYRO_TEST_KERNEL or PYRO_RUNTIME_BUNDLE_DIR");
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let vmm_binary = Path::new(env!("CARGO_BIN_EXE_pyro-vmm"));
        let engine = match choose(engine_choice(), &path, || probe_kvm(vmm_binary)) {
            Ok(chosen) => chosen.engine,
            Err(error) => return skip(&error.to_string()),
        };
        let directory = tempfile::tempdir().unwrap();
        let init = compile_init(directory.path());
        let archive = cpio(&[("init", &std::fs::read(init).unwrap())]);
        std::fs::write(directory.path().join("initramfs"), archive).unwrap();
        Some(Self { kernel, initramfs: directory, engine })
    }

    /// Whether vCPUs are threads of the machine's process.
    pub(crate) fn is_native(&self) -> bool {
        matches!(self.engine, EngineSpec::Kvm)
    }

    /// How many processes a machine has beside its own.
    pub(crate) fn engine_processes(&self) -> usize {
        usize::from(!self.is_native())
    }

    /// A machine whose init does `test`.
    pub(crate) fn start(&self, test: &str) -> Running {
        self.start_with(test, |_| {})
    }

    /// The same with a changed specification.
    pub(crate) fn start_with(&self, test: &str, change: impl FnOnce(&mut MachineSpec)) -> Running {
        let mut spec = self.spec(test);
        change(&mut spec);
        let machine = Machine::spawn(spec).unwrap();
        Running { machine, started: None, ended: None, replaced: None, paused: false }
    }

    /// The same kernel and init under bare QEMU, without any of our devices, from its start to its end; `None` where
    /// the engine is another.
    pub(crate) fn bare_run(&self, test: &str) -> Option<Duration> {
        let EngineSpec::Emulated { qemu } = &self.engine else { return None };
        let rate = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let rate = rate.lines().find_map(|line| line.strip_prefix("cpu MHz")).unwrap();
        let khz = rate.trim_start_matches(['\t', ' ', ':']).replace('.', "");
        let started = Instant::now();
        let status = Command::new(qemu)
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-m", "256M"])
            .args(["-machine", "microvm,acpi=on,pit=off,pic=off,rtc=on", "-accel", "tcg", "-cpu", "max"])
            .args(["-kernel".as_ref(), self.kernel.as_os_str(), "-initrd".as_ref()])
            .arg(self.initramfs.path().join("initramfs"))
            .args(["-serial", "null", "-append"])
            .arg(format!(
                "console=ttyS0 quiet loglevel=1 panic=-1 reboot=t pci=off tsc_early_khz={khz} TEST={test}"
            ))
            .stdin(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
        Some(started.elapsed())
    }

    fn spec(&self, test: &str) -> MachineSpec {
        let mut base = tempfile::tempfile().unwrap();
        base.write_all(DISK_MARK).unwrap();
        base.set_len(DISK_BYTES).unwrap();
        MachineSpec {
            vmm_binary: PathBuf::from(env!("CARGO_BIN_EXE_pyro-vmm")),
            engine: self.engine.clone(),
            vcpu_count: 1,
            mem_mib: 256,
            kernel: File::open(&self.kernel).unwrap(),
            initramfs: File::open(self.initramfs.path().join("initramfs")).unwrap(),
            disk: DiskSpec {
                base,
                sealed: Vec::new(),
                delta: tempfile::tempfile().unwrap(),
                size_bytes: None,
                limit_bytes: None,
            },
            network: None,
            guest_cid: 3,
            host_ports: vec![5006],
            boot_args: vec![format!("TEST={test}")],
            // Says which call it was before it ends.
            seccomp: SeccompAction::Trap,
            log: std::io::stderr().try_clone_file(),
        }
    }
}

/// `PYRO_ENGINE`, as the product reads it.
fn engine_choice() -> EngineChoice {
    match std::env::var("PYRO_ENGINE").as_deref() {
        Ok("kvm") => EngineChoice::Kvm,
        Ok("emulated") => EngineChoice::Emulated,
        Ok("auto") | Err(_) => EngineChoice::Auto,
        Ok(other) => panic!("PYRO_ENGINE is `{other}`"),
    }
}

trait TryCloneFile {
    fn try_clone_file(&self) -> Option<File>;
}

impl TryCloneFile for std::io::Stderr {
    fn try_clone_file(&self) -> Option<File> {
        use std::os::fd::AsFd;
        self.as_fd().try_clone_to_owned().ok().map(File::from)
    }
}

/// A machine under test.
pub(crate) struct Running {
    pub(crate) machine: Machine,
    started: Option<Started>,
    ended: Option<(ExitReason, Vec<u8>)>,
    replaced: Option<Result<(), String>>,
    paused: bool,
}

impl Running {
    /// Waits for the machine's start; fails when it does not.
    pub(crate) fn started(&mut self) -> Started {
        while self.started.is_none() {
            self.take_event();
            assert!(self.ended.is_none() || self.started.is_some(), "did not start: {:?}", self.ended);
        }
        self.started.clone().unwrap()
    }

    /// Waits for the machine's end: why, and the console's last output.
    pub(crate) fn ended(&mut self) -> (ExitReason, Vec<u8>) {
        while self.ended.is_none() {
            self.take_event();
        }
        self.ended.clone().unwrap()
    }

    /// Waits until the guest says that it serves: its words.
    pub(crate) fn ready(&mut self) -> String {
        wait_readable(self.machine.channel());
        let accepted = self.machine.channel().try_accept();
        let Ok(Some((port, stream))) = accepted else { panic!("{accepted:?}: {:?}", self.ended()) };
        assert_eq!(port, 5006);
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line
    }

    /// A stream to the guest that starts with an order of the test init.
    pub(crate) fn operate(&self, operation: char, total: u64, chunk: u64) -> UnixStream {
        let mut stream = self.machine.channel().connect(5005).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut order = vec![operation as u8];
        order.extend_from_slice(&total.to_le_bytes());
        order.extend_from_slice(&chunk.to_le_bytes());
        stream.write_all(&order).unwrap();
        stream
    }

    /// Does an operation on the disk and tells the guest's answer.
    pub(crate) fn disk(&self, operation: char, len: u64, at: u64) -> String {
        let mut text = String::new();
        self.operate(operation, len, at).read_to_string(&mut text).unwrap();
        text
    }

    /// Seals the disk's layer and goes on in another file.
    pub(crate) fn replace_delta(&mut self, new: &File) -> Result<(), String> {
        self.machine.replace_delta(new).unwrap();
        while self.replaced.is_none() {
            self.take_event();
            assert!(self.ended.is_none(), "the machine ended: {:?}", self.ended);
        }
        self.replaced.take().unwrap()
    }

    /// The guest sends the pattern.
    pub(crate) fn receive_pattern(&self, total: u64, chunk: u64) {
        let mut stream = self.operate('s', total, chunk);
        expect_pattern(&mut stream, total);
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }

    /// The guest receives the pattern and checks it.
    pub(crate) fn send_pattern(&self, total: u64, chunk: u64) {
        let mut stream = self.operate('r', total, chunk.max(512));
        write_pattern(&mut stream, total, chunk);
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "intact");
    }

    /// The guest sends the pattern back while it receives it.
    pub(crate) fn echo_pattern(&self, total: u64, chunk: u64) {
        let mut stream = self.operate('e', 0, 0);
        let mut writer = stream.try_clone().unwrap();
        let sender = std::thread::spawn(move || {
            write_pattern(&mut writer, total, chunk);
            writer.shutdown(std::net::Shutdown::Write).unwrap();
        });
        expect_pattern(&mut stream, total);
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        sender.join().unwrap();
    }

    fn take_event(&mut self) {
        wait_readable(&self.machine.events_fd());
        match self.machine.try_next_event() {
            Some(Event::Started(started)) => self.started = Some(started),
            Some(Event::Exited { reason, console_tail }) => self.ended = Some((reason, console_tail)),
            Some(Event::DeltaReplaced { error }) => self.replaced = Some(error.map_or(Ok(()), Err)),
            Some(Event::Paused) => self.paused = true,
            Some(Event::Resumed) => self.paused = false,
            Some(Event::Console { .. }) | None => {}
        }
    }

    /// What the guest's memory takes of the host's, with little else.
    pub(crate) fn guest_bytes(&self) -> u64 {
        match children(self.machine.pid())[..] {
            [engine] => rss_bytes(engine, "RssShmem:"),
            _ => rss_bytes(self.machine.pid(), "RssAnon:"),
        }
    }

    /// Stops the vCPUs.
    pub(crate) fn pause(&mut self) {
        self.machine.pause().unwrap();
        while !self.paused {
            assert!(self.ended.is_none(), "{:?}", self.ended);
            self.take_event();
        }
    }

    /// Lets them go on.
    pub(crate) fn resume(&mut self) {
        self.machine.resume().unwrap();
        while self.paused {
            assert!(self.ended.is_none(), "{:?}", self.ended);
            self.take_event();
        }
    }
}

/// Waits until `fd` is readable; fails the test when that takes too long.
pub(crate) fn wait_readable(fd: &impl std::os::fd::AsFd) {
    let limit = Timespec::try_from(PATIENCE).unwrap();
    let until = Instant::now() + PATIENCE;
    let ready = poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&limit)).unwrap();
    assert!(ready > 0 && Instant::now() < until, "nothing happened for {PATIENCE:?}");
}

/// Bytes of one bulk transfer: `PYRO_TEST_BULK_MIB`, else an amount that takes seconds.
pub(crate) fn bulk_bytes() -> u64 {
    let mib = std::env::var("PYRO_TEST_BULK_MIB").ok().and_then(|text| text.parse().ok()).unwrap_or(64);
    mib << 20
}

pub(crate) fn tell_speed(direction: &str, total: u64, chunk: u64, started: Instant) {
    let speed = total as f64 / 1e6 / started.elapsed().as_secs_f64();
    println!("{direction}, writes of {chunk}: {total} bytes intact, {speed:.2} MB/s");
}

/// Child processes of `pid`, whatever namespace they are in.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

pub(crate) fn alive(pid: u32) -> bool {
    // A zombie holds nothing any more.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Whether `pid` is gone within a moment. Where a machine has no process namespace of its own, its engine
/// dies after it rather than with it.
pub(crate) fn ends(pid: u32) -> bool {
    let pid_number = rustix::process::Pid::from_raw(pid as i32).unwrap();
    let Ok(pidfd) = rustix::process::pidfd_open(pid_number, rustix::process::PidfdFlags::empty()) else {
        return true;
    };
    let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
    poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit)).unwrap() > 0
}

pub(crate) fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Memory of one kind that `pid` has touched; `RssAnon` and `RssShmem` of proc(5).
fn rss_bytes(pid: u32, kind: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(kind)).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap() << 10
}

/// `MemTotal` of proc(5) `meminfo`, in MiB.
pub(crate) fn host_mib() -> u32 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u32>().unwrap() >> 10
}

/// Waits until something that no descriptor tells of is so; fails the test when that takes too long.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(BETWEEN_LOOKS);
    }
}

/// What the descriptors of `pid` stand for.
pub(crate) fn open_files(pid: u32) -> Vec<String> {
    let Ok(directory) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let links = directory.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    links.map(|link| link.to_string_lossy().into_owned()).collect()
}

/// A file with a name, opened anew.
pub(crate) fn open_or_create(path: &Path) -> File {
    File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// What the guest's operation `w` writes to a range of the disk.
pub(crate) fn disk_pattern(len: usize, at: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Pattern(at + 1).fill(&mut bytes);
    bytes
}

/// The stream of bytes that both sides know; the guest's copy is in `init.rs`.
struct Pattern(u64);

/// Bytes of the pattern made at once.
const BLOCK: usize = 64 << 10;

impl Pattern {
    fn new() -> Self {
        Self(88_172_645_463_325_252)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            word.copy_from_slice(&self.0.to_le_bytes()[..word.len()]);
        }
    }
}

fn write_pattern(stream: &mut UnixStream, total: u64, chunk: u64) {
    let mut pattern = Pattern::new();
    let mut block = vec![0; BLOCK];
    let mut left = total as usize;
    while left > 0 {
        let len = left.min(BLOCK);
        pattern.fill(&mut block[..len]);
        block[..len].chunks(chunk as usize).for_each(|part| stream.write_all(part).unwrap());
        left -= len;
    }
}

fn expect_pattern(stream: &mut UnixStream, total: u64) {
    let mut pattern = Pattern::new();
    let (mut block, mut expected) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut left = total as usize;
    while left > 0 {
        let len = left.min(BLOCK);
        pattern.fill(&mut expected[..len]);
        stream.read_exact(&mut block[..len]).unwrap();
        assert!(block[..len] == expected[..len], "other bytes {left} before the end");
        left -= len;
    }
}

fn skip<T>(why: &str) -> Option<T> {
    let required = std::env::var("PYRO_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|word| word == "guest"), "{why}");
    println!("skipped ({why})");
    None
}

/// Says that a test is about the emulated engine alone.
pub(crate) fn skip_native(why: &str) {
    println!("skipped ({why})");
}

fn kernel() -> Option<PathBuf> {
    let named = std::env::var_os("PYRO_TEST_KERNEL").map(PathBuf::from);
    let bundled = std::env::var_os("PYRO_RUNTIME_BUNDLE_DIR").map(|dir| Path::new(&dir).join("vmlinux"));
    [named, bundled].into_iter().flatten().find(|path| path.is_file())
}

/// The test guest's init: `PYRO_TEST_INIT`, where the user who runs the tests has no compiler, else compiled.
fn compile_init(directory: &Path) -> PathBuf {
    if let Some(path) = std::env::var_os("PYRO_TEST_INIT") {
        return path.into();
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/init.rs");
    let output = directory.join("init");
    let status = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--edition=2024", "-Copt-level=2", "-Ctarget-feature=+crt-static", "-Cpanic=abort"])
        .args(["--target=x86_64-unknown-linux-gnu", "-Cstrip=symbols", "-o"])
        .args([&output, &source])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .unwrap();
    assert!(status.success(), "the test guest's init does not compile");
    output
}

/// An uncompressed `newc` archive of executable files.
fn cpio(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    let end = [("TRAILER!!!", &b""[..])];
    for (number, (name, bytes)) in files.iter().chain(&end).enumerate() {
        let fields = [number + 1, 0o100_755, 0, 0, 1, 0, bytes.len(), 0, 0, 0, 0, name.len() + 1, 0];
        archive.extend_from_slice(b"070701");
        fields.iter().for_each(|field| archive.extend_from_slice(format!("{field:08X}").as_bytes()));
        archive.extend_from_slice(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(bytes);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}
