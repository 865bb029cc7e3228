//! From the kernel's hand-over to a served guest.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use pyro_agent::wire::{FORWARD_PORT, FrameKind, READY_PORT, Ready, VERSION};
use rustix::event::PollFlags;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::mount::MountFlags;
use rustix::process::{Resource, Rlimit};
use rustix::system::RebootCommand;

use crate::authorities::Authorities;
use crate::connection::{Connection, wait};
use crate::console::say;
use crate::exec::{Cgroups, Executor};
use crate::forward::Forwarder;
use crate::limits::{
    BACKLOG, FORWARD_BACKLOG, MAX_OPEN_FILES, MAX_OPEN_FILES_HARD, READ_ONLY_ATTEMPTS, ROOT_DISK_DEADLINE,
};
use crate::reaper::Reaper;
use crate::secrets::Secrets;
use crate::serve::Server;
use crate::staging::Staging;
use crate::sys;

const ROOT_DISK: &str = "/dev/vda";
/// Where the root disk is mounted before it becomes the root.
const NEW_ROOT: &str = "/root-disk";
const EXEC_CGROUPS: &str = "/sys/fs/cgroup/pyro";
/// Where changes are prepared: on the root disk, and for root alone.
const STAGING: &str = "/.pyro/staging";
/// A file system of its own, in memory.
const SECRETS: &str = "/run/pyro-secrets";
/// In memory, and for everybody to read.
const AUTHORITIES: &str = "/run/pyro";

/// Why a guest cannot be set up.
#[derive(Debug, thiserror::Error)]
enum BootError {
    #[error("no root disk: {ROOT_DISK} did not appear within {} s", ROOT_DISK_DEADLINE.as_secs())]
    NoRootDisk,
    #[error("cannot mount the root disk {ROOT_DISK} as ext4: {0}")]
    RootDisk(io::Error),
    #[error("cannot {what}: {source}")]
    Step { what: &'static str, source: io::Error },
}

/// Names the step that an error belongs to.
trait Step<T> {
    fn step(self, what: &'static str) -> Result<T, BootError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, what: &'static str) -> Result<T, BootError> {
        self.map_err(|source| BootError::Step { what, source: source.into() })
    }
}

/// Sets the guest up and serves it; a guest that cannot be set up says why and goes off.
pub(crate) fn run() -> ! {
    let Err(error) = set_up().and_then(serve);
    say(&format!("error: {error}"));
    power_off();
}

/// Flushes and switches off. Never returns: a PID 1 that ends would be a kernel panic.
pub(crate) fn power_off() -> ! {
    settle_disks();
    // Without ACPI there is nothing that takes the power; a reset ends the machine as well, since its
    // monitor does not start it again.
    let way = match Path::new("/sys/firmware/acpi").exists() {
        true => RebootCommand::PowerOff,
        false => RebootCommand::Restart,
    };
    loop {
        if let Err(error) = rustix::system::reboot(way) {
            say(&format!("error: cannot power off: {error}"));
        }
        std::thread::park();
    }
}

fn set_up() -> Result<(), BootError> {
    // Every limit of a command descends from this one.
    let files = Rlimit { current: Some(MAX_OPEN_FILES), maximum: Some(MAX_OPEN_FILES_HARD) };
    rustix::process::setrlimit(Resource::Nofile, files).step("set the limit of open files")?;
    let _ = rustix::process::setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None });
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));

    fs::create_dir_all("/dev").step("make /dev")?;
    // The kernel may have mounted it for its own console.
    if !Path::new("/dev/null").exists() {
        mount("devtmpfs", "/dev", MountFlags::NOSUID, None).step("mount /dev")?;
    }
    mount_root_disk()?;
    enter_root_disk()?;
    mount_kernel_file_systems();
    prepare_devices();
    prepare_root();
    set_sysctls();
    if let Err(error) = sys::loopback_up() {
        say(&format!("warning: lo stays down: {error}"));
    }
    Ok(())
}

fn mount_root_disk() -> Result<(), BootError> {
    await_root_disk()?;
    fs::create_dir_all(NEW_ROOT).step("make a mount point")?;
    rustix::mount::mount(ROOT_DISK, NEW_ROOT, "ext4", MountFlags::NOATIME, None)
        .map_err(|error| BootError::RootDisk(error.into()))
}

