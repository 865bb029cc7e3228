//! The event loop's one epoll, and what its events mean.

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

/// Events taken from the kernel at once; more wait for the next turn.
const EVENTS_PER_WAIT: usize = 32;

/// Which descriptor of an endpoint is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The connection to the emulator, or an endpoint's only descriptor.
    Messages,
    /// The guest kicked this queue.
    Queue(u16),
    /// The device's host side.
    Host,
}

/// What an event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// The number of the endpoint, as its owner counts.
    pub endpoint: u16,
    /// The descriptor.
    pub source: Source,
}

const SOURCE_MESSAGES: u64 = 0;
const SOURCE_HOST: u64 = 1;
const SOURCE_QUEUE: u64 = 2;

impl Token {
    fn emit(self) -> u64 {
        let source = match self.source {
            Source::Messages => SOURCE_MESSAGES,
            Source::Host => SOURCE_HOST,
            Source::Queue(index) => SOURCE_QUEUE + u64::from(index),
        };
        u64::from(self.endpoint) << 32 | source
    }

    fn parse(data: u64) -> Self {
        let source = match data & u64::from(u32::MAX) {
            SOURCE_MESSAGES => Source::Messages,
            SOURCE_HOST => Source::Host,
            queue => Source::Queue(u16::try_from(queue - SOURCE_QUEUE).unwrap_or(u16::MAX)),
        };
        Self { endpoint: u16::try_from(data >> 32).unwrap_or(u16::MAX), source }
    }
}

/// An epoll instance.
pub struct Poller(OwnedFd);

impl Poller {
    /// A new instance.
    pub fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// Watches `fd` for input and for the peer's end, level triggered: an event for as long as it is ready.
    pub fn add(&self, fd: BorrowedFd<'_>, token: Token) -> io::Result<()> {
        self.watch(fd, token, EventFlags::IN | EventFlags::RDHUP)
    }

    /// Watches an event counter, edge triggered: one event for however often it was counted up since the last.
    /// Nobody has to read it, and it counts further than a guest can kick.
    pub fn add_counter(&self, counter: BorrowedFd<'_>, token: Token) -> io::Result<()> {
        self.watch(counter, token, EventFlags::IN | EventFlags::ET)
    }

    fn watch(&self, fd: BorrowedFd<'_>, token: Token, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.0, fd, EventData::new_u64(token.emit()), flags)?)
    }

    /// Stops watching `fd`.
    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(epoll::delete(&self.0, fd)?)
    }

    /// Waits for events; at most `within` when given.
    pub fn wait(&self, within: Option<Duration>) -> io::Result<Vec<Token>> {
        let mut events = [const { MaybeUninit::<Event>::uninit() }; EVENTS_PER_WAIT];
        let within = within.map(|time| Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        });
        match epoll::wait(&self.0, &mut events, within.as_ref()) {
            Ok((events, _)) => Ok(events.iter().map(|event| Token::parse(event.data.u64())).collect()),
            Err(Errno::INTR) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        for source in [Source::Messages, Source::Host, Source::Queue(0), Source::Queue(7)] {
            let token = Token { endpoint: 3, source };
            assert_eq!(Token::parse(token.emit()), token);
        }
    }

    #[test]
    fn each_count_up_is_told_once_without_a_read() {
        use rustix::event::{EventfdFlags, eventfd};
        use std::os::fd::AsFd as _;
        let (poller, token) = (Poller::new().unwrap(), Token { endpoint: 1, source: Source::Queue(0) });
        let counter = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let count_up = || rustix::io::write(&counter, &1u64.to_ne_bytes()).unwrap();
        let told = || poller.wait(Some(Duration::ZERO)).unwrap();
        count_up();
        poller.add_counter(counter.as_fd(), token).unwrap();
        assert_eq!(told(), [token], "what was counted before is told");
        for times in 1..4 {
            assert_eq!(told(), []);
            (0..times).for_each(|_| assert_eq!(count_up(), 8));
            assert_eq!(told(), [token]);
        }
    }
}
