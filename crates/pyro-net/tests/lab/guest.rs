//! The guest: smoltcp, as far from the stack's use of it as can be: MTU 1500, sums computed, one interface.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use pyro_net::guest as addresses;
use pyro_net::limits::{ETHERNET_BYTES, VNET_BYTES};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpCidr};

pub struct Guest {
    interface: Interface,
    sockets: SocketSet<'static>,
    device: Queues,
    next_port: u16,
    /// Packets that are no TCP segments, whole IP packets.
    pub others: VecDeque<Vec<u8>>,
    raw: Vec<Vec<u8>>,
}

impl Guest {
    pub fn new(seed: u64) -> Self {
        let mut device = Queues::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed ^ 0xabcd;
        let mut interface = Interface::new(config, &mut device, Instant::ZERO);
        interface.update_ip_addrs(|own| {
            own.push(IpCidr::new(addresses::GUEST_V4.into(), addresses::PREFIX_V4)).unwrap();
            own.push(IpCidr::new(addresses::GUEST_V6.into(), addresses::PREFIX_V6)).unwrap();
        });
        interface.routes_mut().add_default_ipv4_route(addresses::GATEWAY_V4).unwrap();
        interface.routes_mut().add_default_ipv6_route(addresses::GATEWAY_V6).unwrap();
        Self {
            interface,
            sockets: SocketSet::new(Vec::new()),
            device,
            next_port: 40_000,
            others: VecDeque::new(),
            raw: Vec::new(),
        }
    }

    pub fn connect(&mut self, to: SocketAddr) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; 64 << 10]);
        let mut socket = Socket::new(buffer(), buffer());
        self.next_port += 1;
        let port = self.next_port;
        socket
            .connect(self.interface.context(), (smoltcp::wire::IpAddress::from(to.ip()), to.port()), port)
            .unwrap();
        self.sockets.add(socket)
    }

    pub fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub fn state(&mut self, handle: SocketHandle) -> State {
        self.socket(handle).state()
    }

    /// Writes as much of `bytes` as goes, and says how much.
    pub fn write(&mut self, handle: SocketHandle, bytes: &[u8]) -> usize {
        let socket = self.socket(handle);
        if socket.can_send() { socket.send_slice(bytes).unwrap() } else { 0 }
    }

    /// Reads what there is.
    pub fn read(&mut self, handle: SocketHandle) -> Vec<u8> {
        let socket = self.socket(handle);
        let mut bytes = vec![0; socket.recv_queue()];
        let count = if socket.can_recv() { socket.recv_slice(&mut bytes).unwrap() } else { 0 };
        bytes.truncate(count);
        bytes
    }

    /// Sends an IP packet of the test's own making.
    pub fn send_raw(&mut self, packet: Vec<u8>) {
        self.raw.push(packet);
    }

    pub fn poll(&mut self, now: Duration, arrived: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        for packet in arrived {
            let is_tcp = match packet[0] >> 4 {
                4 => packet[9] == 6,
                _ => packet[6] == 6,
            };
            if is_tcp {
                self.device.inbound.push_back(packet);
            } else {
                self.others.push_back(packet);
            }
        }
        self.interface.poll(instant(now), &mut self.device, &mut self.sockets);
        let mut sent: Vec<Vec<u8>> = self.device.outbound.drain(..).collect();
        sent.append(&mut self.raw);
        sent
    }

    pub fn patience(&mut self, now: Duration) -> Option<Duration> {
        let wait = self.interface.poll_delay(instant(now), &self.sockets)?;
        Some(Duration::from_micros(wait.total_micros()))
    }
}

fn instant(at: Duration) -> Instant {
    Instant::from_micros(at.as_micros() as i64)
}

#[derive(Default)]
struct Queues {
    inbound: VecDeque<Vec<u8>>,
    outbound: Vec<Vec<u8>>,
}

impl Device for Queues {
    type RxToken<'a> = Inbound;
    type TxToken<'a> = Outbound<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Inbound, Outbound<'_>)> {
        Some((Inbound(self.inbound.pop_front()?), Outbound(&mut self.outbound)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Outbound<'_>> {
        Some(Outbound(&mut self.outbound))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = usize::from(addresses::MTU);
        // The stack leaves its sums to the device, which is not here.
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

struct Inbound(Vec<u8>);

impl RxToken for Inbound {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

struct Outbound<'a>(&'a mut Vec<Vec<u8>>);

impl TxToken for Outbound<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut packet = vec![0; length];
        let result = write(&mut packet);
        self.0.push(packet);
        result
    }
}

/// An IP packet as the guest's device puts it on the link.
pub fn framed(packet: &[u8]) -> Vec<u8> {
    let mut message = vec![0; VNET_BYTES];
    message.extend(addresses::GATEWAY_MAC);
    message.extend(addresses::GUEST_MAC);
    message.extend(if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] });
    message.extend(packet);
    message
}

