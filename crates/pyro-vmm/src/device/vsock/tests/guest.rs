//! A guest as Linux is one, over queues in memory: it announces credit and keeps to it, sends packets in
//! pieces, and dies of what Linux dies of.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::device::testing::{Driver, Memory, Piece, memory};
use crate::vsock::{HOST_CID, Operation};

pub(super) const CID: u64 = 3;
/// What Linux announces by default, and what a waiting packet costs it.
pub(super) const GUEST_BUFFER: u32 = 256 << 10;
const PACKET_COST: usize = 576;
/// A page less what Linux keeps of it.
const RX_BYTES: u64 = 3776;
const RX_AREA: u64 = 0x10_0000;
const TX_AREA: u64 = 0x40_0000;
/// Room for a packet of the largest size.
const TX_SLOT: u64 = 0x2_0000;
const TX_SLOTS: usize = 16;
/// Pieces of a packet beside the header.
const TX_PIECE: u32 = 32 << 10;
/// A test that waits longer for the host has hung.
const PATIENCE: Duration = Duration::from_secs(20);

/// The host's side: what it wants, and what it has got.
#[derive(Clone)]
pub(super) struct TestHost {
    wanted: Arc<Mutex<VecDeque<(u32, OwnedFd)>>>,
    pub(super) got: Arc<Mutex<Vec<(u32, UnixStream)>>>,
    bell: Arc<(UnixStream, UnixStream)>,
}

pub(super) const OPEN_PORT: u32 = 5006;

impl TestHost {
    fn new() -> Self {
        let bell = UnixStream::pair().unwrap();
        bell.1.set_nonblocking(true).unwrap();
        TestHost { wanted: Arc::default(), got: Arc::default(), bell: Arc::new(bell) }
    }

    /// Wants a connection to the guest.
    pub(super) fn connect(&self, port: u32) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.wanted.lock().unwrap().push_back((port, theirs.into()));
        std::io::Write::write_all(&mut &self.bell.0, &[1]).unwrap();
        ours
    }

    pub(super) fn take_got(&self) -> UnixStream {
        self.got.lock().unwrap().pop().expect("a connection of the guest").1
    }
}

