//! The stack of one machine: packets of its link on one side, the host's sockets on the other.
//!
//! One owner, one thread, no locks: [`Stack::wait`] waits, [`Stack::work`] does what there is to do at a time it is
//! told, so that simulations drive it on a clock of their own. A flow that has something to do is *dirty*, waits for
//! a descriptor's change, waits for the link to clear (*blocked*), or has a deadline; nothing is ever polled.

mod bucket;
mod connection;
mod datagrams;
mod device;
mod frames;
mod names;
mod open;
mod plan;
mod proxied;
mod record;
mod table;
mod tcp;
mod timers;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::dialer::Dialer;
use crate::dns::{Pinned, Resolver, Synthetic};
use crate::event::{End, EventSink, OpenFlows};
use crate::limits;
use crate::link::{Link, Received};
use crate::packet::Dropped;
use crate::packet::fragments::Fragments;
use crate::policy::{Policy, Protocol};
use crate::poller::{Poller, Ready};
use crate::proxy::Proxy;
use bucket::Bucket;
use connection::Connection;
use datagrams::Datagrams;
use names::Lookups;
use record::{Record, Recorder};
use table::{FlowId, Table};
use timers::{Timer, Timers};

const LINK_TOKEN: u64 = u64::MAX;
const RESOLVER_TOKEN: u64 = u64::MAX - 1;

/// What a stack begins with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What the guest may reach.
    pub policy: Policy,
    /// Through whom connections to names go, if through anybody.
    pub proxy: Option<Proxy>,
    /// The Unix time at which the stack's own clock says zero.
    pub epoch: Duration,
    /// What sequence numbers are made from.
    pub seed: u64,
}

/// Whether there will be more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The link is there.
    On,
    /// The other end of the link is gone, and with it every flow.
    Over,
}

/// The two ends of a flow, as the guest sees them. Echo has its identifier for a port, and none on the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct FlowKey {
    protocol: Protocol,
    source: SocketAddr,
    destination: SocketAddr,
}

enum Carrier {
    Tcp(Box<Connection>),
    /// UDP and echo.
    Datagrams(Datagrams),
}

struct Flow {
    key: FlowKey,
    record: Record,
    carrier: Carrier,
    is_dirty: bool,
    deadline: Option<Duration>,
    /// What of `Stack::rings_bytes` is its own.
    touched_bytes: usize,
}

/// What a stack has seen, for tests and diagnosis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets from the guest.
    pub received: u64,
    /// Packets that went no further, by [`Dropped`].
    pub dropped: [u64; Dropped::COUNT],
    /// Packets that the guest did not take.
    pub lost: u64,
    /// Flows now.
    pub flows: usize,
    /// Payload that passed, both directions together.
    pub passed_bytes: u64,
}

/// The stack of one machine.
pub struct Stack {
    link: Link,
    poller: Poller,
    dialer: Box<dyn Dialer>,
    resolver: Box<dyn Resolver>,
    policy: Policy,
    proxy: Option<Proxy>,
    recorder: Recorder,
    fragments: Fragments,
    flows: Table<Flow>,
    keys: HashMap<FlowKey, FlowId>,
    timers: Timers,
    dirty: VecDeque<FlowId>,
    blocked: BTreeSet<FlowId>,
    lookups: Lookups,
    pinned: Pinned,
    synthetic: Synthetic,
    ready: Vec<Ready>,
    /// Packets are parsed out of here; the guest has no way to change it meanwhile.
    buffer: Vec<u8>,
    watches_output: bool,
    now: Duration,
    seed: u64,
    identification: u16,
    tcp_flows: u32,
    /// Memory that the rings of all connections may have taken.
    rings_bytes: usize,
    half_open: u32,
    new_flows: Bucket,
    replies: Bucket,
    counters: Counters,
}

