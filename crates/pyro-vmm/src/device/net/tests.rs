use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::device::testing::{Driver, Memory, Piece, memory};

const BUFFERS: u64 = 0x10_0000;

struct Fixture {
    mem: Memory,
    net: Net,
    far: Option<OwnedFd>,
    receive: Driver,
    transmit: Driver,
    queues: [Queue; 2],
}

impl Fixture {
    fn new() -> Self {
        let flags = SocketFlags::CLOEXEC;
        let (near, far) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let (receive, receive_queue) = Driver::new(0, QUEUE_SIZE);
        let (transmit, transmit_queue) = Driver::new(Driver::BYTES, QUEUE_SIZE);
        let net = Net::new(near, [2, 0, 0, 0, 0, 1], 1500).unwrap();
        let queues = [receive_queue, transmit_queue];
        Self { mem: memory(4 << 20), net, far: Some(far), receive, transmit, queues }
    }

    fn send_to_guest(&self, packet: &[u8]) {
        rustix::net::send(self.far.as_ref().unwrap(), packet, SendFlags::DONTWAIT).unwrap();
    }

    fn receive_from_guest(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 2 * MAX_PACKET_BYTES];
        let received = rustix::net::recv(self.far.as_ref().unwrap(), &mut bytes[..], RecvFlags::DONTWAIT);
        received.ok().map(|(_, len)| bytes[..len].to_vec())
    }

    /// Adds a frame's chain: a header, then the frame at `at`.
    fn transmit(&mut self, at: u64, packet: &[u8]) {
        self.mem.write_slice(packet, GuestAddress(at)).unwrap();
        let len = packet.len() as u32;
        self.transmit.add(&self.mem, &[Piece::Read(at, 12), Piece::Read(at + 12, len - 12)]);
    }

    fn add_buffer(&mut self, at: u64, len: u32) {
        self.receive.add(&self.mem, &[Piece::Write(at, len)]);
    }

    fn process(&mut self, index: u16) -> Outcome {
        self.net.process(index, &mut self.queues, &self.mem).unwrap()
    }

    fn host_ready(&mut self) -> Outcome {
        self.net.host_ready(&mut self.queues, &self.mem).unwrap()
    }

    fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.mem.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    /// Whether the transport would call the device now.
    fn is_ready(&self) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(self.net.as_fd().unwrap(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }
}

/// A packet of `len` bytes that looks like no other.
fn packet(len: usize, seed: u8) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed)).collect();
    packet[..HEADER_BYTES].fill(0);
    packet
}

#[test]
fn a_frame_goes_over_as_many_buffers_as_it_needs() {
    let mut fixture = Fixture::new();
    let sent = packet(2500, 1);
    for n in 0..4 {
        fixture.add_buffer(BUFFERS + n * 0x1000, 1000);
    }
    fixture.send_to_guest(&sent);
    assert!(fixture.is_ready());
    assert_eq!(fixture.host_ready(), Outcome { interrupt: 1, again: 0 });
    let lens: Vec<u32> =
        std::iter::from_fn(|| fixture.receive.take_used(&fixture.mem)).map(|(_, len)| len).collect();
    assert_eq!(lens, [1000, 1000, 500]);
    let mut got = fixture.bytes(BUFFERS, 1000);
    got.extend(fixture.bytes(BUFFERS + 0x1000, 1000));
    got.extend(fixture.bytes(BUFFERS + 0x2000, 500));
    assert_eq!(got[NUM_BUFFERS], [3, 0]);
    assert_eq!((&got[..10], &got[12..]), (&sent[..10], &sent[12..]));
    assert!(!fixture.is_ready());
}

#[test]
fn a_frame_without_buffers_waits_and_the_next_ones_stay_on_the_link() {
    let mut fixture = Fixture::new();
    fixture.add_buffer(BUFFERS, 1000);
    for seed in 1..=2 {
        fixture.send_to_guest(&packet(1500, seed));
    }
    assert_eq!(fixture.host_ready(), Outcome::NONE);
    // Else the transport would call again and again.
    assert!(!fixture.is_ready());
    assert_eq!(fixture.receive.take_used(&fixture.mem), None);
    fixture.add_buffer(BUFFERS + 0x1000, 500);
    assert_eq!(fixture.process(RECEIVE).interrupt, 1);
    assert_eq!(
        [(); 3].map(|()| fixture.receive.take_used(&fixture.mem).map(|used| used.1)),
        [Some(1000), Some(500), None]
    );
    assert_eq!(fixture.bytes(BUFFERS + 12, 988), packet(1500, 1)[12..1000]);
    fixture.add_buffer(BUFFERS + 0x2000, 2000);
    assert_eq!(fixture.process(RECEIVE).interrupt, 1);
    assert_eq!(fixture.bytes(BUFFERS + 0x2000 + 12, 1488), packet(1500, 2)[12..]);
}

#[test]
fn the_guests_frames_arrive_whole_and_what_is_no_frame_is_dropped() {
    let mut fixture = Fixture::new();
    let whole = packet(MAX_PACKET_BYTES, 3);
    fixture.transmit(BUFFERS, &whole);
    fixture.transmit.add(&fixture.mem, &[Piece::Read(BUFFERS, 12)]);
    fixture.transmit.add(&fixture.mem, &[Piece::Read(BUFFERS, MAX_PACKET_BYTES as u32 + 1)]);
    fixture.transmit.add(&fixture.mem, &[Piece::Read(u64::MAX - 5, 100)]);
    fixture.transmit(BUFFERS + 0x2_0000, &packet(60, 4));
    assert_eq!(fixture.process(TRANSMIT).interrupt, 1 << TRANSMIT);
    assert_eq!(fixture.receive_from_guest(), Some(whole));
    assert_eq!(fixture.receive_from_guest(), Some(packet(60, 4)));
    assert_eq!(fixture.receive_from_guest(), None);
    assert_eq!(std::iter::from_fn(|| fixture.transmit.take_used(&fixture.mem)).count(), 5);
}

#[test]
fn a_full_link_holds_frames_back_and_loses_none() {
    let mut fixture = Fixture::new();
    let count = 30;
    for seed in 0..count {
        fixture.transmit(BUFFERS + u64::from(seed) * 0x1_0010, &packet(60_000, seed));
    }
    let _ = fixture.process(TRANSMIT);
    assert!(fixture.net.is_transmit_held, "the link took everything");
    assert!(!fixture.is_ready());
    for seed in 0..count {
        if fixture.is_ready() {
            let _ = fixture.host_ready();
        }
        assert_eq!(fixture.receive_from_guest(), Some(packet(60_000, seed)), "frame {seed}");
    }
    assert!(!fixture.net.is_transmit_held);
    assert_eq!(std::iter::from_fn(|| fixture.transmit.take_used(&fixture.mem)).count(), usize::from(count));
}

#[test]
fn frames_go_nowhere_once_the_other_end_is_gone() {
    let mut fixture = Fixture::new();
    fixture.far = None;
    let _ = fixture.host_ready();
    assert!(!fixture.is_ready());
    fixture.transmit(BUFFERS, &packet(100, 1));
    assert_eq!(fixture.process(TRANSMIT).interrupt, 1 << TRANSMIT);
    assert!(!fixture.is_ready());
}

#[test]
fn the_address_and_the_mtu_can_be_read() {
    let fixture = Fixture::new();
    let mut config = [0xff; 14];
    fixture.net.read_config(0, &mut config);
    assert_eq!(config, [2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0xdc, 5, 0, 0]);
}
