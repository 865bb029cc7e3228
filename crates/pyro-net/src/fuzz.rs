//! Entry points of the fuzz targets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

use crate::dialer::Dialer;
use crate::dns::{Answer, Question, ResolveError, Resolver, Ticket};
use crate::event::FlowEvent;
use crate::guest::{GATEWAY_MAC, GUEST_V4, GUEST_V6};
use crate::limits;
use crate::opening::{self, Expected};
use crate::policy::{Mode, Name, Policy, PolicyFile, Rule};
use crate::proxy::{self, Proxy};
use crate::stack::{Setup, Stack};

/// Servers that say one thing; every other one hangs up after it, and the last few of the rest stay.
struct Nobody(Vec<OwnedFd>, usize);

impl Nobody {
    fn pair(&mut self, kind: SocketType) -> io::Result<OwnedFd> {
        const STAYING: usize = 64;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (own, theirs) = socketpair(AddressFamily::UNIX, kind, flags, None)?;
        send(&theirs, b"HTTP/1.1 200 OK\r\n\r\n", SendFlags::NOSIGNAL)?;
        self.1 += 1;
        if self.1.is_multiple_of(2) {
            self.0.truncate(STAYING - 1);
            self.0.push(theirs);
        }
        Ok(own)
    }
}

impl Dialer for Nobody {
    fn tcp(&mut self, to: SocketAddr) -> io::Result<OwnedFd> {
        if to.port().is_multiple_of(7) {
            return Err(rustix::io::Errno::CONNREFUSED.into());
        }
        self.pair(SocketType::STREAM)
    }

    fn udp(&mut self, _: SocketAddr) -> io::Result<OwnedFd> {
        self.pair(SocketType::DGRAM)
    }

    fn ping(&mut self, _: IpAddr) -> io::Result<OwnedFd> {
        self.pair(SocketType::DGRAM)
    }

    fn is_hosts(&mut self, _: IpAddr) -> bool {
        false
    }
}

/// Knows every other name.
#[derive(Default)]
struct Names(Vec<(Ticket, Name)>);

impl Resolver for Names {
    fn ask(&mut self, ticket: Ticket, name: &Name) {
        self.0.push((ticket, name.clone()));
    }

    fn finished(&mut self) -> Option<(Ticket, Result<Vec<IpAddr>, ResolveError>)> {
        let (ticket, name) = self.0.pop()?;
        let is_known = name.as_str().len().is_multiple_of(2);
        let addresses = vec![IpAddr::from([1, 2, 3, 4]), IpAddr::from([10, 0, 0, 1])];
        Some((ticket, if is_known { Ok(addresses) } else { Err(ResolveError::NoSuchName) }))
    }

    fn wakes(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Packets of a guest to a whole stack. Each is two bytes of length, a byte of time and flags, and the packet; most
/// get a head that leads them past the first checks.
pub fn fuzz_frames(bytes: &[u8]) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let Ok((link, cable)) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None) else {
        return;
    };
    let mut policy = Policy::of(if bytes.first().is_some_and(|byte| byte & 1 == 1) {
        Mode::AllowList
    } else {
        Mode::Egress
    });
    policy.allow.extend("*.a".parse::<Rule>());
    policy.allow.extend("1.2.3.4".parse::<Rule>());
    let is_proxied = bytes.first().is_some_and(|byte| byte & 2 == 2);
    let proxy = is_proxied.then(|| Proxy::parse("http://a:b@1.2.3.5:3128", ".b").ok()).flatten();
    let setup = Setup { policy, proxy, epoch: Duration::ZERO, seed: 1 };
    let sink = |event: FlowEvent| assert!(!event.to_json_line().is_empty());
    let stack =
        Stack::new(setup, link, Box::new(Nobody(Vec::new(), 0)), Box::new(Names::default()), Box::new(sink));
    let Ok(mut stack) = stack else { return };
    let (mut now, mut rest) = (Duration::ZERO, bytes.get(1..).unwrap_or_default());
    let mut buffer = vec![0; limits::MAX_LINK_BYTES];
    while let [low, high, control, tail @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*low, *high & 7])).min(tail.len());
        let (packet, tail) = tail.split_at(length);
        rest = tail;
        let _ = send(&cable, &with_head(*control, packet), SendFlags::NOSIGNAL);
        now += Duration::from_millis(1 << (control & 15));
        if stack.wait(Some(Duration::ZERO)).is_err() || stack.work(now).is_err() {
            return;
        }
        while recv(&cable, &mut buffer[..], RecvFlags::empty()).is_ok() {}
    }
    stack.end();
    assert_eq!(stack.counters().flows, 0);
}

/// Puts Ethernet and IP headers around what a protocol is fuzzed with; one kind is left as it is.
fn with_head(control: u8, packet: &[u8]) -> Vec<u8> {
    let mut message = vec![0; limits::VNET_BYTES];
    let protocol = match control >> 4 & 3 {
        0 => 6,
        1 => 17,
        2 => 1,
        _ => {
            message.extend(GATEWAY_MAC);
            message.extend(packet);
            return message;
        }
    };
    message.extend(GATEWAY_MAC);
    message.extend([2, 0, 0, 0, 0, 1]);
    if control & 0x40 == 0 {
        message.extend([8, 0, 0x45, 0]);
        message.extend((20 + packet.len() as u16).to_be_bytes());
        message.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
        message.extend(GUEST_V4.octets());
        message.extend([1, 2, 3, 4]);
    } else {
        message.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        message.extend((packet.len() as u16).to_be_bytes());
        message.extend([if protocol == 1 { 58 } else { protocol }, 64]);
        message.extend(GUEST_V6.octets());
        message.extend([0x26, 0x06, 0x47, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    }
    message.extend(packet);
    message
}

/// A question, the answer to it, the first bytes of connections, and the texts of rules.
pub fn fuzz_names(bytes: &[u8]) {
    if let Ok(question) = Question::parse(bytes) {
        let addresses = vec![IpAddr::from([1, 2, 3, 4]); 20];
        let answer = question.answer(&Answer::Addresses(addresses), question.udp_bytes);
        assert!(answer.len() <= question.udp_bytes.max(limits::MAX_QUESTION_BYTES + 32));
        // An answer is no question.
        assert!(Question::parse(&answer).is_err());
    }
    let _ = opening::inspect(Expected::Tls, bytes);
    let _ = opening::inspect(Expected::Http, bytes);
    let _ = proxy::inspect(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok(rule) = text.parse::<Rule>() {
            assert_eq!(rule.to_string().parse::<Rule>().as_ref(), Ok(&rule));
        }
        let _ = PolicyFile::parse(text);
        let _ = Proxy::parse(text, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            fuzz_frames(&bytes);
            fuzz_names(&bytes);
        }
    }
}
