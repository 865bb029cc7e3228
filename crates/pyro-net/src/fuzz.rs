//! Entry points of the fuzz targets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

use crate::dialer::Dialer;
use crate::dns::{self, Answer, Found, Question, RecordKind, ResolveError, Resolver, Ticket, Wanted};
use crate::event::FlowEvent;
use crate::guest::{GATEWAY_MAC, GUEST_V4, GUEST_V6};
use crate::limits;
use crate::opening::{self, Expected, Requests};
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
struct Names(Vec<(Ticket, Name, Wanted)>);

impl Resolver for Names {
    fn ask(&mut self, ticket: Ticket, name: &Name, wanted: Wanted) {
        self.0.push((ticket, name.clone(), wanted));
    }

    fn finished(&mut self) -> Option<(Ticket, Result<Found, ResolveError>)> {
        let (ticket, name, wanted) = self.0.pop()?;
        let is_known = name.as_str().len().is_multiple_of(2);
        let addresses = vec![IpAddr::from([1, 2, 3, 4]), IpAddr::from([10, 0, 0, 1])];
        let found = match wanted {
            Wanted::Addresses => Found::Addresses(addresses),
            Wanted::Records(_) => Found::Records(Vec::new()),
        };
        Some((ticket, if is_known { Ok(found) } else { Err(ResolveError::NoSuchName) }))
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

/// Puts Ethernet and IP headers around what a protocol is fuzzed with; one kind is left as it is. Some are pieces of
/// packets, whose place the first two bytes tell.
fn with_head(control: u8, packet: &[u8]) -> Vec<u8> {
    let mut message = vec![0; limits::VNET_BYTES];
    let (place, packet) = match packet {
        [high, low, rest @ ..] if control & 0x80 != 0 => ([*high & 0x3f, *low], rest),
        whole => ([0; 2], whole),
    };
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
        message.extend([0, 0, place[0], place[1], 64, protocol, 0, 0]);
        message.extend(GUEST_V4.octets());
        message.extend([1, 2, 3, 4]);
    } else {
        message.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        let protocol = if protocol == 1 { 58 } else { protocol };
        let is_piece = place != [0; 2];
        message.extend((packet.len() as u16 + if is_piece { 8 } else { 0 }).to_be_bytes());
        message.extend([if is_piece { 44 } else { protocol }, 64]);
        message.extend(GUEST_V6.octets());
        message.extend([0x26, 0x06, 0x47, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        if is_piece {
            message.extend([protocol, 0, place[0], place[1], 0, 0, 0, 1]);
        }
    }
    message.extend(packet);
    message
}

/// Another server's answer to a question that it repeats; what is passed on fits, and is itself no question.
fn fuzz_records(bytes: &[u8]) {
    const KINDS: [u16; 12] = [2, 5, 6, 12, 15, 16, 33, 44, 52, 64, 65, 257];
    let [kind, count, rest @ ..] = bytes else { return };
    let kind = KINDS[usize::from(*kind) % KINDS.len()];
    let Ok(name) = "a.example".parse::<Name>() else { return };
    let mut message = Question::emit(7, &name, RecordKind::Other(kind));
    let Ok(question) = Question::parse(&message) else { return };
    message[2] |= 0x80;
    message[7] = *count;
    message.extend(rest);
    if let dns::Response::Records(records) = dns::parse_response(&message, 7, &name, kind) {
        let answer = question.answer(&Answer::Records(records), question.udp_bytes);
        assert!(answer.len() <= question.udp_bytes && Question::parse(&answer).is_err());
    }
}

/// Requests of a connection: what passes is the same however they are cut.
fn fuzz_requests(bytes: &[u8]) {
    let Ok(name) = "a.b".parse::<Name>() else { return };
    let pass = |piece: usize| {
        let mut requests = Requests::new(name.clone());
        let (mut at, mut end) = (0, 0);
        loop {
            let Ok(room) = requests.room(&bytes[at..end]) else { return at };
            let count = room.min(end - at);
            if count == 0 && end == bytes.len() {
                return at;
            }
            if count == 0 {
                end = (end + piece).min(bytes.len());
            }
            requests.passed(count);
            at += count;
        }
    };
    if bytes.len() < limits::MAX_OPENING_BYTES {
        assert_eq!(pass(1), pass(bytes.len()));
    }
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
    fuzz_records(bytes);
    let _ = opening::inspect(Expected::Tls, bytes);
    let _ = opening::inspect(Expected::Http, bytes);
    fuzz_requests(bytes);
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
