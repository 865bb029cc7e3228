//! A stack on a thread of its own, with the real clock.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::event::{EventfdFlags, eventfd};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::dialer::Dialer;
use crate::dns::Resolver;
use crate::event::EventSink;
use crate::policy::Policy;
use crate::stack::{Counters, Setup, Stack, Turn};

/// The running network of one machine. It ends when it is dropped, or when the other end of its link does.
pub struct Network {
    orders: Arc<Orders>,
    thread: Option<JoinHandle<()>>,
}

struct Orders {
    wake: OwnedFd,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    policy: Option<Policy>,
    /// Called once it is in force.
    told: Vec<Box<dyn FnOnce() + Send>>,
    counters: Counters,
    is_over: bool,
}

impl Orders {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        // It can only fail by being full, which wakes as well.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

impl Network {
    /// Starts the network of a machine on `link`.
    pub fn start(
        policy: Policy,
        link: OwnedFd,
        dialer: Box<dyn Dialer>,
        resolver: Box<dyn Resolver>,
        sink: Box<dyn EventSink>,
    ) -> io::Result<Self> {
        let mut seed = [0; 8];
        getrandom(&mut seed, GetRandomFlags::empty())?;
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let setup = Setup { policy, epoch, seed: u64::from_ne_bytes(seed) };
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        let orders = Arc::new(Orders { wake, state: Mutex::default() });
        let stack = Stack::new(setup, link, dialer, resolver, sink)?;
        stack.watch_caller(orders.wake.as_fd())?;
        let theirs = Arc::clone(&orders);
        let thread = thread::Builder::new().name("network".into()).spawn(move || run(stack, &theirs))?;
        Ok(Self { orders, thread: Some(thread) })
    }

    /// Puts another policy in force: flows that it denies end now. Calls `told` when it is, on the network's thread;
    /// drops it where the network is over, which lets nothing through.
    pub fn set_policy(&self, policy: Policy, told: impl FnOnce() + Send + 'static) {
        self.orders.change(|state| {
            if !state.is_over {
                state.policy = Some(policy);
                state.told.push(Box::new(told));
            }
        });
    }

    /// What was seen up to the last turn.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.orders.state().counters
    }

    /// Whether the thread still runs; it ends with its link.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.orders.change(|state| state.is_over = true);
        if let Some(thread) = self.thread.take() {
            // Its panic was printed; the machine has no network any more, and nobody else is touched.
            let _ = thread.join();
        }
    }
}

/// Says so when the thread ends, however it does, to those who wait for their policy.
struct Over<'a>(&'a Orders);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.is_over = true;
        state.told.clear();
    }
}

fn run(mut stack: Stack, orders: &Orders) {
    let _over = Over(orders);
    let started = Instant::now();
    loop {
        let patience = stack.patience(started.elapsed());
        if stack.wait(patience).is_err() {
            break;
        }
        let _ = rustix::io::read(&orders.wake, &mut [0; 8]);
        let order = {
            let mut state = orders.state();
            state.counters = stack.counters();
            (state.policy.take(), std::mem::take(&mut state.told), state.is_over)
        };
        match order {
            (_, _, true) => break,
            (Some(policy), told, false) => {
                stack.set_policy(policy);
                told.into_iter().for_each(|told| told());
            }
            (None, _, false) => {}
        }
        match stack.work(started.elapsed()) {
            Ok(Turn::On) => {}
            Ok(Turn::Over) | Err(_) => break,
        }
    }
    stack.end();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialer::HostDialer;
    use crate::dns::HostResolver;
    use crate::event::FlowEvent;
    use crate::guest;
    use crate::policy::Mode;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

    fn start() -> (Network, OwnedFd) {
        let (link, cable) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let resolver = Box::new(HostResolver::new().unwrap());
        let sink = Box::new(|_: FlowEvent| ());
        let network =
            Network::start(Policy::of(Mode::Egress), link, Box::new(HostDialer), resolver, sink).unwrap();
        (network, cable)
    }

    fn wait_for_input(cable: &OwnedFd) {
        let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
        assert_eq!(poll(&mut [PollFd::new(cable, PollFlags::IN)], Some(&limit)).unwrap(), 1);
    }

    #[test]
    fn a_running_network_answers_and_its_end_ends_the_link() {
        let (network, cable) = start();
        let mut question = vec![0; 12];
        question.extend([0xff; 6]);
        question.extend(guest::GUEST_MAC);
        question.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        question.extend(guest::GUEST_MAC);
        question.extend(guest::GUEST_V4.octets());
        question.extend([0; 6]);
        question.extend(guest::GATEWAY_V4.octets());
        send(&cable, &question, SendFlags::empty()).unwrap();
        wait_for_input(&cable);
        let mut answer = [0; 100];
        assert_eq!(recv(&cable, &mut answer, RecvFlags::empty()).unwrap().1, 12 + 14 + 28);
        assert!(network.is_running());
        let (sender, told) = std::sync::mpsc::channel();
        network.set_policy(Policy::of(Mode::Off), move || sender.send(()).unwrap());
        told.recv_timeout(Duration::from_secs(20)).unwrap();
        drop(network);
        assert_eq!(recv(&cable, &mut answer, RecvFlags::empty()).unwrap().1, 0);
    }

    #[test]
    fn the_end_of_the_link_ends_the_network() {
        let (mut network, cable) = start();
        drop(cable);
        network.thread.take().unwrap().join().unwrap();
        assert!(!network.is_running());
        // Nobody waits for a policy that cannot be in force any more.
        let (sender, told) = std::sync::mpsc::channel::<()>();
        network.set_policy(Policy::of(Mode::Off), move || sender.send(()).unwrap());
        assert!(told.recv().is_err());
    }
}
