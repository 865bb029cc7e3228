//! The server's end of a connection.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown, sockopt};

use crate::event::End;
use crate::limits;
use crate::poller::Ready;
use crate::proxy::{self, ProxyAnswer};

/// Bytes that passed in one turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) from_guest: usize,
    pub(crate) to_guest: usize,
    most: usize,
}

impl Moved {
    /// Nothing yet, and `most` in the whole turn.
    pub(crate) fn within(most: usize) -> Self {
        Self { from_guest: 0, to_guest: 0, most }
    }

    /// Both directions together.
    pub(crate) fn bytes(self) -> usize {
        self.from_guest + self.to_guest
    }

    /// How many of `bytes` may still pass.
    pub(super) fn room_for(self, bytes: usize) -> usize {
        bytes.min(self.most.saturating_sub(self.bytes()))
    }

    /// Whether others should get their turn.
    pub(super) fn is_enough(self) -> bool {
        self.bytes() >= limits::PUMP_BYTES.min(self.most)
    }
}

/// Who answers a connection.
pub(crate) enum Upstream {
    /// Nobody yet.
    None,
    /// A socket of the host.
    Socket(Socket),
    /// The gateway's name server.
    Names(NameStream),
}

impl Upstream {
    pub(super) fn takes(&self) -> bool {
        match self {
            Self::None => false,
            Self::Socket(socket) => socket.is_writable,
            Self::Names(stream) => stream.takes(),
        }
    }

    pub(super) fn has_more(&self) -> bool {
        match self {
            Self::None => false,
            Self::Socket(socket) => socket.is_readable && !socket.is_ended,
            Self::Names(stream) => !stream.output.is_empty(),
        }
    }

    pub(super) fn is_ended(&self) -> bool {
        match self {
            Self::None => false,
            Self::Socket(socket) => socket.is_ended,
            Self::Names(stream) => stream.is_over(),
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<usize, End> {
        match self {
            Self::None => Ok(0),
            Self::Socket(socket) => socket.write(bytes),
            Self::Names(stream) => stream.write(bytes),
        }
    }

    pub(super) fn read(&mut self, ring: &mut [u8]) -> Result<usize, End> {
        match self {
            Self::None => Ok(0),
            Self::Socket(socket) => socket.read(ring),
            Self::Names(stream) => Ok(stream.read(ring)),
        }
    }

    /// Tells that the guest sends no more.
    pub(super) fn shut(&mut self) {
        match self {
            Self::None => {}
            Self::Socket(socket) => socket.shut(),
            Self::Names(stream) => stream.is_shut = true,
        }
    }
}

/// A socket, with what is known of it: its changes are told once.
pub(crate) struct Socket {
    descriptor: OwnedFd,
    is_readable: bool,
    is_writable: bool,
    /// Told that nothing more will come, or of an error: a short read does not say that all is read.
    is_hung_up: bool,
    /// Its end was read.
    pub(super) is_ended: bool,
    /// Our end was told.
    pub(super) is_shut: bool,
}

impl Socket {
    pub(super) fn new(descriptor: OwnedFd) -> Self {
        Self {
            descriptor,
            is_readable: false,
            is_writable: false,
            is_hung_up: false,
            is_ended: false,
            is_shut: false,
        }
    }

    pub(super) fn note_ready(&mut self, ready: Ready) {
        self.is_readable |= ready.readable;
        self.is_writable |= ready.writable;
        self.is_hung_up |= ready.hung_up;
    }

    /// Whether the dialling is decided, and how.
    pub(crate) fn connected(&self) -> Option<Result<(), End>> {
        if !self.is_writable {
            return None;
        }
        Some(match sockopt::socket_error(&self.descriptor) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) | Err(error) => Err(end_of(error)),
        })
    }