impl Stack {
    /// A stack on `link`: a `SOCK_SEQPACKET` socket whose packets are a virtio header of 12 bytes and an Ethernet
    /// frame of up to 64 KiB.
    pub fn new(
        setup: Setup,
        link: OwnedFd,
        dialer: Box<dyn Dialer>,
        resolver: Box<dyn Resolver>,
        sink: Box<dyn EventSink>,
    ) -> io::Result<Self> {
        let poller = Poller::new()?;
        let link = Link::new(link)?;
        poller.watch_input(link.descriptor(), LINK_TOKEN)?;
        if let Some(wakes) = resolver.wakes() {
            poller.watch_input(wakes, RESOLVER_TOKEN)?;
        }
        let mut policy = setup.policy;
        policy.limits = policy.limits.clamped();
        Ok(Self {
            link,
            poller,
            dialer,
            resolver,
            new_flows: Bucket::new(policy.limits.syn_per_second),
            replies: Bucket::new(limits::REPLIES_PER_SECOND),
            policy,
            proxy: setup.proxy,
            recorder: Recorder::new(sink, setup.epoch),
            fragments: Fragments::default(),
            flows: Table::default(),
            keys: HashMap::new(),
            timers: Timers::default(),
            dirty: VecDeque::new(),
            blocked: BTreeSet::new(),
            lookups: Lookups::default(),
            pinned: Pinned::default(),
            synthetic: Synthetic::default(),
            ready: Vec::new(),
            buffer: vec![0; limits::MAX_LINK_BYTES],
            watches_output: false,
            now: Duration::ZERO,
            seed: setup.seed,
            identification: 0,
            tcp_flows: 0,
            rings_bytes: 0,
            half_open: 0,
            counters: Counters::default(),
        })
    }

    /// Watches a descriptor of the caller's, which wakes [`Stack::wait`] and means nothing else here.
    pub(crate) fn watch_caller(&self, descriptor: std::os::fd::BorrowedFd<'_>) -> io::Result<()> {
        self.poller.watch_input(descriptor, u64::MAX - 2)
    }

    /// How long [`Stack::wait`] may take at `now`; `None` is for ever.
    #[must_use]
    pub fn patience(&self, now: Duration) -> Option<Duration> {
        if !self.dirty.is_empty() {
            return Some(Duration::ZERO);
        }
        self.timers.first().map(|first| first.saturating_sub(now))
    }

    /// Waits until there is something to do, at most `within` when given.
    pub fn wait(&mut self, within: Option<Duration>) -> io::Result<()> {
        self.poller.wait(within, &mut self.ready)
    }

    /// Does what there is to do at `now`, which never goes back.
    pub fn work(&mut self, now: Duration) -> io::Result<Turn> {
        self.now = self.now.max(now);
        let mut is_over = false;
        for ready in std::mem::take(&mut self.ready) {
            match ready.token {
                LINK_TOKEN => is_over |= self.work_link()? == Turn::Over,
                RESOLVER_TOKEN => {}
                token => self.note_ready(FlowId::from_token(token), ready),
            }
        }
        if is_over {
            self.end_all(End::MachineEnded);
            return Ok(Turn::Over);
        }
        self.take_answers();
        self.work_timers();
        // Whoever becomes dirty meanwhile waits for the next turn, after the link had its own.
        for _ in 0..self.dirty.len() {
            if let Some(id) = self.dirty.pop_front() {
                self.pump(id);
            }
        }
        self.take_answers();
        self.settle_link()?;
        Ok(Turn::On)
    }

