//! Who opens sockets for flows. Nothing else in this crate does, so that a test can prove that none was opened.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, ipproto, socket_with, sockopt};

/// Makes the host's ends of flows. Every descriptor it returns is non-blocking.
pub trait Dialer: Send {
    /// Begins a connection; that it can be written says that it is decided, `SO_ERROR` how.
    fn tcp(&mut self, to: SocketAddr) -> io::Result<OwnedFd>;

    /// A datagram socket that speaks with `to` alone.
    fn udp(&mut self, to: SocketAddr) -> io::Result<OwnedFd>;

    /// A socket for echo requests to `to`: messages begin with the ICMP header, whose identifier is the kernel's.
    fn ping(&mut self, to: IpAddr) -> io::Result<OwnedFd>;

    /// Whether `address` is one of the host's own.
    fn is_hosts(&mut self, address: IpAddr) -> bool;
}

/// The host's sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostDialer;

const FLAGS: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

impl Dialer for HostDialer {
    fn tcp(&mut self, to: SocketAddr) -> io::Result<OwnedFd> {
        let socket = socket_with(family(to.ip()), SocketType::STREAM, FLAGS, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        match connect(&socket, &to) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
            Err(error) => Err(error.into()),
        }
    }

    fn udp(&mut self, to: SocketAddr) -> io::Result<OwnedFd> {
        let socket = socket_with(family(to.ip()), SocketType::DGRAM, FLAGS, None)?;
        connect(&socket, &to)?;
        Ok(socket)
    }

    fn ping(&mut self, to: IpAddr) -> io::Result<OwnedFd> {
        let protocol = if to.is_ipv4() { ipproto::ICMP } else { ipproto::ICMPV6 };
        let socket = socket_with(family(to), SocketType::DGRAM, FLAGS, Some(protocol))?;
        connect(&socket, &SocketAddr::new(to, 0))?;
        Ok(socket)
    }

    /// Asks the kernel: only own addresses can be bound. That is right at any time, for every interface and for
    /// whole ranges that are routed to the host; where the question itself fails, the address counts as own.
    fn is_hosts(&mut self, address: IpAddr) -> bool {
        let Ok(socket) = socket_with(family(address), SocketType::DGRAM, FLAGS, None) else { return true };
        match bind(&socket, &SocketAddr::new(address, 0)) {
            Ok(()) => true,
            Err(Errno::ADDRNOTAVAIL | Errno::INVAL) => false,
            Err(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_knows_its_own_addresses() {
        assert!(HostDialer.is_hosts("127.0.0.1".parse().unwrap()));
        assert!(HostDialer.is_hosts("127.1.2.3".parse().unwrap()));
        assert!(!HostDialer.is_hosts("192.0.2.77".parse().unwrap()));
    }

    #[test]
    fn a_connection_to_a_listener_is_decided_once_it_can_be_written() {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = HostDialer.tcp(listener.local_addr().unwrap()).unwrap();
        let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
        assert_eq!(poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&limit)).unwrap(), 1);
        assert!(sockopt::socket_error(&socket).unwrap().is_ok());
    }
}