    /// What a proxy has said so far. What opens the connection is taken out; the rest is the guest's.
    pub(crate) fn hear_proxy(&mut self) -> Result<ProxyAnswer, End> {
        if !self.is_readable {
            return Ok(ProxyAnswer::Unfinished);
        }
        let mut head = [0; limits::MAX_PROXY_HEAD_BYTES];
        // Left where it is until it is whole; more of it is told of as a change.
        let heard = match recv(&self.descriptor, &mut head[..], RecvFlags::DONTWAIT | RecvFlags::PEEK) {
            Ok((_, 0)) => return Err(End::ProxyFailed),
            Ok((_, count)) => proxy::inspect(&head[..count]),
            Err(Errno::AGAIN) => {
                self.is_readable = false;
                ProxyAnswer::Unfinished
            }
            Err(Errno::INTR) => ProxyAnswer::Unfinished,
            Err(_) => return Err(End::ProxyFailed),
        };
        match heard {
            ProxyAnswer::Opened(mut left) => {
                while left > 0 {
                    match recv(&self.descriptor, &mut head[..left], RecvFlags::DONTWAIT) {
                        Ok((_, 0)) | Err(_) => return Err(End::ProxyFailed),
                        Ok((_, count)) => left -= count,
                    }
                }
            }
            // It will say no more.
            ProxyAnswer::Unfinished if self.is_hung_up => return Err(End::ProxyFailed),
            ProxyAnswer::Unfinished | ProxyAnswer::Refused(_) | ProxyAnswer::Other => {}
        }
        Ok(heard)
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<usize, End> {
        match send(&self.descriptor, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(count) => Ok(count),
            Err(Errno::AGAIN) => {
                self.is_writable = false;
                Ok(0)
            }
            Err(Errno::INTR) => Ok(0),
            Err(error) => Err(end_of(error)),
        }
    }

    fn read(&mut self, ring: &mut [u8]) -> Result<usize, End> {
        match recv(&self.descriptor, &mut *ring, RecvFlags::DONTWAIT) {
            Ok((_, 0)) => {
                self.is_ended = true;
                Ok(0)
            }
            Ok((_, count)) => {
                self.is_readable = count == ring.len() || self.is_hung_up;
                Ok(count)
            }
            Err(Errno::AGAIN) => {
                self.is_readable = false;
                Ok(0)
            }
            Err(Errno::INTR) => Ok(0),
            Err(error) => Err(end_of(error)),
        }
    }

    fn shut(&mut self) {
        if !std::mem::replace(&mut self.is_shut, true) {
            // It fails only where there is nobody to be told.
            let _ = shutdown(&self.descriptor, Shutdown::Write);
        }
    }

    /// Makes its close a reset, as the guest's was; the kernel may not have such a thing for every kind of socket.
    pub(super) fn break_off(&self) {
        let _ = sockopt::set_socket_linger(&self.descriptor, Some(Duration::ZERO));
    }
}

pub(crate) fn end_of(error: Errno) -> End {
    match error {
        Errno::CONNREFUSED => End::Refused,
        Errno::TIMEDOUT => End::TimedOut,
        Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::HOSTDOWN | Errno::NETDOWN | Errno::ADDRNOTAVAIL => {
            End::Unreachable
        }
        Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::ACCESS | Errno::PERM => {
            End::Unsupported
        }
        _ => End::ResetByServer,
    }
}

/// Questions and answers over TCP, each with its length before it (RFC 7766).
#[derive(Default)]
pub(crate) struct NameStream {
    input: Vec<u8>,
    output: VecDeque<u8>,
    /// Questions that are complete and not asked yet.
    questions: VecDeque<Vec<u8>>,
    /// Questions that were asked and not answered.
    outstanding: usize,
    is_shut: bool,
}

/// Questions of one stream at once: the next one is read when one of them is answered.
const MAX_OUTSTANDING: usize = 8;

impl NameStream {
    fn takes(&self) -> bool {
        self.questions.len() + self.outstanding < MAX_OUTSTANDING
            && self.output.len() < MAX_OUTSTANDING * limits::MAX_ANSWER_BYTES
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_shut && self.questions.is_empty() && self.outstanding == 0 && self.output.is_empty()
    }

    fn write(&mut self, bytes: &[u8]) -> Result<usize, End> {
        let mut taken = 0;
        while taken < bytes.len() && self.takes() {
            let wanted = match *self.input.as_slice() {
                [high, low, ..] => 2 + usize::from(u16::from_be_bytes([high, low])),
                _ => 2,
            };
            if wanted > 2 + limits::MAX_QUESTION_BYTES || (self.input.len() == 2 && wanted == 2) {
                return Err(End::ResetByServer);
            }
            let count = (wanted - self.input.len()).min(bytes.len() - taken);
            self.input.extend(&bytes[taken..taken + count]);
            taken += count;
            if self.input.len() == wanted && wanted > 2 {
                self.questions.push_back(self.input.split_off(2));
                self.input.clear();
            }
        }
        Ok(taken)
    }

    fn read(&mut self, ring: &mut [u8]) -> usize {
        let count = ring.len().min(self.output.len());
        for (to, byte) in ring.iter_mut().zip(self.output.drain(..count)) {
            *to = byte;
        }
        count
    }

    /// The next question to be asked.
    pub(crate) fn next_question(&mut self) -> Option<Vec<u8>> {
        let question = self.questions.pop_front()?;
        self.outstanding += 1;
        Some(question)
    }

    /// The answer to one of the questions; none where there is nothing to say.
    pub(crate) fn answer(&mut self, message: Option<&[u8]>) {
        self.outstanding = self.outstanding.saturating_sub(1);
        if let Some(message) = message {
            self.output.extend((message.len() as u16).to_be_bytes());
            self.output.extend(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_cut_out_of_the_stream_wherever_it_is_cut() {
        let stream_bytes = [0, 3, 1, 2, 3, 0, 1, 9];
        for cut in 0..=stream_bytes.len() {
            let mut stream = NameStream::default();
            assert_eq!(stream.write(&stream_bytes[..cut]), Ok(cut));
            assert_eq!(stream.write(&stream_bytes[cut..]), Ok(stream_bytes.len() - cut));
            assert_eq!(stream.next_question(), Some(vec![1, 2, 3]));
            assert_eq!(stream.next_question(), Some(vec![9]));
            assert_eq!(stream.next_question(), None);
            stream.answer(Some(&[7, 7]));
            let mut ring = [0; 10];
            assert_eq!((stream.read(&mut ring), &ring[..4]), (4, &[0, 2, 7, 7][..]));
        }
    }

    #[test]
    fn a_stream_takes_no_more_questions_than_it_has_room_for() {
        let mut stream = NameStream::default();
        let many: Vec<u8> = [0, 1, 5].repeat(100);
        assert_eq!(stream.write(&many), Ok(3 * MAX_OUTSTANDING));
        assert_eq!(stream.write(&many), Ok(0));
        assert!(stream.next_question().is_some());
        assert!(!stream.takes());
        stream.answer(None);
        assert!(stream.takes());
    }

    #[test]
    fn questions_that_are_too_long_or_empty_end_the_stream() {
        for bytes in [&[2u8, 1, 0][..], &[0, 0, 0]] {
            assert!(NameStream::default().write(bytes).is_err());
        }
    }
}
