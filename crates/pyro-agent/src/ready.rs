//! Waits until something in the guest is ready: looks at once, then whenever an event or the interval says so.

mod http;
mod names;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use pyro_agent::wire::{Failure, FailureCode, Probe, Readied};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::connection::{Connection, failure};
use crate::limits::{PROBE_CONNECT, PROBE_EXCHANGE, PROBE_PAUSE};

/// Waits for `timeout` at most; `None` when the host has left.
pub(crate) fn wait(
    connection: &mut Connection,
    probe: &Probe,
    interval: Duration,
    timeout: Duration,
) -> Result<Option<Readied>, Failure> {
    if let Probe::File { path } = probe
        && path.as_bytes().first() != Some(&b'/')
    {
        return Err(failure(FailureCode::BadRequest, "the path to wait for is not absolute"));
    }
    let deadline = Instant::now() + timeout;
    let (socket, _) = connection.parts();
    let mut attempts = 0;
    loop {
        // Before the look, so that nothing that comes in between is missed.
        let changes = watch(probe);
        attempts += 1;
        let looked = look(probe, deadline);
        let problem = looked.err();
        let left = deadline.saturating_duration_since(Instant::now());
        if problem.is_none() || left.is_zero() {
            return Ok(Some(Readied { ready: problem.is_none(), attempts, problem }));
        }
        match pause(socket, changes.as_ref(), interval.min(left)) {
            Ok(Woken::Host) | Err(_) => return Ok(None),
            Ok(Woken::Change) => match pause(socket, None, PROBE_PAUSE.min(left)) {
                Ok(Woken::Host) | Err(_) => return Ok(None),
                Ok(Woken::Change | Woken::Time) => {}
            },
            Ok(Woken::Time) => {}
        }
    }
}

/// What ended a pause.
enum Woken {
    Host,
    Change,
    Time,
}

fn pause(socket: &OwnedFd, changes: Option<&OwnedFd>, limit: Duration) -> io::Result<Woken> {
    let mut polls = vec![PollFd::new(socket, PollFlags::RDHUP)];
    polls.extend(changes.map(|changes| PollFd::new(changes, PollFlags::IN)));
    let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
    match rustix::event::poll(&mut polls, Some(&limit)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let has = |at: usize| polls.get(at).is_some_and(|poll: &PollFd<'_>| !poll.revents().is_empty());
    Ok(match (has(0), has(1)) {
        (true, _) => Woken::Host,
        (false, true) => Woken::Change,
        (false, false) => Woken::Time,
    })
}

/// Events of the nearest directory above the file that exists. Where there are none, the interval has to do.
fn watch(probe: &Probe) -> Option<OwnedFd> {
    let Probe::File { path } = probe else { return None };
    let path = Path::new(OsStr::from_bytes(path.as_bytes()));
    let nearest = || path.ancestors().skip(1).find(|directory| directory.is_dir());
    let flags = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
    // A nearer one may come before the watch is there, and then makes no event. Each round is for one of them.
    for _ in path.ancestors() {
        let directory = nearest()?;
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
        inotify::add_watch(&events, directory, flags).ok()?;
        if nearest() == Some(directory) {
            return Some(events);
        }
    }
    None
}

fn look(probe: &Probe, deadline: Instant) -> Result<(), String> {
    match probe {
        Probe::File { path } => {
            let path = Path::new(OsStr::from_bytes(path.as_bytes()));
            let found = std::fs::metadata(path);
            found.map(|_| ()).map_err(|error| format!("{}: {error}", path.display()))
        }
        Probe::Tcp { host, port } => connect(host, *port, deadline).map(|_| ()),
        Probe::Http { host, port, target } => {
            let stream = connect(host, *port, deadline)?;
            http::get(stream, host, *port, target, (Instant::now() + PROBE_EXCHANGE).min(deadline))
        }
    }
}

/// A connection to the first of the host's addresses that takes one.
fn connect(host: &str, port: u16, deadline: Instant) -> Result<TcpStream, String> {
    let mut problem = format!("{host}: the guest knows no such host");
    for address in names::addresses(host) {
        let address = SocketAddr::new(address, port);
        let left = deadline.saturating_duration_since(Instant::now()).min(PROBE_CONNECT);
        // No time at all is refused as a time-out.
        match TcpStream::connect_timeout(&address, left.max(Duration::from_millis(1))) {
            Ok(stream) => return Ok(stream),
            Err(error) => problem = format!("{address}: {error}"),
        }
    }
    Err(problem)
}
