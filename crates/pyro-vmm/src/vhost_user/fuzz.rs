//! A hostile emulator: well-framed messages with arbitrary contents. For fuzz targets and the test that
//! shares their body; nothing here panics unless the transport does.
#![doc(hidden)]

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::VhostUserDevice;
use crate::device::rng::Rng;
use crate::endpoint::Endpoint as _;
use crate::poll::{Poller, Source};

const MEMORY_BYTES: u64 = 1 << 16;
/// One past the last request of the protocol.
const REQUESTS: u8 = 45;
/// Version 1, no answer asked for.
const FLAGS: u32 = 1;
const NEED_REPLY: u32 = 1 << 3;
/// The longest body: a memory table.
const MAX_BODY_BYTES: usize = 272;

/// Serves a device to an emulator that says what `bytes` say: for each message a request, its flags and its
/// body's length, then the body.
pub fn fuzz_messages(bytes: &[u8]) {
    // Only a host without descriptors or memory fails here.
    let _ = serve(bytes);
}

fn serve(mut bytes: &[u8]) -> std::io::Result<()> {
    let (near, far) = UnixStream::pair()?;
    let poller = Arc::new(Poller::new()?);
    let mut device = VhostUserDevice::new(0, Rng::new(), near, &poller)?;
    let memory = memfd_create(c"fuzz", MemfdFlags::CLOEXEC)?;
    ftruncate(&memory, MEMORY_BYTES)?;
    let notifier = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    // Answers are thrown away, but must not fill the socket.
    while let [request, flags, len, rest @ ..] = bytes {
        let body = &rest[..rest.len().min(usize::from(*len)).min(MAX_BODY_BYTES)];
        bytes = &rest[body.len()..];
        let fd = match flags >> 4 & 3 {
            0 => None,
            1 => Some(memory.as_fd()),
            _ => Some(notifier.as_fd()),
        };
        let flags = FLAGS | u32::from(*flags) & NEED_REPLY;
        send(&far, u32::from(request % REQUESTS), flags, body, fd)?;
        if device.ready(Source::Messages).is_err() {
            return Ok(());
        }
        let _ = device.ready(Source::Queue(0));
        let _ = device.resume();
        far.set_nonblocking(true)?;
        while std::io::Read::read(&mut &far, &mut [0; 512]).is_ok_and(|len| len > 0) {}
        far.set_nonblocking(false)?;
    }
    Ok(())
}

fn send(
    far: &UnixStream,
    request: u32,
    flags: u32,
    body: &[u8],
    fd: Option<BorrowedFd<'_>>,
) -> std::io::Result<()> {
    let mut message = Vec::with_capacity(12 + body.len());
    for word in [request, flags, body.len() as u32] {
        message.extend_from_slice(&word.to_le_bytes());
    }
    message.extend_from_slice(body);
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    }
    sendmsg(far, &[IoSlice::new(&message)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_messages_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            super::fuzz_messages(&bytes);
        }
    }

    /// Little-endian words after a message's head.
    fn message(request: u8, flags: u8, words: &[u64]) -> Vec<u8> {
        let mut bytes = vec![request, flags, (words.len() * 8) as u8];
        words.iter().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
        bytes
    }

    #[test]
    fn rings_that_lie_outside_of_memory_are_survived() {
        let features = 1 << 32 | 1 << 30 | 1 << 29;
        for address in [0u64, 0x1000, 0xf000, 0xfff0, 0x1_0000, u64::MAX - 15] {
            let script = [
                message(2, 0, &[features]),
                // One region of the whole memory.
                message(5, 0x10, &[1, 0, 0x1_0000, 0, 0]),
                message(8, 0, &[16 << 32]),
                message(9, 0, &[0, address, address, address, 0]),
                message(12, 0x20, &[0]),
                message(18, 0, &[1 << 32]),
            ];
            super::fuzz_messages(&script.concat());
        }
    }
}