fn await_root_disk() -> Result<(), BootError> {
    if Path::new(ROOT_DISK).exists() {
        return Ok(());
    }
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).step("watch /dev")?;
    inotify::add_watch(&watch, "/dev", WatchFlags::CREATE).step("watch /dev")?;
    let deadline = Instant::now() + ROOT_DISK_DEADLINE;
    let mut events = [0; 4096];
    while !Path::new(ROOT_DISK).exists() {
        let left = deadline.checked_duration_since(Instant::now()).ok_or(BootError::NoRootDisk)?;
        wait(std::os::fd::AsFd::as_fd(&watch), PollFlags::IN, left).step("watch /dev")?;
        let _ = rustix::io::read(&watch, &mut events);
    }
    Ok(())
}

/// Moves the root disk onto `/`; `pivot_root` cannot leave an initramfs.
fn enter_root_disk() -> Result<(), BootError> {
    let dev = Path::new(NEW_ROOT).join("dev");
    make_mount_point(&dev);
    rustix::mount::mount_move("/dev", &dev).step("move /dev to the root disk")?;
    // Files that stay in the initramfs are memory that nobody can free any more.
    let _ = fs::remove_file("/init");
    rustix::process::chdir(NEW_ROOT).step("enter the root disk")?;
    rustix::mount::mount_move(".", "/").step("move the root disk to /")?;
    rustix::process::chroot(".").step("make the root disk the root")?;
    rustix::process::chdir("/").step("enter the new root")
}

