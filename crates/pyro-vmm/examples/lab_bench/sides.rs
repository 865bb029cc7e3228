//! One boot by either side, up to the first word of the guest's init.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pyro_vmm::{DiskSpec, EngineSpec, Event, Machine, MachineSpec, SeccompAction};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Result;

/// As the guest's init knows it.
const PORT: u32 = 5006;
const MEM_MIB: u32 = 256;
/// Where instructions are counted, idle time leaps from timer to timer while the disk is waited for, and this is one of
/// them. A guest that does not boot is ended with its lab.
const PATIENCE: Timespec = Timespec { tv_sec: 3600, tv_nsec: 0 };

#[derive(Clone, Copy)]
pub(super) enum Side {
    Firecracker,
    Pyro,
}

impl Side {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Firecracker => "firecracker",
            Self::Pyro => "pyro",
        }
    }
}

/// What both boot.
pub(super) struct Files {
    vmm: PathBuf,
    firecracker: PathBuf,
    kernel: PathBuf,
    initramfs: PathBuf,
    /// Firecracker writes to it.
    pub(super) disk: PathBuf,
}

impl Files {
    /// Of the words of a command line; with them comes the one behind.
    pub(super) fn of(words: Vec<PathBuf>) -> Option<(Self, PathBuf)> {
        let [vmm, firecracker, kernel, initramfs, disk, part] = words.try_into().ok()?;
        Some((Self { vmm, firecracker, kernel, initramfs, disk }, part))
    }
}

enum Started {
    Firecracker(Child),
    Pyro(Box<Machine>),
}

/// A guest whose init runs and waits for orders.
pub(super) struct Boot {
    begun: Instant,
    /// From the process's start to the arrival of init's connection.
    pub(super) reached: Duration,
    /// The guest's time stamp counter when its init began.
    pub(super) counter: u64,
    pub(super) host: UnixStream,
    machine: Started,
    /// Holds Firecracker's sockets.
    _place: tempfile::TempDir,
}

/// Starts a machine and waits for its init.
pub(super) fn boot(files: &Files, side: Side) -> Result<Boot> {
    let place = tempfile::tempdir()?;
    let (begun, machine, mut host) = match side {
        Side::Firecracker => firecracker(files, &place)?,
        Side::Pyro => pyro(files)?,
    };
    let reached = begun.elapsed();
    let mut counter = [0; 8];
    host.read_exact(&mut counter)?;
    Ok(Boot { begun, reached, counter: u64::from_le_bytes(counter), host, machine, _place: place })
}

/// The devices that the other side has always, its own command line for the kernel, its own filter of system calls, no
/// jailer.
fn firecracker(files: &Files, place: &tempfile::TempDir) -> Result<(Instant, Started, UnixStream)> {
    let (config, socket) = (place.path().join("machine.json"), place.path().join("vsock"));
    let listener = UnixListener::bind(place.path().join(format!("vsock_{PORT}")))?;
    let text = serde_json::json!({
        "boot-source": { "kernel_image_path": files.kernel, "initrd_path": files.initramfs },
        "machine-config": { "vcpu_count": 1, "mem_size_mib": MEM_MIB },
        "drives": [{ "drive_id": "root", "path_on_host": files.disk, "is_root_device": true,
                     "is_read_only": false, "cache_type": "Unsafe", "io_engine": "Sync" }],
        "vsock": { "guest_cid": 3, "uds_path": socket },
        "entropy": {},
        "balloon": { "amount_mib": 0, "deflate_on_oom": false },
    });
    fs::write(&config, text.to_string())?;
    let begun = Instant::now();
    let child = Command::new(&files.firecracker)
        .args(["--no-api", "--config-file"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()?;
    await_readable(&listener)?;
    let (host, _) = listener.accept()?;
    Ok((begun, Started::Firecracker(child), host))
}

/// As the product starts it, but for the agent: an image under an ephemeral layer, every step of the jail.
fn pyro(files: &Files) -> Result<(Instant, Started, UnixStream)> {
    let delta = tempfile::tempfile()?;
    let begun = Instant::now();
    let spec = MachineSpec {
        vmm_binary: files.vmm.clone(),
        engine: EngineSpec::Kvm,
        vcpu_count: 1,
        mem_mib: MEM_MIB,
        kernel: File::open(&files.kernel)?,
        initramfs: File::open(&files.initramfs)?,
        disk: DiskSpec {
            base: File::open(&files.disk)?,
            sealed: Vec::new(),
            delta,
            size_bytes: None,
            limit_bytes: None,
        },
        network: None,
        guest_cid: 3,
        host_ports: vec![PORT],
        boot_args: Vec::new(),
        seccomp: SeccompAction::Kill,
        log: None,
    };
    let mut machine = Machine::spawn(spec)?;
    loop {
        let ready = {
            let mut fds = [
                PollFd::new(machine.channel(), PollFlags::IN),
                PollFd::from_borrowed_fd(machine.events_fd(), PollFlags::IN),
            ];
            poll(&mut fds, Some(&PATIENCE))?
        };
        if ready == 0 {
            return Err("the guest does not boot".into());
        }
        if let Some((_, host)) = machine.channel().try_accept()? {
            return Ok((begun, Started::Pyro(Box::new(machine)), host));
        }
        if let Some(event @ Event::Exited { .. }) = machine.try_next_event() {
            return Err(format!("{event:?}").into());
        }
    }
}

fn await_readable(fd: &impl AsFd) -> Result<()> {
    match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&PATIENCE))? {
        0 => Err("the guest does not boot".into()),
        _ => Ok(()),
    }
}

impl Boot {
    /// Lets the guest restart, which ends either machine. The time since its start.
    pub(super) fn end(self) -> Result<Duration> {
        std::io::Write::write_all(&mut &self.host, &[b'q'; 17])?;
        match self.machine {
            Started::Firecracker(mut child) => {
                child.wait()?;
            }
            Started::Pyro(mut machine) => {
                machine.wait();
            }
        }
        Ok(self.begun.elapsed())
    }
}
