use super::*;
use crate::guest::{GUEST_MAC, GUEST_V4, GUEST_V6};
use proptest::prelude::*;
use std::net::SocketAddr;

/// Ours go to the guest; turned round they are read like the guest's.
fn turned(mut message: Vec<u8>) -> Vec<u8> {
    message[VNET_BYTES..VNET_BYTES + 6].copy_from_slice(&GATEWAY_MAC);
    message[VNET_BYTES + 6..VNET_BYTES + 12].copy_from_slice(&GUEST_MAC);
    message
}

fn packet(message: &[u8]) -> Packet<'_> {
    match parse(message).unwrap() {
        Claim::Ip(packet) => packet,
        Claim::Arp { .. } | Claim::Fragment(_) => panic!("no packet"),
    }
}

/// Whether the sums of a packet of ours hold.
fn sums_hold(packet: &Packet<'_>) -> bool {
    let head = &packet.bytes[..packet.bytes.len() - packet.payload.len()];
    let ip = packet.source.is_ipv6() || sum::Sum::default().add(head).folded() == 0xffff;
    let over = match packet.protocol {
        ICMP => sum::Sum::default(),
        protocol => sum::Sum::pseudo(packet.source, packet.destination, protocol, packet.payload.len()),
    };
    ip && over.add(packet.payload).folded() == 0xffff
}

fn peers() -> [(SocketAddr, SocketAddr); 2] {
    [
        ("1.2.3.4:53".parse().unwrap(), (GUEST_V4, 4000).into()),
        ("[2001:db8::1]:53".parse().unwrap(), (GUEST_V6, 4000).into()),
    ]
}

#[test]
fn datagrams_that_we_make_can_be_read() {
    for (from, to) in peers() {
        let messages = emit::datagram(from, to, b"hello", 1);
        let message = turned(messages[0].clone());
        let packet = packet(&message);
        assert!(sums_hold(&packet));
        let datagram = Datagram::parse(packet.payload).unwrap();
        assert_eq!(
            (datagram.source_port, datagram.destination_port, datagram.payload),
            (53, 4000, &b"hello"[..])
        );
    }
}

#[test]
fn large_datagrams_come_in_pieces_that_fit_and_add_up() {
    for (from, to) in peers() {
        let payload: Vec<u8> = (0..5000u32).map(|n| n as u8).collect();
        let messages = emit::datagram(from, to, &payload, 7);
        assert!(messages.len() > 1);
        let mut fragments = fragments::Fragments::default();
        let mut whole = None;
        for message in &messages {
            assert!(message.len() <= emit::IP_AT + usize::from(crate::guest::MTU));
            let message = turned(message.clone());
            let Ok(Claim::Fragment(fragment)) = parse(&message) else { panic!("no piece") };
            assert!(whole.is_none());
            whole = fragments.take(&fragment, std::time::Duration::ZERO).unwrap();
        }
        let whole = emit::whole_packet(from.ip(), to.ip(), UDP, &whole.unwrap());
        let packet = packet_of(&whole).unwrap();
        assert!(sum_holds(&packet) && packet.payload[8..] == payload);
        let mut wrong = whole.clone();
        *wrong.last_mut().unwrap() ^= 1;
        assert!(!sum_holds(&packet_of(&wrong).unwrap()));
    }
}

#[test]
fn resets_answer_what_they_end() {
    for (from, to) in peers() {
        let mut segment = vec![0; 20];
        segment[0..2].copy_from_slice(&to.port().to_be_bytes());
        segment[4..8].copy_from_slice(&7u32.to_be_bytes());
        segment[12] = 5 << 4;
        segment[13] = TcpHead::SYN;
        let head = TcpHead::parse(&segment).unwrap();
        let asked = Packet {
            source: to.ip(),
            destination: from.ip(),
            protocol: TCP,
            bytes: &segment,
            payload: &segment,
        };
        let message = turned(emit::reset(&asked, &head));
        let packet = packet(&message);
        assert!(sums_hold(&packet));
        let reset = TcpHead::parse(packet.payload).unwrap();
        assert_eq!((reset.destination_port, reset.acknowledgement), (to.port(), 8));
        assert!(reset.is_set(TcpHead::RST) && reset.is_set(TcpHead::ACK));
    }
}

#[test]
fn errors_quote_what_did_not_arrive() {
    for (from, to) in peers() {
        let message = turned(emit::unreachable_datagram(to, from, emit::Unreachable::Port));
        let packet = packet(&message);
        assert!(sums_hold(&packet));
        let quoted = &packet.payload[8..];
        assert_eq!(u16_at(quoted, quoted.len() - 8), Some(to.port()));
    }
}

#[test]
fn options_are_walked_to_their_end() {
    assert_eq!(segment_option(&[1, 1, 2, 4, 5, 0xb4]), Some((4, 1460)));
    assert_eq!(segment_option(&[3, 0, 2, 4, 5, 0xb4]), Some((4, 1460)));
    for odd in [&[][..], &[0, 2, 4, 5, 0xb4], &[2], &[2, 4, 5], &[3, 255], &[1; 40]] {
        assert_eq!(segment_option(odd), None);
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0usize..3) {
        let _ = parse(&bytes);
        let _ = TcpHead::parse(&bytes);
        let _ = Datagram::parse(&bytes);
        let _ = Echo::parse(ICMP, &bytes);
        let _ = solicited(&bytes);
        if bytes.len() > emit::IP_AT {
            bytes[VNET_BYTES..VNET_BYTES + 6].copy_from_slice(&GATEWAY_MAC);
            let kind = [ETHERTYPE_V4, ETHERTYPE_V6, ETHERTYPE_ARP][kind];
            bytes[VNET_BYTES + 12..emit::IP_AT].copy_from_slice(&kind.to_be_bytes());
            bytes[emit::IP_AT] = if kind == ETHERTYPE_V4 { 0x45 } else { 0x60 };
            let _ = parse(&bytes);
        }
    }
}
