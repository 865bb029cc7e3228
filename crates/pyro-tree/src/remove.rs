//! Removes trees, whatever their modes, following nothing.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Removes `path` and all below it: also directories that their modes protect from their owner, as unpacked
/// trees may hold. Links are removed, not followed. What is already gone is no error.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = rustix::fs::open(parent, flags, Mode::empty())?;
    if unlink(parent.as_fd(), name)? {
        return Ok(());
    }
    let mut levels = vec![open(parent.as_fd(), name)?];
    let mut names = vec![name.to_owned()];
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.read() else {
            levels.pop();
            let name = names.pop().unwrap_or_default();
            let above = levels.last().map_or(Ok(parent.as_fd()), Dir::fd)?;
            match rustix::fs::unlinkat(above, &*name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            }
        };
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        if !unlink(level.fd()?, name)? {
            let below = open(level.fd()?, name)?;
            names.push(name.to_owned());
            levels.push(below);
        }
    }
    Ok(())
}

/// Removes what is no directory; says whether that is done.
fn unlink(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<bool> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR | Errno::PERM) => {
            let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if is_directory { Ok(false) } else { Err(Errno::PERM.into()) }
        }
        Err(error) => Err(error.into()),
    }
}

fn open(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<Dir> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node: OwnedFd = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    if rustix::fs::fstat(&node)?.st_mode & 0o700 != 0o700 {
        let path = format!("/proc/self/fd/{}", node.as_raw_fd());
        rustix::fs::chmod(path, Mode::from_raw_mode(0o700))?;
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(Dir::new(rustix::fs::openat(&node, ".", flags, Mode::empty())?)?)
}
