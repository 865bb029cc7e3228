//! The supervisor's event loop: one machine, its clients, and what its life depends on.

use super::boot::{Happening, Running, StartError, console_text};
use super::client::{self, Order, Reply};
use super::network::GuestNetwork;
use super::protocol::{Answer, EndCause, Ended, Life, Request, StartRequest, Stop};
use super::supervised::{Next, Supervised};
use crate::faults::{self, Fault, FaultPoint};
use crate::limits::{CLIENT_LINGER, LATE_CLIENT, MAX_CLIENTS, POWER_OFF_DEADLINE, REST_DELAY};
use crate::packet::{Packet, PacketSocket};
use crate::places::Places;
use crate::problem::{Explain, Problem};
use crate::store::CommandKey;
use crate::sys;
use pyro_vmm::Event;
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{Resource, Rlimit};
use std::convert::Infallible;
use std::io;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Runs a supervisor on standard input, which must be the packet socket of a client. Returns when the
/// machine has ended.
pub fn serve_stdin() -> io::Result<()> {
    // A terminal's Ctrl-C is the client's to handle; the machine ends when the client says so or is gone.
    // A session of its own also keeps a closing terminal from killing the supervisor before it cleans up.
    let _ = rustix::process::setsid();
    // A thousand connections to a published port take two descriptors each, and each flow of the guest's one.
    let files = rustix::process::getrlimit(Resource::Nofile);
    let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files });
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(socket))
}

async fn serve(socket: OwnedFd) -> io::Result<()> {
    let client = PacketSocket::new(socket)?;
    let Some(Packet { message: Request::Start(request), .. }) = client.receive().await? else {
        return Ok(());
    };
    // The socket is a client's now; as standard input it would keep the client from being noticed gone.
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    // Processes whose parent died come here, so that none is left when this one returns.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let places = Places::new(&request.state_dir).with_fault(request.fault.clone());
    let mut supervised = match &request.life {
        Life::OneShot { .. } => None,
        Life::Workspace { id, creating } => match Supervised::open(places, id, *creating).await {
            Ok(supervised) => Some(supervised),
            Err(error) => {
                let _ = client.send(&Answer::Failed(error.explain()), None).await;
                return Ok(());
            }
        },
    };
    let booted = tokio::select! {
        booted = boot(&request, supervised.as_mut()) => booted,
        // The only thing a client may do while its machine boots is leave.
        _ = client.receive::<Request>() => Err(None),
    };
    match booted {
        Ok(running) => Hub::new(running, supervised, &request).run(client).await,
        Err(problem) => {
            // Said after the machine is gone: a client that hears it finds nothing left.
            reap_descendants();
            if let Some(problem) = problem {
                // The client may be gone; then nobody is left to be told.
                let _ = client.send(&Answer::Failed(*problem), None).await;
            }
        }
    }
    Ok(())
}

async fn boot(
    request: &StartRequest,
    supervised: Option<&mut Supervised>,
) -> Result<Running, Option<Box<Problem>>> {
    let told = |error: &dyn Explain| Some(Box::new(error.explain()));
    let mut running = Running::boot(request).await.map_err(|error| told(&error))?;
    if let Some(supervised) = supervised {
        supervised.prepare(&mut running).await.map_err(|error| told(&error))?;
    }
    Ok(running)
}

/// Waits for every process below this one; all have been killed or die with the one that was.
fn reap_descendants() {
    while rustix::process::wait(rustix::process::WaitOptions::empty()).is_ok() {}
}

/// A running machine with its clients.
struct Hub {
    running: Running,
    /// The workspace that the machine belongs to.
    supervised: Option<Supervised>,
    /// When a one-shot machine ends.
    expires: Option<Instant>,
    /// From when on the code that the last client needed is forgotten.
    rests_at: Option<Instant>,
    sender: mpsc::Sender<Order>,
    orders: mpsc::Receiver<Order>,
    /// Each yields the commands that it began.
    clients: JoinSet<Vec<CommandKey>>,
    /// Tells every client how the machine ended.
    ended: watch::Sender<Option<Ended>>,
    fault: Option<Fault>,
}

impl Hub {
    fn new(running: Running, supervised: Option<Supervised>, request: &StartRequest) -> Self {
        let (sender, orders) = mpsc::channel(MAX_CLIENTS);
        let expires = match &request.life {
            Life::OneShot { ttl_seconds } => Some(Instant::now() + Duration::from_secs(*ttl_seconds)),
            Life::Workspace { .. } => None,
        };
        let ended = watch::channel(None).0;
        let (clients, fault) = (JoinSet::new(), request.fault.clone());
        Self { running, supervised, expires, rests_at: None, sender, orders, clients, ended, fault }
    }

    async fn run(mut self, first: PacketSocket) {
        let started = Answer::Started(Box::new(self.running.started.clone()));
        let ended = match first.send(&started, None).await {
            Ok(()) => {
                self.admit(first);
                self.serve().await
            }
            // It left at the last moment, and others know nothing of a machine that has just come up.
            Err(_) => plain(EndCause::Stopped),
        };
        // The machine's processes end before anybody hears of it.
        drop(self.running);
        reap_descendants();
        faults::reach(self.fault.as_ref(), FaultPoint::StopEnded);
        let late = self.supervised.take().map(|supervised| supervised.end(&ended));
        self.ended.send_replace(Some(ended));
        // Who came while the machine ended is told as well; after that nobody can come any more.
        if let Some(listener) = late {
            for _ in 0..MAX_CLIENTS {
                let Ok(Ok(socket)) = tokio::time::timeout(LATE_CLIENT, listener.accept()).await else {
                    break;
                };
                let (sender, ended) = (self.sender.clone(), self.ended.subscribe());
                self.clients.spawn(client::serve(socket, sender, ended));
            }
        }
        // Those who are here are waited for, so that they hear it.
        let _ =
            tokio::time::timeout(CLIENT_LINGER, async { while self.clients.join_next().await.is_some() {} })
                .await;
    }

