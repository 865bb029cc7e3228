//! A machine's network: a stack on a thread of its own, what it denied, and the log of what it carried.

use crate::limits::FLOW_RECORDS_WAITING;
use crate::network::{FlowEvent, Memory, NetworkContacts, NetworkDenials, Policy};
use crate::service_logs::LogWriter;
use crate::supervisor::detached::Later;
use crate::supervisor::protocol::Answer;
use pyro_agent::wire;
use pyro_net::guest;
use pyro_net::{HostDialer, HostResolver, Network};
use pyro_vmm::NetworkSpec;
use pyro_vmm::protocol::NetworkConfig;
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::io;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use tokio::sync::{oneshot, watch};

/// The two ends of a machine's cable.
pub(super) struct Cable {
    /// For the machine.
    pub(super) machine: NetworkSpec,
    /// For its network.
    pub(super) network: OwnedFd,
}

impl Cable {
    pub(super) fn new() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let (network, link) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let config = NetworkConfig { mac: guest::GUEST_MAC, mtu: guest::MTU };
        Ok(Self { machine: NetworkSpec { config, link }, network })
    }
}

/// What the agent is told of its interface.
pub(super) fn interface() -> wire::Network {
    let address = |address, prefix, gateway| wire::LinkAddress { address, prefix, gateway };
    wire::Network {
        addresses: vec![
            address(guest::GUEST_V4.into(), guest::PREFIX_V4, guest::GATEWAY_V4.into()),
            address(guest::GUEST_V6.into(), guest::PREFIX_V6, guest::GATEWAY_V6.into()),
        ],
        name_servers: vec![guest::GATEWAY_V4.into(), guest::GATEWAY_V6.into()],
        mtu: guest::MTU,
    }
}

/// The network of the machine that runs here.
pub(super) struct GuestNetwork {
    /// First, so that its last records are written before the log's end.
    network: Option<Network>,
    memory: Arc<Mutex<Memory>>,
    log: Option<Log>,
}

/// The log and its thread.
struct Log {
    written: watch::Receiver<u64>,
    thread: JoinHandle<()>,
}

impl GuestNetwork {
    /// Puts `policy` in force on the network's end of a cable; `log` is the directory to record flows in.
    pub(super) fn start(policy: Policy, link: OwnedFd, log: Option<&Path>) -> io::Result<Self> {
        let memory = Arc::new(Mutex::new(Memory::default()));
        let (log, lines) = match log.map(Log::open).transpose()? {
            Some((log, lines)) => (Some(log), Some(lines)),
            None => (None, None),
        };
        let theirs = Arc::clone(&memory);
        let sink = move |event: FlowEvent| {
            theirs.lock().unwrap_or_else(PoisonError::into_inner).note(&event);
            if let Some(lines) = &lines {
                // A disk that is too slow loses records; the stack goes on.
                let _ = lines.try_send(event);
            }
        };
        let resolver = HostResolver::new()?;
        let network = Network::start(policy, link, Box::new(HostDialer), Box::new(resolver), Box::new(sink))?;
        Ok(Self { network: Some(network), memory, log })
    }

    /// Puts another policy in force: what it denies ends now. What is given returns when it is, or when the network
    /// is over.
    pub(super) fn set_policy(&self, policy: Policy) -> impl Future<Output = ()> + Send + use<> {
        let (told, is_told) = oneshot::channel();
        if let Some(network) = &self.network {
            network.set_policy(policy, move || {
                // Nobody waits any more where the client has left.
                let _ = told.send(());
            });
        }
        async move {
            let _ = is_told.await;
        }
    }

    /// What was denied since number `from`.
    pub(super) fn denials(&self, from: u64) -> NetworkDenials {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).since(from)
    }

    /// Ends every flow, and tells what was reached; the guest reaches nothing from then on.
    pub(super) fn end(&mut self) -> NetworkContacts {
        drop(self.network.take());
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).contacts()
    }

    /// Waits until more than `seen` bytes of the log are there. Where none will be, the client is told of the
    /// machine's end instead.
    pub(super) fn wait_log(&self, seen: u64) -> Later {
        let written = self.log.as_ref().map(|log| log.written.clone());
        Box::pin(async move {
            if let Some(mut written) = written
                && written.wait_for(|written| *written > seen).await.is_ok()
            {
                return Answer::Done;
            }
            std::future::pending().await
        })
    }
}

impl Drop for GuestNetwork {
    fn drop(&mut self) {
        // Ends the stack, and with it the only sender of records.
        drop(self.network.take());
        if let Some(log) = self.log.take() {
            // What it panicked of was printed; there is no more to write.
            let _ = log.thread.join();
        }
    }
}

impl Log {
    fn open(dir: &Path) -> io::Result<(Self, SyncSender<FlowEvent>)> {
        let writer = LogWriter::open_flows(dir)?;
        let (lines, waiting) = mpsc::sync_channel(FLOW_RECORDS_WAITING);
        let (progress, written) = watch::channel(writer.at());
        let thread = thread::Builder::new()
            .name("network-log".into())
            .spawn(move || write_all(writer, &waiting, &progress))?;
        Ok((Self { written, thread }, lines))
    }
}

fn write_all(mut writer: LogWriter, waiting: &Receiver<FlowEvent>, progress: &watch::Sender<u64>) {
    while let Ok(event) = waiting.recv() {
        let mut line = event.to_json_line();
        line.push('\n');
        writer.write(line.as_bytes());
        progress.send_replace(writer.at());
    }
}
