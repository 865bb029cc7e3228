//! The root file system held still while the host takes its disk's state. Nothing in here touches a file
//! between freeze and thaw, and the thaw comes by itself: a host that dies leaves no frozen guest.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use pyro_agent::wire::{FREEZE_LIMIT_MS, Failure, FailureCode, FrameKind, Thawed};
use rustix::event::PollFlags;
use rustix::fs::{Mode, OFlags};

use crate::connection::{Connection, failure, os_failure, wait};
use crate::console::say;
use crate::sys;

#[cfg(test)]
mod tests;

/// Freezes, waits for the host, thaws.
pub(crate) fn freeze(connection: &mut Connection) -> Result<Thawed, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty())
        .map_err(|error| os_failure("cannot open the root file system", &error.into()))?;
    // The most part of what is to be written, while everything else goes on.
    rustix::fs::syncfs(&root)
        .map_err(|error| os_failure("cannot flush the root file system", &error.into()))?;
    sys::freeze(root.as_fd()).map_err(|error| match error.kind() {
        io::ErrorKind::ResourceBusy => {
            failure(FailureCode::Conflict, "the root file system is frozen already")
        }
        _ => os_failure("cannot freeze the root file system", &error),
    })?;
    let frozen = Frozen(root);
    let expired = hold(connection, Duration::from_millis(FREEZE_LIMIT_MS));
    drop(frozen);
    Ok(Thawed { expired })
}

/// A frozen file system; thawed when dropped.
struct Frozen(OwnedFd);

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(error) = sys::thaw(self.0.as_fd()) {
            say(&format!("error: the root file system cannot be thawed: {error}"));
        }
    }
}

/// Tells the host, and waits until it sends or closes; true when it did neither in time. What it sends is
/// not waited for: its first byte will do.
fn hold(connection: &mut Connection, limit: Duration) -> bool {
    if connection.send(FrameKind::Frozen, &serde_json::json!({})).is_err() {
        return false;
    }
    let (socket, decoder) = connection.parts();
    if !decoder.is_empty() {
        return false;
    }
    !wait(socket.as_fd(), PollFlags::IN | PollFlags::RDHUP, limit).unwrap_or(true)
}
