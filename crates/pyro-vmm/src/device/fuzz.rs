//! Hostile guests: memory and rings made of arbitrary bytes. For fuzz targets and the tests that share
//! their bodies; nothing here panics unless a device does.
#![doc(hidden)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::Device;
use super::balloon::{Balloon, PrivateMemory};
use super::blk::Blk;
use super::iov::{Source, Target};
use super::net::Net;
use super::vsock::Vsock;
use crate::block::{Durability, Layers, MemoryFile, Overlay};
use crate::vsock::limits::FIRST_HOST_PORT;
use crate::vsock::{HEADER_BYTES, HOST_CID, Header, HostSide, Muxer};

#[cfg(test)]
mod tests;

const MEMORY_BYTES: usize = 1 << 16;
const QUEUE_SIZE: u16 = 16;
/// A ring at address 0 counts as none.
const FIRST_RING: usize = 0x40;
/// Each queue's rings. The available ring comes first, so that short inputs already make chains.
const RINGS_BYTES: u64 = 0x200;
const DESCRIPTORS: u32 = 0x40;
const USED_RING: u32 = 0x140;
/// More calls than any device needs to have served a ring of this size.
const CALLS: usize = 8;

fn hostile_queue(base: u32, event_idx: bool) -> Option<Queue> {
    let mut queue = Queue::new(QUEUE_SIZE).ok()?;
    queue.set_avail_ring_address(Some(base), Some(0));
    queue.set_desc_table_address(Some(base + DESCRIPTORS), Some(0));
    queue.set_used_ring_address(Some(base + USED_RING), Some(0));
    queue.set_event_idx(event_idx);
    queue.set_ready(true);
    Some(queue)
}

/// Moves most descriptors into guest memory, where they do more harm; the others stay where they are.
fn aim_descriptors(memory: &mut [u8], base: usize) {
    let table = base + DESCRIPTORS as usize;
    for descriptor in memory[table..table + 16 * usize::from(QUEUE_SIZE)].chunks_exact_mut(16) {
        if descriptor[7] != 0xff {
            descriptor[2..8].fill(0);
            descriptor[10..12].fill(0);
        }
    }
}

/// Lays `bytes` over guest memory, rings first, and lets the device serve them. True when it used a chain.
fn serve_hostile<D: Device>(device: &mut D, bytes: &[u8]) -> bool {
    let Ok(mem) = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]) else {
        return false;
    };
    let (flags, bytes) = bytes.split_first().map_or((0, bytes), |(first, rest)| (*first, rest));
    let mut memory = vec![0; MEMORY_BYTES];
    let len = bytes.len().min(MEMORY_BYTES - FIRST_RING);
    memory[FIRST_RING..FIRST_RING + len].copy_from_slice(&bytes[..len]);
    let bases = (0..device.queue_sizes().len() as u64).map(|n| FIRST_RING as u32 + (n * RINGS_BYTES) as u32);
    bases.clone().for_each(|base| aim_descriptors(&mut memory, base as usize));
    let _ = mem.write(&memory, GuestAddress(0));
    let mut queues: Vec<Queue> = bases.filter_map(|base| hostile_queue(base, flags & 1 == 1)).collect();
    device.acknowledge(device.features());
    let mut served = false;
    for call in 0..CALLS {
        for index in 0..queues.len() as u16 {
            served |= device.process(index, &mut queues, &mem).is_ok_and(|outcome| outcome.interrupt != 0);
        }
        let _ = device.host_ready(&mut queues, &mem);
        if call == CALLS / 2 {
            device.reset();
        }
    }
    served
}

/// A block device in memory.
pub(crate) fn block() -> io::Result<Blk<Overlay<MemoryFile>>> {
    let file = MemoryFile::new(Vec::new());
    // Three clusters, of which two may be written.
    let disk = Overlay::create(Layers::empty(), file, 192 << 10, Durability::Durable, 128 << 10);
    Ok(Blk::new(disk.map_err(io::Error::other)?, "fuzz"))
}

/// A block device against arbitrary rings and memory.
pub fn fuzz_block_queue(bytes: &[u8]) -> bool {
    block().is_ok_and(|mut device| serve_hostile(&mut device, bytes))
}

/// The entropy device, the console and the balloon against arbitrary rings and memory.
pub fn fuzz_small_queues(bytes: &[u8]) -> bool {
    let log = super::console::SharedLog::new(1000);
    let console = serve_hostile(&mut super::console::Console::new(log), bytes);
    serve_hostile(&mut super::rng::Rng, bytes) | console | serve_balloon(bytes)
}

