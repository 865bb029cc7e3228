//! The host: a dialler whose sockets lead to scripts in this process, and a resolver that is a table.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use pyro_net::Dialer;
use pyro_net::dns::{Found, ResolveError, Resolver, Ticket, Wanted};
use pyro_net::policy::Name;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, recv, send, shutdown, socketpair,
};

/// What the server at an address does with a connection.
#[derive(Clone)]
pub enum Script {
    /// Sends back what it gets.
    Echo,
    /// Reads to the end, then sends this and closes.
    Answer(Vec<u8>),
    /// Reads a request of HTTP, sends this, and then back what it gets.
    Tunnel(Vec<u8>),
    /// Sends this at once and closes its side.
    Send(Vec<u8>),
    /// Neither reads nor writes.
    Nothing,
    /// Reads and says nothing, for ever.
    Swallow,
    /// Refuses.
    Refuse,
    /// Does not answer the connection before it is told to.
    Hesitate,
    /// Breaks off what it accepted.
    Reset,
}

struct Serving {
    socket: Option<OwnedFd>,
    script: Script,
    got: Vec<u8>,
    to_send: VecDeque<u8>,
    is_ended: bool,
    at: SocketAddr,
}

#[derive(Default)]
struct Shared {
    scripts: HashMap<SocketAddr, Script>,
    serving: Vec<Serving>,
    dialled: Vec<SocketAddr>,
    names: HashMap<Name, Vec<IpAddr>>,
    asked: Vec<Name>,
    answers: VecDeque<(Ticket, Result<Found, ResolveError>)>,
    own: Vec<IpAddr>,
    datagrams: Vec<(SocketAddr, OwnedFd)>,
    is_silent: bool,
}

/// The host, as the test sees it.
#[derive(Clone, Default)]
pub struct Host(Arc<Mutex<Shared>>);

impl Host {
    pub fn dialer(&self) -> HostDouble {
        HostDouble(Arc::clone(&self.0))
    }

    pub fn resolver(&self) -> HostDouble {
        HostDouble(Arc::clone(&self.0))
    }

    pub fn serve(&self, at: &str, script: Script) {
        self.0.lock().unwrap().scripts.insert(at.parse().unwrap(), script);
    }

    pub fn name(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.0.lock().unwrap().names.insert(name.parse().unwrap(), addresses);
    }

    pub fn own(&self, address: &str) {
        self.0.lock().unwrap().own.push(address.parse().unwrap());
    }

    /// Lets questions go unanswered.
    pub fn silence_resolver(&self) {
        self.0.lock().unwrap().is_silent = true;
    }

    /// Every address for which a socket was asked.
    pub fn dialled(&self) -> Vec<SocketAddr> {
        self.0.lock().unwrap().dialled.clone()
    }

    pub fn asked(&self) -> Vec<String> {
        self.0.lock().unwrap().asked.iter().map(Name::to_string).collect()
    }

    /// What the `index`th connection brought so far.
    pub fn got(&self, index: usize) -> Vec<u8> {
        self.0.lock().unwrap().serving[index].got.clone()
    }

    pub fn connections(&self) -> usize {
        self.0.lock().unwrap().serving.len()
    }

    pub fn is_ended(&self, index: usize) -> bool {
        self.0.lock().unwrap().serving[index].is_ended
    }

    /// Closes the `index`th connection.
    pub fn close(&self, index: usize) {
        self.0.lock().unwrap().serving[index].socket = None;
    }

    pub fn set_script(&self, index: usize, script: Script) {
        self.0.lock().unwrap().serving[index].script = script;
    }

    /// Lets the `index`th connection say something.
    pub fn say(&self, index: usize, bytes: &[u8]) {
        self.0.lock().unwrap().serving[index].to_send.extend(bytes);
    }

    /// Sends a datagram to the guest out of turn; whether its socket took it.
    pub fn push_datagram(&self, index: usize, payload: &[u8]) -> bool {
        send(&self.0.lock().unwrap().datagrams[index].1, payload, SendFlags::DONTWAIT).is_ok()
    }

    pub fn step(&self) {
        let mut shared = self.0.lock().unwrap();
        for serving in &mut shared.serving {
            serving.step();
        }
        for (_, socket) in &shared.datagrams {
            let mut buffer = vec![0; 65536];
            while let Ok((_, length)) = recv(socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                if length == 0 {
                    break;
                }
                // Echo requests become replies, datagrams come back as they are.
                if buffer[0] == 8 && buffer[1..6] == [0; 5] {
                    buffer[0] = 0;
                }
                send(socket, &buffer[..length], SendFlags::DONTWAIT).unwrap();
            }
        }
    }
}

