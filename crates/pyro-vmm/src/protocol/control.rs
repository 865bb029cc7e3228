//! Requests on the control socket: a JSON datagram each, with a descriptor where the request has one.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use super::Request;

/// No request is longer.
const MAX_REQUEST_BYTES: usize = 256;

/// What the host asks, with what it hands over for it.
#[derive(Debug)]
pub enum Asked {
    /// [`Request::ConsoleTail`].
    ConsoleTail,
    /// [`Request::ReplaceDelta`] with the new file; without one where this process cannot have more
    /// descriptors.
    ReplaceDelta(Option<File>),
    /// [`Request::Pause`].
    Pause,
    /// [`Request::Resume`].
    Resume,
}

/// What [`receive`] found.
#[derive(Debug)]
pub enum Received {
    /// A request.
    Asked(Asked),
    /// Nothing yet.
    Nothing,
    /// The host is gone.
    Closed,
}

/// Sends a request. Fails with `WouldBlock` when the machine does not keep up.
pub fn send(socket: BorrowedFd<'_>, request: Request, file: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let bytes = serde_json::to_vec(&request)?;
    let fds: Vec<BorrowedFd<'_>> = file.into_iter().collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::io::retry_on_intr(|| sendmsg(socket, &[IoSlice::new(&bytes)], &mut ancillary, flags))?;
    Ok(())
}

/// Takes the next request without waiting.
pub fn receive(socket: BorrowedFd<'_>) -> io::Result<Received> {
    let mut bytes = [0u8; MAX_REQUEST_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let result = rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)
    });
    let received = match result {
        Ok(received) => received,
        Err(rustix::io::Errno::AGAIN) => return Ok(Received::Nothing),
        Err(rustix::io::Errno::CONNRESET) => return Ok(Received::Closed),
        Err(errno) => return Err(errno.into()),
    };
    let fd = ancillary.drain().find_map(first_descriptor);
    if received.bytes == 0 && fd.is_none() {
        return Ok(Received::Closed);
    }
    // Descriptors are also cut off when this process has as many as it may.
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::other("a request is too long"));
    }
    let request: Request = serde_json::from_slice(&bytes[..received.bytes])?;
    match (request, fd) {
        (Request::ConsoleTail, None) => Ok(Received::Asked(Asked::ConsoleTail)),
        (Request::ReplaceDelta, fd) => Ok(Received::Asked(Asked::ReplaceDelta(fd.map(File::from)))),
        (Request::Pause, None) => Ok(Received::Asked(Asked::Pause)),
        (Request::Resume, None) => Ok(Received::Asked(Asked::Resume)),
        (Request::ConsoleTail | Request::Pause | Request::Resume, Some(_)) => {
            Err(io::Error::other("a request came with a descriptor"))
        }
    }
}

fn first_descriptor(message: RecvAncillaryMessage<'_>) -> Option<OwnedFd> {
    match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn a_request_arrives_with_its_file() {
        let (near, far) = pair();
        assert!(matches!(receive(far.as_fd()).unwrap(), Received::Nothing));
        let file = tempfile::tempfile().unwrap();
        send(near.as_fd(), Request::ConsoleTail, None).unwrap();
        send(near.as_fd(), Request::ReplaceDelta, Some(file.as_fd())).unwrap();
        drop(near);
        assert!(matches!(receive(far.as_fd()).unwrap(), Received::Asked(Asked::ConsoleTail)));
        let received = receive(far.as_fd()).unwrap();
        let Received::Asked(Asked::ReplaceDelta(Some(same))) = received else { panic!("{received:?}") };
        file.write_all_at(b"the same", 0).unwrap();
        let mut bytes = [0; 8];
        same.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"the same");
        assert!(matches!(receive(far.as_fd()).unwrap(), Received::Closed));
    }

    #[test]
    fn a_file_that_is_missing_is_told_and_one_too_many_refused() {
        let (near, far) = pair();
        send(near.as_fd(), Request::ReplaceDelta, None).unwrap();
        let received = receive(far.as_fd()).unwrap();
        assert!(matches!(received, Received::Asked(Asked::ReplaceDelta(None))), "{received:?}");
        let file = tempfile::tempfile().unwrap();
        send(near.as_fd(), Request::ConsoleTail, Some(file.as_fd())).unwrap();
        assert!(receive(far.as_fd()).unwrap_err().to_string().contains("with a"));
        rustix::net::send(&near, &[b' '; 300], SendFlags::empty()).unwrap();
        assert!(receive(far.as_fd()).unwrap_err().to_string().contains("too long"));
    }
}
