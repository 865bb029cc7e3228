//! QEMU's emulator (TCG) runs the CPUs; the devices are ours, over vhost-user, but for the balloon: QEMU cannot take
//! that from another process.
//!
//! QEMU is given descriptors alone: one socket a device, one for its monitor, one for the console, the
//! kernel and the initramfs. It opens its own firmware and nothing else.

mod argv;
mod qmp;
mod rendezvous;

pub(crate) use argv::{Arguments, host_tsc_khz};
pub(crate) use qmp::{Monitor, MonitorEvent, Wish, fuzz_monitor};
pub(crate) use rendezvous::Rendezvous;

use crate::protocol::NetworkConfig;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

/// The host's ends of QEMU's sockets.
pub(crate) struct Sockets {
    pub(crate) block: UnixStream,
    pub(crate) vsock: UnixStream,
    pub(crate) rng: UnixStream,
    pub(crate) console: UnixStream,
    pub(crate) monitor: UnixStream,
    /// Where the emulator connects its network.
    pub(crate) network: Option<Rendezvous>,
}

/// A running emulator.
pub(crate) struct Emulator {
    pub(crate) process: Child,
    pub(crate) pidfd: OwnedFd,
    pub(crate) sockets: Sockets,
    pub(crate) stderr: ChildStderr,
}

/// What of a machine the emulator has to know.
pub(crate) struct Shape<'a> {
    pub(crate) vcpu_count: u8,
    pub(crate) mem_mib: u32,
    pub(crate) boot_args: &'a [String],
    pub(crate) kernel: &'a File,
    pub(crate) initramfs: &'a File,
    pub(crate) network: Option<NetworkConfig>,
}

/// Starts QEMU. This process must have one thread: descriptors are inherited for the moment of the start.
/// `confine` gets the command last, to add what the child does to itself before it becomes QEMU.
pub(crate) fn start(
    qemu: &Path,
    shape: &Shape<'_>,
    confine: impl FnOnce(&mut Command),
) -> io::Result<Emulator> {
    let (block, their_block) = UnixStream::pair()?;
    let (vsock, their_vsock) = UnixStream::pair()?;
    let (rng, their_rng) = UnixStream::pair()?;
    let (console, their_console) = UnixStream::pair()?;
    let (monitor, their_monitor) = UnixStream::pair()?;
    let network = shape.network.map(|_| Rendezvous::new()).transpose()?;
    let arguments = Arguments {
        vcpu_count: shape.vcpu_count,
        mem_mib: shape.mem_mib,
        boot_args: shape.boot_args,
        tsc_khz: host_tsc_khz(),
        kernel: shape.kernel.as_raw_fd(),
        initramfs: shape.initramfs.as_raw_fd(),
        block: their_block.as_raw_fd(),
        vsock: their_vsock.as_raw_fd(),
        rng: their_rng.as_raw_fd(),
        console: their_console.as_raw_fd(),
        monitor: their_monitor.as_raw_fd(),
        network: network.as_ref().map(|network| network.file().as_raw_fd()).zip(shape.network),
    };
    let mut command = Command::new(qemu);
    command
        .args(arguments.to_words())
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    confine(&mut command);
    let mut inherited = vec![
        shape.kernel.as_fd(),
        shape.initramfs.as_fd(),
        their_block.as_fd(),
        their_vsock.as_fd(),
        their_rng.as_fd(),
        their_console.as_fd(),
        their_monitor.as_fd(),
    ];
    inherited.extend(network.as_ref().map(Rendezvous::file));
    for fd in &inherited {
        fcntl_setfd(fd, FdFlags::empty())?;
    }
    let spawned = command.spawn();
    for fd in &inherited {
        fcntl_setfd(fd, FdFlags::CLOEXEC)?;
    }
    let mut process = spawned?;
    let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
    let pidfd = pidfd_open(pid.expect("a child has a process id"), PidfdFlags::empty())?;
    let stderr = process.stderr.take().expect("stderr is piped");
    Ok(Emulator { process, pidfd, sockets: Sockets { block, vsock, rng, console, monitor, network }, stderr })
}