    /// Puts another policy in force at once: flows that it denies end.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
        self.policy.limits = self.policy.limits.clamped();
        self.new_flows = Bucket::new(self.policy.limits.syn_per_second);
        for id in self.flows.ids() {
            if !self.is_still_allowed(id) {
                self.break_off(id, End::PolicyChanged);
            }
        }
        if self.is_used_up() {
            self.end_all(End::BytesUsedUp);
        }
    }

    /// What was seen so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters { lost: self.link.lost(), flows: self.flows.len(), ..self.counters }
    }

    /// The flows that go on, at most `most` of them: the ones that began last.
    #[must_use]
    pub fn open_flows(&mut self, most: usize) -> OpenFlows {
        let mut flows = Vec::new();
        for id in self.flows.ids() {
            let Some(flow) = self.flows.get_mut(id) else { continue };
            let state = match &flow.carrier {
                Carrier::Tcp(connection) => connection.state(),
                Carrier::Datagrams(datagrams) => datagrams.state(),
            };
            if !flow.record.is_silent {
                flows.push(self.recorder.open(&flow.key, &flow.record, state));
            }
        }
        flows.sort_by_key(|flow| (flow.started_ms, flow.source));
        let cut = flows.len().saturating_sub(most);
        OpenFlows { flows: flows.split_off(cut), truncated: cut > 0 }
    }

    /// Ends every flow, with its record.
    pub fn end(&mut self) {
        self.end_all(End::MachineEnded);
    }

    fn end_all(&mut self, end: End) {
        for id in self.flows.ids() {
            self.break_off(id, end);
        }
    }

    fn work_link(&mut self) -> io::Result<Turn> {
        self.link.flush();
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut turn = Turn::On;
        let mut taken_bytes = 0;
        for _ in 0..limits::LINK_BURST {
            if taken_bytes >= limits::LINK_BURST_BYTES {
                break;
            }
            match self.link.receive(&mut buffer)? {
                Received::Packet(length) => {
                    taken_bytes += length;
                    self.take_packet(&buffer[..length]);
                }
                Received::Nothing => break,
                Received::End => {
                    turn = Turn::Over;
                    break;
                }
            }
        }
        self.buffer = buffer;
        Ok(turn)
    }

    /// Lets blocked flows go on once the link is clear, and watches for that while it is not.
    fn settle_link(&mut self) -> io::Result<()> {
        self.link.flush();
        let is_clear = self.link.is_clear();
        if is_clear {
            for id in std::mem::take(&mut self.blocked) {
                self.mark_dirty(id);
            }
        }
        if self.watches_output == is_clear {
            let descriptor = self.link.descriptor();
            if is_clear {
                self.poller.watch_input_again(descriptor, LINK_TOKEN)?;
            } else {
                self.poller.watch_both(descriptor, LINK_TOKEN)?;
            }
            self.watches_output = !is_clear;
        }
        Ok(())
    }

    fn note_ready(&mut self, id: FlowId, ready: Ready) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        match &mut flow.carrier {
            Carrier::Tcp(connection) => connection.note_ready(ready),
            Carrier::Datagrams(datagrams) => datagrams.note_ready(ready),
        }
        self.mark_dirty(id);
    }

    fn mark_dirty(&mut self, id: FlowId) {
        if let Some(flow) = self.flows.get_mut(id)
            && !std::mem::replace(&mut flow.is_dirty, true)
        {
            self.dirty.push_back(id);
        }
    }

    fn work_timers(&mut self) {
        while let Some(timer) = self.timers.take_due(self.now) {
            match timer {
                Timer::Flow(id) => {
                    if let Some(flow) = self.flows.get_mut(id) {
                        flow.deadline = None;
                    }
                    self.mark_dirty(id);
                }
                Timer::Lookup(ticket) => self.give_up_lookup(ticket),
            }
        }
    }

    fn pump(&mut self, id: FlowId) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        flow.is_dirty = false;
        match &flow.carrier {
            Carrier::Tcp(_) => self.pump_tcp(id),
            Carrier::Datagrams(_) => self.pump_datagrams(id),
        }
        if self.is_used_up() {
            self.end_all(End::BytesUsedUp);
        }
    }

    /// Whether the bytes that the policy allows have passed.
    fn is_used_up(&self) -> bool {
        self.room() == 0
    }

    /// How many bytes more may pass.
    fn room(&self) -> u64 {
        self.policy
            .limits
            .total_bytes
            .map_or(u64::MAX, |total| total.saturating_sub(self.counters.passed_bytes))
    }

    fn set_deadline(&mut self, id: FlowId, deadline: Option<Duration>) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        if flow.deadline == deadline {
            return;
        }
        if let Some(old) = flow.deadline {
            self.timers.remove(old, Timer::Flow(id));
        }
        if let Some(new) = deadline {
            self.timers.insert(new, Timer::Flow(id));
        }
        flow.deadline = deadline;
    }

    fn add_flow(&mut self, key: FlowKey, record: Record, carrier: Carrier) -> FlowId {
        self.tcp_flows += u32::from(matches!(carrier, Carrier::Tcp(_)));
        let id = self.flows.insert(Flow {
            key,
            record,
            carrier,
            is_dirty: false,
            deadline: None,
            touched_bytes: 0,
        });
        self.keys.insert(key, id);
        id
    }

    /// Forgets a flow and tells how it ended. Its descriptors close here.
    fn remove_flow(&mut self, id: FlowId, end: End) {
        self.set_deadline(id, None);
        let Some(flow) = self.flows.remove(id) else { return };
        self.keys.remove(&flow.key);
        self.blocked.remove(&id);
        self.rings_bytes -= flow.touched_bytes;
        if let Carrier::Tcp(connection) = &flow.carrier {
            self.tcp_flows -= 1;
            self.half_open -= u32::from(connection.is_half_open());
        }
        if !flow.record.is_silent {
            self.recorder.flow_ended(&flow.key, flow.record, end, self.now);
        }
    }

    /// Ends a flow from our side, in the way its protocol has for that.
    fn break_off(&mut self, id: FlowId, end: End) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        if let Carrier::Tcp(connection) = &mut flow.carrier {
            connection.abort(&mut self.link, self.now);
        }
        self.remove_flow(id, end);
    }

    fn next_identification(&mut self) -> u16 {
        self.identification = self.identification.wrapping_add(1);
        self.identification
    }
}