impl Serving {
    fn step(&mut self) {
        if let Script::Reset = self.script {
            self.socket = None;
        }
        let Some(socket) = &self.socket else { return };
        let may_read = match self.script {
            Script::Echo => self.to_send.len() < 1 << 16,
            Script::Answer(_) | Script::Tunnel(_) | Script::Swallow | Script::Send(_) => true,
            Script::Nothing | Script::Refuse | Script::Hesitate | Script::Reset => false,
        };
        let mut buffer = [0; 16384];
        while may_read && !self.is_ended {
            match recv(socket, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((_, 0)) | Err(Errno::CONNRESET) => self.is_ended = true,
                Ok((_, length)) => {
                    self.got.extend(&buffer[..length]);
                    if let Script::Echo = self.script {
                        self.to_send.extend(&buffer[..length]);
                        break;
                    }
                }
                Err(_) => break,
            }
        }
        let mut is_through = false;
        match &mut self.script {
            Script::Send(bytes) => {
                self.to_send.extend(std::mem::take(bytes));
                is_through = true;
            }
            Script::Answer(bytes) if self.is_ended => {
                self.to_send.extend(std::mem::take(bytes));
                is_through = true;
            }
            Script::Tunnel(reply) if self.got.ends_with(b"\r\n\r\n") => {
                self.to_send.extend(std::mem::take(reply));
                self.script = Script::Echo;
            }
            Script::Echo => is_through = self.is_ended,
            _ => {}
        }
        while !self.to_send.is_empty() {
            let (front, _) = self.to_send.as_slices();
            match send(socket, front, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => drop(self.to_send.drain(..count)),
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    self.socket = None;
                    return;
                }
            }
        }
        if is_through {
            let _ = shutdown(socket, Shutdown::Write);
        }
    }
}

/// What the stack gets.
pub struct HostDouble(Arc<Mutex<Shared>>);

impl Dialer for HostDouble {
    fn tcp(&mut self, to: SocketAddr) -> io::Result<OwnedFd> {
        let mut shared = self.0.lock().unwrap();
        shared.dialled.push(to);
        let script = shared.scripts.get(&to).cloned().unwrap_or(Script::Echo);
        if let Script::Refuse = script {
            return Err(Errno::CONNREFUSED.into());
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (own, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        if let Script::Hesitate = script {
            // A socket that cannot be written is one whose dialling is not decided.
            while send(&own, &[0; 4096], SendFlags::DONTWAIT).is_ok() {}
        }
        shared.serving.push(Serving {
            socket: Some(theirs),
            script,
            got: Vec::new(),
            to_send: VecDeque::new(),
            is_ended: false,
            at: to,
        });
        Ok(own)
    }

    fn udp(&mut self, to: SocketAddr) -> io::Result<OwnedFd> {
        let mut shared = self.0.lock().unwrap();
        shared.dialled.push(to);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (own, theirs) = socketpair(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        shared.datagrams.push((to, theirs));
        Ok(own)
    }

    fn ping(&mut self, to: IpAddr) -> io::Result<OwnedFd> {
        self.udp(SocketAddr::new(to, 0))
    }

    fn is_hosts(&mut self, address: IpAddr) -> bool {
        self.0.lock().unwrap().own.contains(&address)
    }
}

impl Resolver for HostDouble {
    fn ask(&mut self, ticket: Ticket, name: &Name, wanted: Wanted) {
        let mut shared = self.0.lock().unwrap();
        shared.asked.push(name.clone());
        if shared.is_silent {
            return;
        }
        let answer = shared.names.get(name).cloned().ok_or(ResolveError::NoSuchName);
        // Names have addresses, and records of no other kind.
        let answer = answer.map(|addresses| match wanted {
            Wanted::Addresses => Found::Addresses(addresses),
            Wanted::Records(_) => Found::Records(Vec::new()),
        });
        shared.answers.push_back((ticket, answer));
    }

    fn finished(&mut self) -> Option<(Ticket, Result<Found, ResolveError>)> {
        self.0.lock().unwrap().answers.pop_front()
    }

    fn wakes(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
