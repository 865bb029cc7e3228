//! The nested epoll: one descriptor that stands for all host sockets and the next deadline.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// Events taken from the kernel at a time.
const EVENTS_PER_WAIT: usize = 64;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// The host wants connections.
    Host,
    /// A deadline has passed.
    Timer,
    /// A connection's socket, by the connection's number.
    Connection(u64),
}

impl Token {
    fn number(self) -> u64 {
        match self {
            Token::Host => 0,
            Token::Timer => 1,
            Token::Connection(number) => number + 2,
        }
    }

    fn from_number(number: u64) -> Self {
        match number {
            0 => Token::Host,
            1 => Token::Timer,
            number => Token::Connection(number - 2),
        }
    }
}

pub(super) struct Poller {
    epoll: OwnedFd,
    timer: OwnedFd,
    deadline: Option<Instant>,
}

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let poller = Poller { epoll, timer, deadline: None };
        poller.add(poller.timer.as_fd(), Token::Timer, EventFlags::IN)?;
        Ok(poller)
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    pub(super) fn add(&self, fd: BorrowedFd<'_>, token: Token, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(token.number()), flags)?)
    }

    pub(super) fn modify(&self, fd: BorrowedFd<'_>, token: Token, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, fd, EventData::new_u64(token.number()), flags)?)
    }

    pub(super) fn remove(&self, fd: BorrowedFd<'_>) {
        // Fails only for a descriptor that is not there.
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// What has happened, without waiting.
    pub(super) fn events(&self) -> io::Result<Vec<(Token, EventFlags)>> {
        let mut events = Vec::with_capacity(EVENTS_PER_WAIT);
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&now)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(events.iter().map(|event| (Token::from_number(event.data.u64()), event.flags)).collect())
    }

    /// Sets when [`Token::Timer`] comes next.
    pub(super) fn set_deadline(&mut self, deadline: Option<Instant>, now: Instant) -> io::Result<()> {
        if self.deadline == deadline {
            return Ok(());
        }
        // Zero would stop the timer; a deadline that has passed already rings at once.
        let least = Duration::from_nanos(1);
        let wait = deadline.map_or(Duration::ZERO, |at| at.saturating_duration_since(now).max(least));
        let value = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        let once = Timespec { tv_sec: 0, tv_nsec: 0 };
        timerfd_settime(
            &self.timer,
            TimerfdTimerFlags::empty(),
            &Itimerspec { it_interval: once, it_value: value },
        )?;
        self.deadline = deadline;
        Ok(())
    }

    /// After [`Token::Timer`]: forgets the deadline, so that it can be set again.
    pub(super) fn clear_timer(&mut self) {
        let mut count = [0; 8];
        // Nothing to read means that the timer was set anew meanwhile.
        let _ = rustix::io::read(&self.timer, &mut count);
        self.deadline = None;
    }
}