    fn admit(&mut self, socket: PacketSocket) {
        self.clients.spawn(client::serve(socket, self.sender.clone(), self.ended.subscribe()));
    }

    async fn serve(&mut self) -> Ended {
        loop {
            let deadline = self.deadline();
            let full = self.clients.len() >= MAX_CLIENTS;
            let supervised = async {
                match &mut self.supervised {
                    Some(supervised) => supervised.next(!full).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                happening = self.running.watch.next() => if let Some(ended) = ended_by(happening) {
                    return ended;
                },
                next = supervised => match next {
                    Next::Client(socket) => self.admit(socket),
                    // Its time runs on now.
                    Next::CommandEnded => {}
                    // Who asked may have ended meanwhile.
                    Next::StreamWanted(wanted) => drop(wanted.send(self.running.agent())),
                },
                Some(order) = self.orders.recv() => if let Some(ended) = self.carry_out(order).await {
                    return ended;
                },
                Some(left) = self.clients.join_next() => {
                    if self.is_abandoned(&left.unwrap_or_default()) {
                        return plain(EndCause::Stopped);
                    }
                    self.rests_at = self.clients.is_empty().then(|| Instant::now() + REST_DELAY);
                }
                never = rest(self.rests_at), if self.clients.is_empty() => match never {},
                () = until(deadline) => if self.is_expired() {
                    return plain(EndCause::Expired);
                },
            }
        }
    }

    /// When to look at the time to live next. A workspace does not expire while a client is connected.
    fn deadline(&self) -> Option<Instant> {
        match &self.supervised {
            Some(supervised) if self.clients.is_empty() => supervised.deadline(),
            Some(_) => None,
            None => self.expires,
        }
    }

    fn is_expired(&mut self) -> bool {
        self.supervised.as_mut().is_none_or(Supervised::expire)
    }

    /// Whether the machine has lost what it lives for, now that a client has left.
    fn is_abandoned(&mut self, begun: &[CommandKey]) -> bool {
        match &mut self.supervised {
            Some(supervised) => {
                supervised.client_left(begun);
                self.clients.is_empty() && !supervised.is_adopted()
            }
            None => self.clients.is_empty(),
        }
    }

    async fn carry_out(&mut self, order: Order) -> Option<Ended> {
        let Order { request, reply } = order;
        let answer = match request {
            Request::Connect { port } => match self.running.watch.connect(port) {
                Ok(stream) => Reply::Stream(stream),
                Err(error) => Reply::Answer(Answer::Failed(StartError::Channel(error).explain())),
            },
            Request::Describe => Reply::Answer(Answer::Started(Box::new(self.running.started.clone()))),
            Request::Denials { since } => {
                let denials = self.running.network.as_ref().map(|network| network.denials(since));
                Reply::Answer(Answer::Denials(denials.unwrap_or_default()))
            }
            Request::EndNetwork => {
                let contacts = self.running.network.as_mut().map(GuestNetwork::end);
                Reply::Answer(Answer::Contacts(contacts.unwrap_or_default()))
            }
            Request::Stop(how) => return Some(self.stop(how).await),
            Request::Start(_) => Reply::Refused,
            request => match &mut self.supervised {
                Some(supervised) => supervised.carry_out(request, &mut self.running).await,
                None => Reply::Refused,
            },
        };
        // A client that left does not want it.
        let _ = reply.send(answer);
        let broken = self.supervised.as_mut().and_then(Supervised::broken);
        broken.map(|reason| plain(EndCause::Failed(reason)))
    }

    async fn stop(&mut self, how: Stop) -> Ended {
        if how == Stop::PowerOff {
            if let Some(supervised) = &mut self.supervised {
                supervised.wind_down().await;
            }
            // A guest that does not answer in time is killed; what it flushed before is on its disk.
            let _ = tokio::time::timeout(POWER_OFF_DEADLINE, self.running.power_off()).await;
            faults::reach(self.fault.as_ref(), FaultPoint::StopFlushed);
        }
        plain(EndCause::Stopped)
    }
}

fn plain(cause: EndCause) -> Ended {
    Ended { cause, console: String::new() }
}

fn ended_by(happening: io::Result<Happening>) -> Option<Ended> {
    match happening {
        Ok(Happening::Event(Event::Exited { reason, console_tail })) => {
            Some(Ended { cause: EndCause::Machine(reason), console: console_text(&console_tail) })
        }
        // A stream on the ready port is the agent's alone and was taken; others are dropped. An answer
        // that nobody waits for any more is not for anybody.
        Ok(
            Happening::Event(
                Event::Started(_)
                | Event::Console { .. }
                | Event::DeltaReplaced { .. }
                | Event::Paused
                | Event::Resumed,
            )
            | Happening::Accepted(..),
        ) => None,
        Err(error) => {
            Some(Ended { console: format!("control channel: {error}"), ..plain(EndCause::Stopped) })
        }
    }
}

/// Forgets what code has run until then, as the last thing before whatever happens next.
async fn rest(from: Option<Instant>) -> Infallible {
    until(from).await;
    // Nothing is lost where it cannot be done.
    let _ = sys::forget_code();
    std::future::pending().await
}

pub(super) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
