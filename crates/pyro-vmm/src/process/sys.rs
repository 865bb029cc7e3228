//! Descriptors that were put in place before this process was executed.
#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Takes ownership of an inherited descriptor; `None` when that number is not open. Call once per number,
/// before anything else opens descriptors.
pub(super) fn take_inherited(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: asks for flags; harmless for any number.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: the number is open, and by this function's contract nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    // The engine must inherit only what is handed to it on purpose.
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC).ok()?;
    Some(fd)
}
