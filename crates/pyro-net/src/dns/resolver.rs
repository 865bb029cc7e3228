//! Whom the gateway asks for names: the host's own resolver, by threads that may wait for it.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::event::{EventfdFlags, eventfd};

use super::records::Record;
use super::servers;
use crate::limits;
use crate::policy::Name;

/// A question's number, chosen by who asks.
pub type Ticket = u64;

/// What is wanted of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// Its addresses, by all that the host finds names with.
    Addresses,
    /// Its records of a kind that is none of addresses, from name servers.
    Records(u16),
}

/// What was found of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Its addresses.
    Addresses(Vec<IpAddr>),
    /// The records that were wanted; none where the name has others only.
    Records(Vec<Record>),
}

/// Why a name has no addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolveError {
    /// There is no such name.
    NoSuchName,
    /// It could not be told.
    Failed,
}

/// Looks names up without making anyone wait.
pub trait Resolver: Send {
    /// Begins to look for what is wanted of `name`.
    fn ask(&mut self, ticket: Ticket, name: &Name, wanted: Wanted);

    /// The next finished question, if any.
    fn finished(&mut self) -> Option<(Ticket, Result<Found, ResolveError>)>;

    /// A descriptor that can be read when a question is finished, if the answer does not come at once.
    fn wakes(&self) -> Option<BorrowedFd<'_>>;
}

/// The host's resolver, with all its configuration, through the standard library; for records that are no addresses
/// the name servers that it is configured with.
pub struct HostResolver {
    shared: Arc<Shared>,
    threads: usize,
}

struct Shared {
    /// Name servers in place of those that the host is configured with.
    servers: Option<Vec<SocketAddr>>,
    state: Mutex<State>,
    asked: Condvar,
    wake: OwnedFd,
}

#[derive(Default)]
struct State {
    questions: VecDeque<(Ticket, Name, Wanted)>,
    answers: VecDeque<(Ticket, Result<Found, ResolveError>)>,
    idle: usize,
    is_over: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // The state is valid between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HostResolver {
    /// Without threads yet; they come with the first questions.
    pub fn new() -> io::Result<Self> {
        Self::asking(None)
    }

    fn asking(servers: Option<Vec<SocketAddr>>) -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        let shared = Shared { servers, state: Mutex::default(), asked: Condvar::new(), wake };
        Ok(Self { shared: Arc::new(shared), threads: 0 })
    }
}

impl Resolver for HostResolver {
    fn ask(&mut self, ticket: Ticket, name: &Name, wanted: Wanted) {
        let mut state = self.shared.state();
        if state.questions.len() >= limits::MAX_QUESTIONS_WAITING {
            // The host's resolver hangs; whoever asked has long given up on those that wait.
            state.answers.push_back((ticket, Err(ResolveError::Failed)));
            let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
            return;
        }
        state.questions.push_back((ticket, name.clone(), wanted));
        if state.idle < state.questions.len() && self.threads < limits::RESOLVER_THREADS {
            let shared = Arc::clone(&self.shared);
            let spawned = thread::Builder::new().name("resolver".into()).spawn(move || serve(&shared));
            self.threads += usize::from(spawned.is_ok());
        }
        if self.threads == 0 {
            state.questions.pop_back();
            state.answers.push_back((ticket, Err(ResolveError::Failed)));
            let _ = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
        }
        drop(state);
        self.shared.asked.notify_one();
    }

    fn finished(&mut self) -> Option<(Ticket, Result<Found, ResolveError>)> {
        let mut state = self.shared.state();
        let answer = state.answers.pop_front();
        if answer.is_none() {
            let _ = rustix::io::read(&self.shared.wake, &mut [0; 8]);
        }
        answer
    }

    fn wakes(&self) -> Option<BorrowedFd<'_>> {
        Some(self.shared.wake.as_fd())
    }
}

impl Drop for HostResolver {
    /// Threads that wait for an answer end after it; they hold nothing but their share.
    fn drop(&mut self) {
        self.shared.state().is_over = true;
        self.shared.asked.notify_all();
    }
}

fn serve(shared: &Shared) {
    let mut state = shared.state();
    loop {
        if state.is_over {
            return;
        }
        let Some((ticket, name, wanted)) = state.questions.pop_front() else {
            state.idle += 1;
            state = shared.asked.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
            continue;
        };
        drop(state);
        let answer = match wanted {
            Wanted::Addresses => look_up(&name).map(Found::Addresses),
            Wanted::Records(kind) => {
                // Read each time, for it changes with the host's networks.
                let servers = shared.servers.clone().unwrap_or_else(servers::configured);
                servers::ask(&servers, &name, kind).map(Found::Records)
            }
        };
        state = shared.state();
        state.answers.push_back((ticket, answer));
        // Full is as awake as one can be.
        let _ = rustix::io::write(&shared.wake, &1u64.to_ne_bytes());
    }
}

fn look_up(name: &Name) -> Result<Vec<IpAddr>, ResolveError> {
    match (name.as_str(), 0).to_socket_addrs() {
        Ok(addresses) => {
            let mut found: Vec<IpAddr> = Vec::new();
            for address in addresses.map(|address| address.ip().to_canonical()) {
                if !found.contains(&address) && found.len() < 2 * limits::MAX_ANSWER_ADDRESSES {
                    found.push(address);
                }
            }
            Ok(found)
        }
        // The standard library tells the resolver's errors apart only in their text.
        Err(error) if error.to_string().contains("Temporary failure") => Err(ResolveError::Failed),
        Err(_) => Err(ResolveError::NoSuchName),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    /// Waits for the next answer.
    fn next(resolver: &mut HostResolver) -> (Ticket, Result<Found, ResolveError>) {
        loop {
            if let Some(finished) = resolver.finished() {
                return finished;
            }
            let wake = resolver.wakes().unwrap();
            let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
            let ready = poll(&mut [PollFd::new(&wake, PollFlags::IN)], Some(&limit)).unwrap();
            assert_eq!(ready, 1, "no answer");
        }
    }

    #[test]
    fn records_are_asked_of_name_servers() {
        let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let servers = vec![server.local_addr().unwrap()];
        let serving = thread::spawn(move || {
            let mut message = [0; 512];
            for code in [0, 3] {
                let (length, client) = server.recv_from(&mut message).unwrap();
                message[2..4].copy_from_slice(&[0x81, 0x80 | code]);
                server.send_to(&message[..length], client).unwrap();
            }
        });
        let mut resolver = HostResolver::asking(Some(servers)).unwrap();
        let name: Name = "a.example".parse().unwrap();
        resolver.ask(1, &name, Wanted::Records(16));
        assert_eq!(next(&mut resolver), (1, Ok(Found::Records(Vec::new()))));
        resolver.ask(2, &name, Wanted::Records(15));
        assert_eq!(next(&mut resolver), (2, Err(ResolveError::NoSuchName)));
        serving.join().unwrap();
    }

    #[test]
    fn the_host_resolves_its_own_name_for_itself() {
        let mut resolver = HostResolver::new().unwrap();
        for ticket in 0..20 {
            resolver.ask(ticket, &"localhost".parse().unwrap(), Wanted::Addresses);
        }
        let mut seen = Vec::new();
        while seen.len() < 20 {
            let (ticket, answer) = next(&mut resolver);
            let Found::Addresses(addresses) = answer.unwrap() else { panic!("records") };
            assert!(addresses.iter().all(IpAddr::is_loopback));
            seen.push(ticket);
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..20).collect::<Vec<_>>());
        assert!(resolver.threads <= limits::RESOLVER_THREADS);
    }
}
