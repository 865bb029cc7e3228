//! virtio-net: carries whole frames between the queues and a packet socket.
//!
//! Each packet on the socket is a header (`struct virtio_net_hdr_v1`, Virtual I/O Device 1.2, section
//! 5.1.6) and one Ethernet frame. Segmentation and checksums stay undone on both ways: whoever holds the other
//! end speaks for the rest of the network and takes frames of up to [`MAX_FRAME_BYTES`]. What the guest sends
//! is copied by the kernel before anybody looks at it.
//!
//! Nothing is dropped and nothing piles up. A frame that the guest has no buffers for waits here and the
//! socket is not read meanwhile; a frame that the socket has no room for stays in the guest's queue.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_MTU,
};
use virtio_queue::{DescriptorChain, Queue};
use vm_memory::GuestMemory;

use super::chain::{Chain, Filled, Served, drain, fill};
use super::iov::{SocketIo as _, Target};
use super::{COMMON_FEATURES, Device, DeviceError, Outcome, read_from};

#[cfg(test)]
mod tests;

/// Bytes before each frame.
pub const HEADER_BYTES: usize = 12;
/// The longest frame: an IP packet of the longest length and an Ethernet header.
pub const MAX_FRAME_BYTES: usize = 65_535 + 14;
const MAX_PACKET_BYTES: usize = HEADER_BYTES + MAX_FRAME_BYTES;
/// Where a header tells over how many buffers its frame goes, little endian.
const NUM_BUFFERS: std::ops::Range<usize> = 10..12;
/// As deep as Linux makes it for itself.
const QUEUE_SIZE: u16 = 256;
/// Frames carried in one call for each direction.
const BUDGET: usize = 64;

const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;

/// Offered: checksums and segmentation left undone both ways, frames over several buffers.
const FEATURES: u64 = COMMON_FEATURES
    | 1 << VIRTIO_NET_F_CSUM
    | 1 << VIRTIO_NET_F_GUEST_CSUM
    | 1 << VIRTIO_NET_F_GUEST_TSO4
    | 1 << VIRTIO_NET_F_GUEST_TSO6
    | 1 << VIRTIO_NET_F_HOST_TSO4
    | 1 << VIRTIO_NET_F_HOST_TSO6
    | 1 << VIRTIO_NET_F_MRG_RXBUF
    | 1 << VIRTIO_NET_F_MAC
    | 1 << VIRTIO_NET_F_MTU;

/// The device.
pub struct Net {
    link: OwnedFd,
    /// Watches the link for what is of use at the moment.
    epoll: OwnedFd,
    watched: EventFlags,
    config: [u8; CONFIG_BYTES],
    packet: Box<[u8]>,
    /// Bytes of `packet` that wait for the guest's buffers.
    waiting_bytes: usize,
    /// The guest's frames wait for room on the link.
    is_transmit_held: bool,
    /// Nobody is at the other end any more: the guest's frames go nowhere.
    is_unplugged: bool,
}

/// `struct virtio_net_config` up to `mtu`: the address, status, and pairs of queues, section 5.1.4.
const CONFIG_BYTES: usize = 12;