fn mount_kernel_file_systems() {
    let guarded = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let mounts: [(&str, &str, MountFlags, Option<&std::ffi::CStr>); 9] = [
        ("proc", "/proc", guarded, None),
        ("sysfs", "/sys", guarded, None),
        ("cgroup2", "/sys/fs/cgroup", guarded, Some(c"nsdelegate,memory_recursiveprot")),
        ("securityfs", "/sys/kernel/security", guarded, None),
        ("bpf", "/sys/fs/bpf", guarded, Some(c"mode=700")),
        ("devpts", "/dev/pts", MountFlags::NOSUID | MountFlags::NOEXEC, Some(c"gid=5,mode=620,ptmxmode=666")),
        ("tmpfs", "/dev/shm", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=1777")),
        ("mqueue", "/dev/mqueue", guarded, None),
        ("tmpfs", "/run", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=755")),
    ];
    for (kind, target, flags, options) in mounts {
        make_mount_point(Path::new(target));
        if let Err(error) = mount(kind, target, flags, options) {
            say(&format!("warning: {target} is not mounted: {error}"));
        }
    }
}

fn mount(kind: &str, target: &str, flags: MountFlags, options: Option<&std::ffi::CStr>) -> io::Result<()> {
    Ok(rustix::mount::mount(kind, target, kind, flags, options)?)
}

/// A missing directory of a foreign root is made; what stands in its place makes the mount fail, and that
/// is told then.
fn make_mount_point(path: &Path) {
    if !path.is_dir() {
        let _ = fs::create_dir_all(path);
    }
}

fn prepare_devices() {
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        let _ = symlink(target, link);
    }
    // Open to everybody on any distribution, by its device daemon.
    for device in ["/dev/fuse", "/dev/net/tun"] {
        let _ = fs::set_permissions(device, fs::Permissions::from_mode(0o666));
    }
}

/// What programs expect of any root, made only where it is missing.
fn prepare_root() {
    for (path, mode) in [("/workspace", 0o755), ("/tmp", 0o1777), ("/run/lock", 0o1777)] {
        if fs::create_dir(path).is_ok() {
            let _ = fs::set_permissions(path, fs::Permissions::from_mode(mode));
        }
    }
    let _ = symlink("/proc/self/mounts", "/etc/mtab");
    if let Err(error) = enable_controllers(Path::new("/sys/fs/cgroup")) {
        say(&format!("warning: cgroup controllers: {error}"));
    }
}

/// Passes every controller down, in one write: each write waits for the whole kernel to take note.
fn enable_controllers(root: &Path) -> io::Result<()> {
    let controllers = fs::read_to_string(root.join("cgroup.controllers"))?;
    let words: Vec<String> = controllers.split_ascii_whitespace().map(|name| format!("+{name}")).collect();
    fs::write(root.join("cgroup.subtree_control"), words.join(" "))
}

fn set_sysctls() {
    for (name, value) in [
        // Ping and low ports for everybody, as in containers.
        ("net/ipv4/ping_group_range", "0 2147483647"),
        ("net/ipv4/ip_unprivileged_port_start", "0"),
        // Databases, indexers and watchers ask for these.
        ("vm/max_map_count", "1048576"),
        ("fs/inotify/max_user_watches", "524288"),
        ("fs/inotify/max_user_instances", "1024"),
        // What distributions set, and debuggers need.
        ("fs/protected_symlinks", "1"),
        ("fs/protected_hardlinks", "1"),
        ("kernel/yama/ptrace_scope", "0"),
    ] {
        // A kernel without the setting has no need of it.
        let _ = fs::write(Path::new("/proc/sys").join(name), value);
    }
}

fn serve(_set_up: ()) -> Result<std::convert::Infallible, BootError> {
    let cgroups = Cgroups::open(Path::new(EXEC_CGROUPS)).step("make cgroups for commands")?;
    let reaper = Arc::new(Reaper::default());
    let reaping = Arc::clone(&reaper);
    std::thread::Builder::new()
        .name("reaper".to_owned())
        .stack_size(crate::limits::THREAD_STACK_BYTES)
        .spawn(move || reaping.run())
        .step("start the reaper")?;
    let staging = Staging::new(STAGING);
    staging.clear_in_background();
    let secrets = Arc::new(Secrets::new(SECRETS));
    let authorities = Authorities::new("/", AUTHORITIES);
    let executor = Executor { reaper, cgroups: Some(cgroups), secrets, authorities };
    let server = Arc::new(Server::new(executor, staging));
    start_forwarder().step("take streams to ports")?;
    let listener = sys::listen(pyro_agent::wire::AGENT_PORT, BACKLOG).step("listen on vsock")?;
    // Held for as long as the agent lives: its end tells the host that the guest is gone.
    let _ready = announce();
    server.accept_all(&listener)
}

/// Only the host is served, as everywhere.
fn start_forwarder() -> io::Result<()> {
    let listener = sys::listen(FORWARD_PORT, FORWARD_BACKLOG)?;
    rustix::io::ioctl_fionbio(&listener, true)?;
    let forwarder = Forwarder::new()?;
    let accept = {
        let listener = listener.try_clone()?;
        move || loop {
            match sys::try_accept(listener.as_fd())? {
                Some((socket, sys::HOST_CID)) => return Ok(Some(socket)),
                Some((_, cid)) => say(&format!("warning: stream from cid {cid} refused")),
                None => return Ok(None),
            }
        }
    };
    let serve = move || {
        if let Err(error) = forwarder.serve(&listener, &accept) {
            say(&format!("error: no more streams to ports: {error}"));
        }
    };
    let thread = std::thread::Builder::new().name("forwarder".to_owned());
    thread.stack_size(crate::limits::THREAD_STACK_BYTES).spawn(serve).map(|_| ())
}

/// Tells the host that the guest can be used.
fn announce() -> Option<Connection> {
    let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let micros = uptime.tv_sec.unsigned_abs() * 1_000_000 + uptime.tv_nsec.unsigned_abs() / 1000;
    let ready = Ready {
        version: VERSION,
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        uptime_us: micros,
    };
    let told = sys::connect(sys::HOST_CID, READY_PORT).and_then(|socket| {
        let mut connection = Connection::new(socket);
        connection.send(FrameKind::Reply, &ready)?;
        Ok(connection)
    });
    match told {
        Ok(connection) => Some(connection),
        Err(error) => {
            say(&format!("ready after {micros} us, but the host does not listen: {error}"));
            None
        }
    }
}

/// Ends every process, flushes, and makes the root disk read-only so that its journal needs no replay.
pub(crate) fn settle_disks() {
    // What lives would dirty the disk again. PID 1 itself is spared.
    sys::kill_all();
    rustix::fs::sync();
    // A thread that removes what a transfer replaced is in the way only for the moment of one call. Files that
    // a dying process still holds may prevent this altogether; the journal covers it then.
    let flags = MountFlags::RDONLY | MountFlags::NOATIME;
    for _ in 0..READ_ONLY_ATTEMPTS {
        if rustix::mount::mount_remount("/", flags, c"") != Err(rustix::io::Errno::BUSY) {
            break;
        }
        std::thread::yield_now();
    }
}