/// The balloon with memory of its own to give back, which is smaller than what the guest may name.
pub(crate) fn balloon() -> io::Result<Balloon<PrivateMemory>> {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY_BYTES / 2)]);
    Ok(Balloon::new(PrivateMemory::new(Arc::new(memory.map_err(io::Error::other)?))))
}

fn serve_balloon(bytes: &[u8]) -> bool {
    balloon().is_ok_and(|mut device| serve_hostile(&mut device, bytes))
}

/// Packets that wait for the guest of [`fuzz_net_queue`], each longer than most of its buffers.
const PACKETS: usize = 8;
const PACKET_BYTES: usize = 3000;

/// The network with packets on its link, and the link's other end.
pub(crate) fn network() -> io::Result<(Net, OwnedFd)> {
    use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    for _ in 0..PACKETS {
        let _ = send(&far, &[7; PACKET_BYTES], SendFlags::NOSIGNAL);
    }
    Ok((Net::new(near, [2, 0, 0, 0, 0, 1], 1500)?, far))
}

/// The network against arbitrary rings and memory.
pub fn fuzz_net_queue(bytes: &[u8]) -> bool {
    network().is_ok_and(|(mut net, _far)| serve_hostile(&mut net, bytes))
}

/// The port of the guest that the host connects to, and how often it does.
const GUEST_PORT: u32 = 5005;
const CONNECTS: u32 = 2;
/// Streams of the guest that the host keeps without reading them; it hangs up on the others at once.
const KEPT: usize = 4;

/// A host that has something to say and reads nothing.
pub(crate) struct DeafHost {
    /// Always readable.
    bell: OwnedFd,
    connects: u32,
    streams: Vec<OwnedFd>,
}

impl DeafHost {
    fn new() -> io::Result<Self> {
        let bell = rustix::event::eventfd(1, rustix::event::EventfdFlags::CLOEXEC)?;
        Ok(DeafHost { bell, connects: 0, streams: Vec::new() })
    }
}

impl HostSide for DeafHost {
    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.bell.as_fd())
    }
    fn next_connect(&mut self) -> io::Result<Option<(u32, OwnedFd)>> {
        if self.connects == CONNECTS {
            return Ok(None);
        }
        self.connects += 1;
        let (near, far) = UnixStream::pair()?;
        io::Write::write_all(&mut &near, &[7; 500])?;
        self.streams.push(near.into());
        Ok(Some((GUEST_PORT, far.into())))
    }
    fn is_open(&self, port: u32) -> bool {
        port & 1 == 0
    }
    fn accepted(&mut self, _: u32, stream: OwnedFd) -> io::Result<()> {
        if self.streams.len() < KEPT {
            self.streams.push(stream);
        }
        Ok(())
    }
}

/// The guest's address in [`fuzz_vsock_queue`].
const GUEST_CID: u64 = 3;

/// A socket device of that host.
pub(crate) fn vsock() -> io::Result<Vsock<DeafHost>> {
    Vsock::new(GUEST_CID, DeafHost::new()?)
}

/// A socket device against arbitrary rings and memory.
pub fn fuzz_vsock_queue(bytes: &[u8]) -> bool {
    vsock().is_ok_and(|mut device| serve_hostile(&mut device, bytes))
}

/// The same packet, for one of the host's connections or for an open port.
fn with_right_addresses(packet: &Header) -> Header {
    let packet = Header { src_cid: GUEST_CID, dst_cid: HOST_CID, ..*packet };
    match packet.dst_port & 4 {
        0 => packet,
        _ => {
            let dst_port = FIRST_HOST_PORT + packet.dst_port % CONNECTS;
            Header { src_port: GUEST_PORT, dst_port, ..packet }
        }
    }
}

/// A multiplexer against arbitrary packets: each a header, whose addresses are set right, and a payload.
pub fn fuzz_vsock_packets(bytes: &[u8]) {
    let Ok(mut muxer) = DeafHost::new().and_then(|host| Muxer::new(GUEST_CID, host)) else {
        return;
    };
    let now = Instant::now();
    let _ = muxer.poll(now);
    let mut rest = bytes;
    while let Some((header, tail)) = rest.split_first_chunk::<HEADER_BYTES>() {
        let header = with_right_addresses(&Header::parse(header));
        let payload = &tail[..tail.len().min(header.len as usize)];
        let _ = muxer.receive(&header, &Source::from_slice(payload), now);
        let _ = muxer.poll(now);
        let mut room = [0; 4096];
        let _ = muxer.next_packet(&mut Target::from_slice(&mut room), now);
        rest = &tail[payload.len()..];
    }
}
