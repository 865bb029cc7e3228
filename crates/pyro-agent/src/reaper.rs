//! One loop reaps every child: PID 1 inherits all orphans, and the children that the agent started itself
//! are told apart by their ids.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::event::EventfdFlags;
use rustix::process::{WaitId, WaitIdOptions, WaitOptions, WaitStatus};

/// Reaps children and hands the statuses of known ones to whoever waits.
#[derive(Debug, Default)]
pub(crate) struct Reaper {
    children: Mutex<HashMap<i32, Arc<Child>>>,
    started: Condvar,
}

/// A child that the agent started.
#[derive(Debug)]
pub(crate) struct Child {
    pid: i32,
    ended: OwnedFd,
    status: Mutex<Option<Ended>>,
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It exited by itself.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
}

impl Child {
    /// Its process id, which stays its own until it is reaped.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Readable from when the child has ended.
    pub(crate) fn ended_event(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }

    /// How it ended, when it has.
    pub(crate) fn status(&self) -> Option<Ended> {
        *lock(&self.status)
    }
}

impl Reaper {
    /// Starts a child by `fork`. No child is reaped meanwhile, so its end cannot be missed.
    pub(crate) fn start(&self, fork: impl FnOnce() -> io::Result<i32>) -> io::Result<Arc<Child>> {
        let ended = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let mut children = lock(&self.children);
        let pid = fork()?;
        let child = Arc::new(Child { pid, ended, status: Mutex::new(None) });
        children.insert(pid, Arc::clone(&child));
        self.started.notify_all();
        Ok(child)
    }

    /// Reaps for ever.
    pub(crate) fn run(&self) -> ! {
        loop {
            // Only looks: the child stays a zombie, and its id its own, until the lock is held.
            match rustix::process::waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
                Ok(_) => self.reap(),
                Err(rustix::io::Errno::CHILD) => self.wait_for_a_child(),
                Err(_) => {}
            }
        }
    }

    fn reap(&self) {
        let mut children = lock(&self.children);
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let Some(ended) = ended(status) else { continue };
            if let Some(child) = children.remove(&pid.as_raw_nonzero().get()) {
                *lock(&child.status) = Some(ended);
                // The counter starts at zero and is written once, so this cannot block or fail.
                let _ = rustix::io::write(&child.ended, &1u64.to_ne_bytes());
            }
        }
    }

    /// Without children there are no descendants either, so nothing ends before something is started.
    fn wait_for_a_child(&self) {
        let children = lock(&self.children);
        let none = |children: &mut HashMap<_, _>| children.is_empty();
        drop(self.started.wait_while(children, none).unwrap_or_else(PoisonError::into_inner));
    }
}

fn ended(status: WaitStatus) -> Option<Ended> {
    status.exit_status().map(Ended::Code).or(status.terminating_signal().map(Ended::Signal))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