fn word(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

/// The IP packets of one message: a super-packet is cut as its virtio header says, as a device would.
pub fn segments(message: &[u8]) -> Vec<Vec<u8>> {
    let (virtio, frame) = message.split_at(VNET_BYTES);
    assert_eq!(frame[..6], addresses::GUEST_MAC);
    assert_eq!(frame[6..12], addresses::GATEWAY_MAC);
    let packet = &frame[ETHERNET_BYTES..];
    if frame[12..14] == [0x08, 0x06] {
        return Vec::new();
    }
    let kind = virtio[1];
    if kind == 0 {
        assert!(packet.len() <= usize::from(addresses::MTU), "{} bytes without segmentation", packet.len());
        return vec![packet.to_vec()];
    }
    assert_eq!(virtio[0], 1, "segmentation needs the sum");
    let (is_v4, size, head) = (kind == 1, word(virtio, 4), word(virtio, 2) - ETHERNET_BYTES);
    let tcp = word(virtio, 6) - ETHERNET_BYTES;
    assert!(head + size <= usize::from(addresses::MTU), "segments of {size}");
    assert_eq!((word(virtio, 8), packet[0] >> 4), (16, if is_v4 { 4 } else { 6 }));
    let first = u32::from_be_bytes(packet[tcp + 4..tcp + 8].try_into().unwrap());
    let last = packet[head..].len().div_ceil(size) - 1;
    let mut cut = Vec::new();
    for (number, piece) in packet[head..].chunks(size).enumerate() {
        let mut segment = packet[..head].to_vec();
        segment.extend(piece);
        let sequence = first.wrapping_add((number * size) as u32);
        segment[tcp + 4..tcp + 8].copy_from_slice(&sequence.to_be_bytes());
        if number != last {
            // FIN and PSH are the last one's.
            segment[tcp + 13] &= !9;
        }
        if is_v4 {
            let length = segment.len() as u16;
            segment[2..4].copy_from_slice(&length.to_be_bytes());
            segment[10..12].fill(0);
            let sum = !sum(&segment[..20]);
            segment[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            let length = (segment.len() - 40) as u16;
            segment[4..6].copy_from_slice(&length.to_be_bytes());
        }
        cut.push(segment);
    }
    cut
}

pub fn sum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// An IPv4 packet around `payload`.
pub fn v4(source: [u8; 4], destination: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend(((20 + payload.len()) as u16).to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    packet.extend(source);
    packet.extend(destination);
    let sum = !sum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// A UDP datagram of the guest's.
pub fn udp(from_port: u16, to: &str, payload: &[u8]) -> Vec<u8> {
    let to: std::net::SocketAddrV4 = to.parse().unwrap();
    let mut datagram = from_port.to_be_bytes().to_vec();
    datagram.extend(to.port().to_be_bytes());
    datagram.extend(((8 + payload.len()) as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    v4(addresses::GUEST_V4.octets(), to.ip().octets(), 17, &datagram)
}

/// A TCP segment without data.
pub fn tcp(from_port: u16, to: &str, sequence: u32, flags: u8) -> Vec<u8> {
    let to: std::net::SocketAddrV4 = to.parse().unwrap();
    let mut segment = from_port.to_be_bytes().to_vec();
    segment.extend(to.port().to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    segment.extend([0, 0, 0, 0, 5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    v4(addresses::GUEST_V4.octets(), to.ip().octets(), 6, &segment)
}

/// An IPv4 packet cut into pieces with payloads of `bytes` each.
pub fn in_pieces(packet: &[u8], bytes: usize, identification: u16) -> Vec<Vec<u8>> {
    let count = (packet.len() - 20).div_ceil(bytes);
    let cut = |(number, payload): (usize, &[u8])| {
        let more = u16::from(number + 1 < count) << 13;
        let mut piece = packet[..20].to_vec();
        piece[2..4].copy_from_slice(&((20 + payload.len()) as u16).to_be_bytes());
        piece[4..6].copy_from_slice(&identification.to_be_bytes());
        piece[6..8].copy_from_slice(&(more | (number * bytes / 8) as u16).to_be_bytes());
        piece.extend(payload);
        piece
    };
    packet[20..].chunks(bytes).enumerate().map(cut).collect()
}