impl Net {
    /// A device at the end of `link`, a packet socket.
    pub fn new(link: OwnedFd, mac: [u8; 6], mtu: u16) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&link, true)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let watched = EventFlags::IN;
        epoll::add(&epoll, &link, EventData::new_u64(0), watched)?;
        let mut config = [0; CONFIG_BYTES];
        config[..6].copy_from_slice(&mac);
        config[10..].copy_from_slice(&mtu.to_le_bytes());
        let packet = vec![0; MAX_PACKET_BYTES].into_boxed_slice();
        Ok(Self {
            link,
            epoll,
            watched,
            config,
            packet,
            waiting_bytes: 0,
            is_transmit_held: false,
            is_unplugged: false,
        })
    }

    /// The guest's frames, as long as the link takes them.
    fn transmit<M: GuestMemory>(&mut self, queues: &mut [Queue], mem: &M) -> Result<Outcome, DeviceError> {
        let queue = queues.get_mut(usize::from(TRANSMIT)).ok_or(DeviceError::NoSuchQueue(TRANSMIT))?;
        self.is_transmit_held = false;
        let outcome = drain(TRANSMIT, queue, mem, BUDGET, |chain| match self.send(chain, mem) {
            Sent::Gone => Served::Used(0),
            Sent::NoRoom => {
                self.is_transmit_held = true;
                Served::NotNow
            }
        })?;
        self.watch()?;
        Ok(outcome)
    }

    fn send<'a, M: GuestMemory>(&mut self, chain: DescriptorChain<&'a M>, mem: &'a M) -> Sent {
        let Ok(chain) = Chain::parse(chain, mem) else { return Sent::Gone };
        let is_frame = (HEADER_BYTES + 1..=MAX_PACKET_BYTES).contains(&chain.readable.len());
        if !is_frame || self.is_unplugged {
            return Sent::Gone;
        }
        match self.link.as_fd().send(&chain.readable) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Sent::NoRoom,
            // As on a cable: a frame that nobody takes is lost. The other end being gone is heard on reading.
            Ok(_) | Err(_) => Sent::Gone,
        }
    }

    /// Frames for the guest, as long as there are any and it has buffers for them.
    fn receive<M: GuestMemory>(&mut self, queues: &mut [Queue], mem: &M) -> Result<Outcome, DeviceError> {
        let queue = queues.get_mut(usize::from(RECEIVE)).ok_or(DeviceError::NoSuchQueue(RECEIVE))?;
        let mut outcome = Outcome::NONE;
        for _ in 0..BUDGET {
            if !self.next_packet() {
                break;
            }
            let packet = &mut self.packet[..self.waiting_bytes];
            let filled = fill(RECEIVE, queue, mem, packet.len(), |targets| write_over(packet, targets))?;
            match filled {
                Filled::Used(served) => outcome = outcome.merge(served),
                Filled::NoRoom => break,
            }
            self.waiting_bytes = 0;
        }
        self.watch()?;
        Ok(outcome)
    }

    /// Whether there is a packet for the guest, read from the link where none waits.
    fn next_packet(&mut self) -> bool {
        while self.waiting_bytes == 0 && !self.is_unplugged {
            match self.link.as_fd().receive(&mut Target::from_slice(&mut self.packet)) {
                Ok(0) => self.is_unplugged = true,
                Ok(len) if len > HEADER_BYTES => self.waiting_bytes = len,
                // Not a frame.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(_) => self.is_unplugged = true,
            }
        }
        self.waiting_bytes > 0
    }

    /// Watches the link for frames unless one waits, and for room when the guest's wait.
    fn watch(&mut self) -> io::Result<()> {
        let mut wanted = EventFlags::empty();
        wanted.set(EventFlags::IN, self.waiting_bytes == 0 && !self.is_unplugged);
        wanted.set(EventFlags::OUT, self.is_transmit_held && !self.is_unplugged);
        if wanted == self.watched {
            return Ok(());
        }
        match (self.watched.is_empty(), wanted.is_empty()) {
            // An end that hung up is told even to those who do not ask.
            (false, true) => epoll::delete(&self.epoll, &self.link)?,
            (true, false) => epoll::add(&self.epoll, &self.link, EventData::new_u64(0), wanted)?,
            _ => epoll::modify(&self.epoll, &self.link, EventData::new_u64(0), wanted)?,
        }
        self.watched = wanted;
        Ok(())
    }
}

/// What became of a frame of the guest.
enum Sent {
    Gone,
    NoRoom,
}

/// Spreads a packet over buffers, telling their number in its header; the bytes in each.
fn write_over(packet: &mut [u8], targets: &mut [Target<'_>]) -> Vec<u32> {
    let count = u16::try_from(targets.len()).unwrap_or(u16::MAX);
    packet[NUM_BUFFERS].copy_from_slice(&count.to_le_bytes());
    let mut rest = &packet[..];
    let write = |target: &mut Target<'_>| {
        let len = target.copy_from(rest);
        rest = &rest[len..];
        len as u32
    };
    targets.iter_mut().map(write).collect()
}

impl Device for Net {
    fn virtio_id(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE, QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn acknowledge(&mut self, _: u64) {}

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_from(&self.config, offset, data);
    }

    fn process<M: GuestMemory>(
        &mut self,
        index: u16,
        queues: &mut [Queue],
        mem: &M,
    ) -> Result<Outcome, DeviceError> {
        match index {
            RECEIVE => self.receive(queues, mem),
            TRANSMIT => self.transmit(queues, mem),
            _ => Err(DeviceError::NoSuchQueue(index)),
        }
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.as_fd())
    }

    fn host_ready<M: GuestMemory>(&mut self, queues: &mut [Queue], mem: &M) -> Result<Outcome, DeviceError> {
        let mut outcome = self.receive(queues, mem)?;
        if self.is_transmit_held {
            outcome = outcome.merge(self.transmit(queues, mem)?);
        }
        Ok(outcome)
    }

    fn reset(&mut self) {
        self.waiting_bytes = 0;
        self.is_transmit_held = false;
    }
}
