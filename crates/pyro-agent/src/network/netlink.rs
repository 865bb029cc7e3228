//! The few messages to the kernel's routing that an interface needs (rtnetlink(7), netlink(7)).

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const REPLACE: u16 = 0x100;
const CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const INTERFACE_UP: u32 = 1;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// The address is this guest's alone: nobody has to be asked.
const IFA_F_NODAD: u8 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const TABLE_MAIN: u8 = 254;
const PROTOCOL_BOOT: u8 = 3;
const TYPE_UNICAST: u8 = 1;
const HEADER_BYTES: usize = 16;
/// An acknowledgement repeats the request, which is small.
const ANSWER_BYTES: usize = 4096;

/// A message that is being put together.
pub(super) struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(REQUEST | ACKNOWLEDGE | flags).to_ne_bytes());
        Self(bytes)
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let len = u16::try_from(4 + value.len()).expect("addresses and numbers are short");
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// With its length, which comes first.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let len = u32::try_from(self.0.len()).expect("messages are short");
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0
    }
}

fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    u8::try_from(family).expect("families are small numbers")
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// `struct ifinfomsg`: up, with this MTU.
pub(super) fn link_up(interface: i32, mtu: u16) -> Message {
    Message::new(RTM_NEWLINK, 0)
        .bytes(&[0; 4])
        .bytes(&interface.to_ne_bytes())
        .bytes(&INTERFACE_UP.to_ne_bytes())
        .bytes(&INTERFACE_UP.to_ne_bytes())
        .attribute(IFLA_MTU, &u32::from(mtu).to_ne_bytes())
}

/// `struct ifaddrmsg`.
pub(super) fn address(interface: i32, address: IpAddr, prefix: u8) -> Message {
    Message::new(RTM_NEWADDR, CREATE | REPLACE)
        .bytes(&[family(address), prefix, IFA_F_NODAD, 0])
        .bytes(&interface.to_ne_bytes())
        .attribute(IFA_LOCAL, &octets(address))
        .attribute(IFA_ADDRESS, &octets(address))
}

/// `struct rtmsg`: everything else goes through `gateway`.
pub(super) fn default_route(interface: i32, gateway: IpAddr) -> Message {
    Message::new(RTM_NEWROUTE, CREATE | REPLACE)
        .bytes(&[family(gateway), 0, 0, 0, TABLE_MAIN, PROTOCOL_BOOT, 0, TYPE_UNICAST])
        .bytes(&[0; 4])
        .attribute(RTA_GATEWAY, &octets(gateway))
        .attribute(RTA_OIF, &interface.to_ne_bytes())
}

/// A connection to the kernel's routing.
pub(super) struct Route(OwnedFd);

impl Route {
    pub(super) fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        Ok(Self(rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?))
    }

    pub(super) fn set_up(&self, interface: i32, mtu: u16) -> io::Result<()> {
        self.ask(link_up(interface, mtu))
    }

    pub(super) fn add_address(&self, interface: i32, of: IpAddr, prefix: u8) -> io::Result<()> {
        self.ask(address(interface, of, prefix))
    }

    pub(super) fn add_default_route(&self, interface: i32, gateway: IpAddr) -> io::Result<()> {
        self.ask(default_route(interface, gateway))
    }

    /// The kernel answers at once.
    fn ask(&self, message: Message) -> io::Result<()> {
        rustix::net::send(&self.0, &message.finish(), SendFlags::empty())?;
        let mut answer = [0; ANSWER_BYTES];
        let (_, len) = rustix::net::recv(&self.0, &mut answer[..], RecvFlags::empty())?;
        acknowledged(&answer[..len])
    }
}

/// `struct nlmsgerr` behind a header: zero, or a negative error number.
pub(super) fn acknowledged(answer: &[u8]) -> io::Result<()> {
    let strange = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is no acknowledgement");
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let code = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(code)) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
        _ => Err(strange()),
    }
}
