//! An empty root directory.

use rustix::fs::CWD;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::process::pivot_root;

use super::sys;

/// Replaces this process's view of files by an empty read-only directory. Processes that share its mount
/// namespace keep theirs.
pub(super) fn empty() -> Result<(), String> {
    let step = |name: &'static str| move |errno: rustix::io::Errno| format!("{name}: {errno}");
    sys::own_mounts().map_err(|error| format!("mount namespace: {error}"))?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(step("private"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // Any directory will do as the place of the new root.
    mount("none", "/proc", "tmpfs", flags, c"size=4k,nr_inodes=2,mode=755").map_err(step("tmpfs"))?;
    rustix::process::chdir("/proc").map_err(step("chdir"))?;
    pivot_root(".", ".").map_err(step("pivot_root"))?;
    // The old root now lies over the new one.
    unmount(".", UnmountFlags::DETACH).map_err(step("unmount"))?;
    rustix::process::chdir("/").map_err(step("chdir"))?;
    rustix::mount::mount_remount("/", flags | MountFlags::RDONLY, c"").map_err(step("read-only"))?;
    let entries = rustix::fs::openat(CWD, "/", rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty())
        .and_then(rustix::fs::Dir::new)
        .map_err(step("look"))?;
    let others = entries.flatten().filter(|entry| !matches!(entry.file_name().to_bytes(), b"." | b".."));
    match others.count() {
        0 => Ok(()),
        count => Err(format!("the new root holds {count} entries")),
    }
}