impl HostSide for TestHost {
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        use std::os::fd::AsFd;
        Some(self.bell.1.as_fd())
    }

    fn next_connect(&mut self) -> io::Result<Option<(u32, OwnedFd)>> {
        match std::io::Read::read(&mut &self.bell.1, &mut [0]) {
            Ok(_) => Ok(self.wanted.lock().unwrap().pop_front()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn is_open(&self, port: u32) -> bool {
        port == OPEN_PORT
    }

    fn accepted(&mut self, port: u32, stream: OwnedFd) -> io::Result<()> {
        self.got.lock().unwrap().push((port, stream.into()));
        Ok(())
    }
}

/// One socket of the guest.
#[derive(Default)]
pub(super) struct Socket {
    pub(super) established: bool,
    pub(super) reset: bool,
    /// Directions that the host has ended.
    pub(super) ended: u32,
    /// Packets that nobody has read.
    pub(super) unread: VecDeque<Vec<u8>>,
    rx_cnt: u32,
    fwd_cnt: u32,
    told_fwd_cnt: u32,
    tx_cnt: u32,
    peer_buffer: u32,
    peer_fwd_cnt: u32,
}

pub(super) struct Guest {
    pub(super) mem: Memory,
    pub(super) device: Vsock<TestHost>,
    pub(super) host: TestHost,
    queues: Vec<Queue>,
    rx: Driver,
    tx: Driver,
    rx_heads: HashMap<u16, u64>,
    tx_slots: Vec<u64>,
    tx_heads: HashMap<u16, u64>,
    /// By the guest's and the host's port.
    pub(super) sockets: HashMap<(u32, u32), Socket>,
    /// Every packet that came, in order.
    pub(super) log: Vec<Header>,
    pub(super) interrupts: usize,
    pub(super) listens: bool,
}

impl Guest {
    pub(super) fn new() -> Self {
        let host = TestHost::new();
        let (rx, rx_queue) = Driver::new(0, QUEUE_SIZE);
        let (tx, tx_queue) = Driver::new(Driver::BYTES, QUEUE_SIZE);
        let (_, event_queue) = Driver::new(2 * Driver::BYTES, EVENT_QUEUE_SIZE);
        let mut guest = Guest {
            mem: memory(8 << 20),
            device: Vsock::new(CID, host.clone()).unwrap(),
            host,
            queues: vec![rx_queue, tx_queue, event_queue],
            rx,
            tx,
            rx_heads: HashMap::new(),
            tx_slots: (0..TX_SLOTS as u64).map(|n| TX_AREA + n * TX_SLOT).collect(),
            tx_heads: HashMap::new(),
            sockets: HashMap::new(),
            log: Vec::new(),
            interrupts: 0,
            listens: true,
        };
        (0..u64::from(QUEUE_SIZE)).for_each(|n| guest.offer_buffer(RX_AREA + n * 4096));
        guest
    }

    fn offer_buffer(&mut self, addr: u64) {
        let head = self.rx.add(&self.mem, &[Piece::Write(addr, RX_BYTES as u32)]);
        self.rx_heads.insert(head, addr);
    }

    /// A header as a well-behaved guest fills it.
    pub(super) fn header(&self, ports: (u32, u32), operation: Operation) -> Header {
        Header {
            src_cid: CID,
            dst_cid: HOST_CID,
            src_port: ports.0,
            dst_port: ports.1,
            len: 0,
            operation: Some(operation),
            flags: 0,
            buf_alloc: GUEST_BUFFER,
            fwd_cnt: self.sockets.get(&ports).map_or(0, |socket| socket.fwd_cnt),
        }
    }

    pub(super) fn send_operation(&mut self, ports: (u32, u32), operation: Operation, flags: u32) {
        let header = Header { flags, ..self.header(ports, operation) };
        self.send(&header, &[]);
    }

    /// Puts a packet on the queue, its data in several pieces, and lets the device have it.
    pub(super) fn send(&mut self, header: &Header, data: &[u8]) {
        while self.tx_slots.is_empty() || !self.tx.has_room_for(4) {
            self.run();
        }
        let slot = self.tx_slots.pop().unwrap();
        self.mem.write_slice(&header.emit(), GuestAddress(slot)).unwrap();
        self.mem.write_slice(data, GuestAddress(slot + 64)).unwrap();
        let mut pieces = vec![Piece::Read(slot, HEADER_BYTES as u32)];
        let mut at = 0;
        while at < data.len() as u32 {
            let len = TX_PIECE.min(data.len() as u32 - at);
            pieces.push(Piece::Read(slot + 64 + u64::from(at), len));
            at += len;
        }
        let head = self.tx.add(&self.mem, &pieces);
        self.tx_heads.insert(head, slot);
        let outcome = self.device.process(TRANSMIT, &mut self.queues, &self.mem).unwrap();
        self.after(outcome);
    }

    /// Takes completions and gives buffers back, until nothing moves.
    fn after(&mut self, outcome: Outcome) {
        self.interrupts += outcome.interrupts().count();
        let mut again = outcome.agains().collect::<Vec<_>>();
        loop {
            while let Some((head, _)) = self.tx.take_used(&self.mem) {
                self.tx_slots.push(self.tx_heads.remove(&head).unwrap());
            }
            let mut packets = Vec::new();
            while let Some((head, len)) = self.rx.take_used(&self.mem) {
                let addr = self.rx_heads.remove(&head).unwrap();
                let mut bytes = vec![0; len as usize];
                self.mem.read_slice(&mut bytes, GuestAddress(addr)).unwrap();
                self.offer_buffer(addr);
                packets.push(bytes);
            }
            if packets.is_empty() && again.is_empty() {
                return;
            }
            packets.iter().for_each(|bytes| self.take(bytes));
            again.push(RECEIVE);
            for index in std::mem::take(&mut again) {
                let outcome = self.device.process(index, &mut self.queues, &self.mem).unwrap();
                self.interrupts += outcome.interrupts().count();
                again.extend(outcome.agains());
            }
        }
    }

    /// Serves whatever the host has done so far.
    pub(super) fn run(&mut self) {
        while self.is_host_ready(Duration::ZERO) {
            let outcome = self.device.host_ready(&mut self.queues, &self.mem).unwrap();
            self.after(outcome);
        }
    }

    /// Waits for the host to do something, and serves it.
    pub(super) fn wait(&mut self) {
        assert!(self.is_host_ready(PATIENCE), "the host side has stalled");
        self.run();
    }

    pub(super) fn is_host_ready(&self, patience: Duration) -> bool {
        let fd = self.device.as_fd().unwrap();
        let timeout = rustix::time::Timespec {
            tv_sec: patience.as_secs() as i64,
            tv_nsec: patience.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&timeout)).unwrap() > 0
    }

    fn take(&mut self, bytes: &[u8]) {
        let header = Header::parse(bytes[..HEADER_BYTES].try_into().unwrap());
        let data = &bytes[HEADER_BYTES..];
        assert_eq!((header.src_cid, header.dst_cid, data.len()), (HOST_CID, CID, header.len as usize));
        self.log.push(header);
        let ports = (header.dst_port, header.src_port);
        if header.operation == Some(Operation::Request) {
            if !self.listens {
                return self.send_operation(ports, Operation::Reset, 0);
            }
            self.sockets.insert(ports, Socket { established: true, ..Socket::default() });
            self.send_operation(ports, Operation::Response, 0);
        }
        let Some(socket) = self.sockets.get_mut(&ports) else {
            return;
        };
        socket.peer_buffer = header.buf_alloc;
        socket.peer_fwd_cnt = header.fwd_cnt;
        match header.operation.unwrap() {
            Operation::Request => {}
            Operation::Response => socket.established = true,
            Operation::Reset => socket.reset = true,
            Operation::Shutdown => socket.ended |= header.flags,
            Operation::Data => {
                let waiting = socket.rx_cnt.wrapping_sub(socket.fwd_cnt) + header.len;
                assert!(waiting <= GUEST_BUFFER, "the host exceeds the guest's credit");
                let cost = (socket.unread.len() + 1) * PACKET_COST;
                assert!(cost <= GUEST_BUFFER as usize, "too many packets: Linux would reset here");
                socket.rx_cnt = socket.rx_cnt.wrapping_add(header.len);
                socket.unread.push_back(data.to_vec());
            }
            Operation::CreditUpdate => {}
            Operation::CreditRequest => self.send_operation(ports, Operation::CreditUpdate, 0),
        }
    }

    /// Connects to the host and returns the ports; the answer may have come already.
    pub(super) fn connect(&mut self, ports: (u32, u32)) {
        self.sockets.insert(ports, Socket::default());
        self.send_operation(ports, Operation::Request, 0);
    }

    /// Writes as much as the host's credit allows, in packets of at most `most` bytes.
    pub(super) fn write(&mut self, ports: (u32, u32), data: &[u8], most: usize) -> usize {
        let mut written = 0;
        while written < data.len() {
            let socket = &self.sockets[&ports];
            assert!(!socket.reset, "the connection was reset");
            let room = socket.peer_buffer - socket.tx_cnt.wrapping_sub(socket.peer_fwd_cnt);
            let len = most.min(data.len() - written).min(room as usize);
            if len == 0 {
                break;
            }
            let header = Header { len: len as u32, ..self.header(ports, Operation::Data) };
            let socket = self.sockets.get_mut(&ports).unwrap();
            socket.tx_cnt = socket.tx_cnt.wrapping_add(len as u32);
            self.send(&header, &data[written..written + len]);
            written += len;
        }
        written
    }

    /// The application reads up to `len` bytes; credit is told as Linux tells it.
    pub(super) fn read(&mut self, ports: (u32, u32), len: usize) -> Vec<u8> {
        let socket = self.sockets.get_mut(&ports).unwrap();
        let mut bytes = Vec::new();
        while let Some(mut packet) = socket.unread.pop_front() {
            let rest = packet.split_off(packet.len().min(len - bytes.len()));
            bytes.extend(packet);
            if !rest.is_empty() {
                socket.unread.push_front(rest);
                break;
            }
        }
        socket.fwd_cnt = socket.fwd_cnt.wrapping_add(bytes.len() as u32);
        let untold = socket.fwd_cnt.wrapping_sub(socket.told_fwd_cnt);
        let is_low = untold > GUEST_BUFFER - (64 << 10) || socket.unread.is_empty();
        if untold > 0 && is_low {
            socket.told_fwd_cnt = socket.fwd_cnt;
            self.send_operation(ports, Operation::CreditUpdate, 0);
        }
        bytes
    }
}
