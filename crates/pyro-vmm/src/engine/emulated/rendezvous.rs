//! How the emulator gets a connection that it wants to make itself.
//!
//! For most devices it takes a connected socket; for a network it insists on an address to connect to (its
//! `net/vhost-user.c` asks for a channel that passes descriptors, which it knows of named sockets alone). The
//! name lasts for a moment only: what the emulator is given is a descriptor of the socket's file, which is gone.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

/// Where a name can be had for a moment; the first that serves.
const PLACES: [&str; 3] = ["/dev/shm", "/tmp", "/var/tmp"];

pub(crate) struct Rendezvous {
    listener: UnixListener,
    file: OwnedFd,
}

impl Rendezvous {
    pub(crate) fn new() -> io::Result<Self> {
        let mut tried = Err(io::ErrorKind::NotFound.into());
        for place in PLACES {
            tried = Self::new_in(Path::new(place));
            if tried.is_ok() {
                break;
            }
        }
        tried
    }

    fn new_in(place: &Path) -> io::Result<Self> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
        let directory = place.join(format!("pyro-vmm-{:032x}", u128::from_ne_bytes(random)));
        DirBuilder::new().mode(0o700).create(&directory)?;
        let name = directory.join("socket");
        let made = UnixListener::bind(&name).and_then(|listener| {
            listener.set_nonblocking(true)?;
            let file =
                rustix::fs::open(&name, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
            Ok(Self { listener, file })
        });
        let _ = std::fs::remove_file(&name);
        std::fs::remove_dir(&directory)?;
        made
    }

    /// What the emulator connects to, as `/proc/self/fd/NUMBER`.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The emulator's connection; `None` when it ends first, or does not come within `limit`.
    pub(crate) fn accept(self, emulator: BorrowedFd<'_>, limit: Duration) -> io::Result<Option<UnixStream>> {
        let mut fds =
            [PollFd::new(&self.listener, PollFlags::IN), PollFd::from_borrowed_fd(emulator, PollFlags::IN)];
        let limit = Timespec::try_from(limit).ok();
        rustix::io::retry_on_intr(|| poll(&mut fds, limit.as_ref()))?;
        match self.listener.accept() {
            Ok((stream, _)) => Ok(Some(stream)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;

    #[test]
    fn a_socket_without_a_name_is_reached_through_its_file_alone() {
        let place = tempfile::tempdir().unwrap();
        let rendezvous = Rendezvous::new_in(place.path()).unwrap();
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
        let path = format!("/proc/self/fd/{}", rendezvous.file().as_raw_fd());
        let mut near = UnixStream::connect(path).unwrap();
        near.write_all(b"x").unwrap();
        let (alive, _held) = UnixStream::pair().unwrap();
        let mut far = rendezvous.accept(alive.as_fd(), Duration::from_secs(10)).unwrap().unwrap();
        let mut byte = [0];
        far.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn an_emulator_that_ends_is_not_waited_for() {
        let rendezvous = Rendezvous::new().unwrap();
        let (dead, other) = UnixStream::pair().unwrap();
        drop(other);
        assert!(rendezvous.accept(dead.as_fd(), Duration::MAX).unwrap().is_none());
    }
}
