//! A guest that does whatever a link can carry: everything stays bounded, and honest flows go on.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod lab;

use std::sync::{Mutex, MutexGuard, PoisonError};

use lab::{Dice, Lab, Script, at, guest, pattern, seconds};
use pyro_net::dns::{Question, RecordKind};
use pyro_net::limits::{LINK_BACKLOG, RING_BYTES, RINGS_BYTES};
use pyro_net::policy::Limits;
use pyro_net::{Dropped, End, Mode, Policy};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use smoltcp::socket::tcp::State;

/// Tests here measure the process's memory or fill the machine: one at a time.
static TURN: Mutex<()> = Mutex::new(());

fn my_turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

const SYN: u8 = 2;
const ACK: u8 = 16;

fn lab() -> Lab {
    Lab::new(Policy::of(Mode::Egress), 1)
}

/// A SYN with an option.
fn syn_with(port: u16, option: [u8; 4]) -> Vec<u8> {
    let mut segment = guest::tcp(port, "1.2.3.4:80", 1, SYN).split_off(20);
    segment[12] = 6 << 4;
    segment.extend(option);
    guest::v4([198, 19, 255, 2], [1, 2, 3, 4], 6, &segment)
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn dropped(lab: &Lab, why: Dropped) -> u64 {
    lab.stack.counters().dropped[why as usize]
}

/// Whether an honest connection still works.
fn check_honest(lab: &mut Lab) {
    lab.host.serve("1.1.1.1:7", Script::Echo);
    let handle = lab.guest.connect(at("1.1.1.1:7"));
    let mut got = Vec::new();
    let mut sent = 0;
    let bytes = pattern(50_000, 3);
    lab.run(seconds(30), |lab| {
        sent += lab.guest.write(handle, &bytes[sent..]);
        got.extend(lab.guest.read(handle));
        got.len() == bytes.len()
    });
    assert!(got == bytes);
    lab.guest.socket(handle).abort();
    lab.pass(seconds(1));
}

#[test]
fn spoofed_sources_fragments_and_groups_go_nowhere() {
    let _turn = my_turn();
    let mut lab = lab();
    for source in
        [[10, 0, 0, 1], [127, 0, 0, 1], [198, 19, 255, 1], [198, 19, 255, 3], [0, 0, 0, 0], [255; 4]]
    {
        let mut packet = guest::tcp(1000, "1.2.3.4:80", 1, SYN);
        packet[12..16].copy_from_slice(&source);
        lab.guest.send_raw(packet);
    }
    // Not whole eights, and beyond the largest packet.
    for field in [[0x20, 0], [0x1f, 0xff], [0x3f, 0xff]] {
        let mut packet = guest::udp(1000, "1.2.3.4:80", b"x");
        packet[6..8].copy_from_slice(&field);
        lab.guest.send_raw(packet);
    }
    for to in ["224.0.0.1:80", "255.255.255.255:67", "0.0.0.0:80", "198.19.255.2:80"] {
        lab.guest.send_raw(guest::udp(68, to, b"x"));
        lab.guest.send_raw(guest::tcp(68, to, 1, SYN));
    }
    lab.pass(seconds(1));
    assert_eq!(dropped(&lab, Dropped::Spoofed), 6);
    assert_eq!(dropped(&lab, Dropped::Fragment), 3);
    assert_eq!(dropped(&lab, Dropped::NotUnicast), 8);
    assert!(lab.seen.is_empty(), "nothing is answered");
    assert_eq!((lab.host.dialled().len(), lab.stack.counters().flows), (0, 0));
}

#[test]
fn a_flood_of_connections_stays_within_its_limits() {
    let _turn = my_turn();
    let mut lab = lab();
    lab.host.serve("1.2.3.4:80", Script::Hesitate);
    for number in 0..30_000u32 {
        let port = 1024 + (number % 60_000) as u16;
        lab.guest.send_raw(guest::tcp(port, "1.2.3.4:80", number, SYN));
        if number % 500 == 0 {
            lab.step();
        }
    }
    lab.pass(seconds(2));
    assert!(lab.stack.counters().flows <= 64);
    assert!(lab.host.dialled().len() <= 64);
    let events = lab.events();
    assert!(events.len() < 1000, "{} records of a flood", events.len());
    // What was left out is counted in the records that follow.
    lab.guest.connect(at("10.0.0.1:1"));
    lab.pass(seconds(2));
    let left_out: u64 = lab.events().iter().map(|event| event.left_out).sum();
    assert!(left_out > 20_000, "{left_out}");
    // Whoever never answers is given up.
    lab.pass(seconds(60));
    check_honest(&mut lab);
}

#[test]
fn a_guest_that_does_not_answer_our_syn_is_given_up() {
    let _turn = my_turn();
    let mut lab = lab();
    for port in 0..60 {
        lab.guest.send_raw(guest::tcp(2000 + port, "1.2.3.4:80", 1, SYN));
    }
    // The honest part of the guest would reset what it does not know.
    lab.faults.lost = 100;
    for packet in (0..60).map(|port| guest::tcp(2000 + port, "1.2.3.4:80", 1, SYN)) {
        lab.send(&guest::framed(&packet));
    }
    lab.turn();
    assert_eq!(lab.stack.counters().flows, 60);
    lab.pass(seconds(60));
    assert_eq!(lab.stack.counters().flows, 0);
}

#[test]
fn thousands_of_flows_hold_bounded_memory() {
    let _turn = my_turn();
    let limits = Limits { flows: 16384, half_open: 16384, syn_per_second: 100_000, ..Limits::default() };
    let mut lab = Lab::new(Policy { limits, ..Policy::of(Mode::Egress) }, 1);
    lab.host.serve("1.2.3.4:80", Script::Nothing);
    let before = resident_bytes();
    // Descriptors are the host's to give; half of what a process has by default.
    let count = 400u16;
    for port in 0..count {
        lab.send(&guest::framed(&guest::tcp(2000 + port, "1.2.3.4:80", 1, SYN)));
        lab.turn();
        lab.receive();
    }
    assert_eq!(lab.stack.counters().flows, usize::from(count));
    let each = resident_bytes().saturating_sub(before) / usize::from(count);
    assert!(each < 24 << 10, "{each} bytes for each idle flow");
}

#[test]
fn connections_that_fill_their_rings_make_room_for_each_other() {
    let _turn = my_turn();
    let mut lab = lab();
    lab.host.serve("1.2.3.4:80", Script::Nothing);
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum }).unwrap();
    let before = resident_bytes();
    let count = RINGS_BYTES / RING_BYTES + 200;
    let payload = vec![7; 60_000];
    for number in 0..count as u16 {
        let port = 2000 + number;
        // Windows as large as the rings need their scale.
        lab.send(&guest::framed(&syn_with(port, [1, 3, 3, 7])));
        lab.turn();
        lab.turn();
        let reply = lab.receive().pop().unwrap();
        let sequence = u32::from_be_bytes(reply[26 + 24..26 + 28].try_into().unwrap());
        let mut ack = guest::tcp(port, "1.2.3.4:80", 2, ACK);
        ack[28..32].copy_from_slice(&(sequence + 1).to_be_bytes());
        lab.send(&guest::framed(&ack));
        // Out of order: what the server cannot have yet takes memory all the same.
        for offset in (1..8u32).rev() {
            let mut segment = guest::tcp(port, "1.2.3.4:80", 2 + offset * 60_000, ACK);
            segment[28..32].copy_from_slice(&(sequence + 1).to_be_bytes());
            let whole =
                guest::v4([198, 19, 255, 2], [1, 2, 3, 4], 6, &[&segment[20..], &payload[..]].concat());
            lab.send(&guest::framed(&whole));
        }
        lab.now += std::time::Duration::from_millis(1);
        lab.turn();
        lab.receive();
    }
    lab.turn();
    let grown = resident_bytes().saturating_sub(before);
    assert!((RINGS_BYTES / 2..RINGS_BYTES + (64 << 20)).contains(&grown), "{grown}");
    assert!(lab.events().iter().any(|event| event.end == End::Crowded));
}

#[test]
fn a_guest_that_takes_nothing_fills_nothing_but_its_link() {
    let _turn = my_turn();
    let mut lab = lab();
    lab.host.serve("1.2.3.4:80", Script::Send(pattern(4 << 20, 1)));
    let before = resident_bytes();
    for round in 0..3000u16 {
        // Everything that is answered at once: echo, resets, errors, names.
        let echo = [8, 0, 0, 0, 0, 1, 0, 1].into_iter().chain([0; 1400]).collect::<Vec<u8>>();
        lab.send(&guest::framed(&guest::v4([198, 19, 255, 2], [198, 19, 255, 1], 1, &echo)));
        lab.send(&guest::framed(&guest::tcp(round, "1.2.3.4:81", 1, ACK)));
        lab.send(&guest::framed(&guest::udp(round.max(1), "10.0.0.1:9", b"x")));
        let question = Question::emit(round, &"x.example".parse().unwrap(), RecordKind::A);
        lab.send(&guest::framed(&guest::udp(round.max(1), "1.2.3.4:53", &question)));
        lab.turn();
    }
    assert!(lab.stack.counters().lost > 1000, "{:?}", lab.stack.counters());
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < LINK_BACKLOG * (64 << 10) + (16 << 20), "{grown}");
    // It takes again, and all is well.
    lab.pass(seconds(10));
    check_honest(&mut lab);
}

#[test]
fn datagram_flows_and_names_are_bounded() {
    let _turn = my_turn();
    let mut lab = lab();
    for number in 0..5000u32 {
        let port = 1024 + number as u16;
        lab.send(&guest::framed(&guest::udp(port, "1.2.3.4:9000", b"x")));
        let name = format!("n{number}.example").parse().unwrap();
        let question = Question::emit(port, &name, RecordKind::A);
        lab.send(&guest::framed(&guest::udp(port, "1.2.3.4:53", &question)));
        if number % 100 == 0 {
            lab.turn();
            lab.receive();
        }
    }
    lab.turn();
    assert!(lab.stack.counters().flows <= 256);
    assert!(lab.host.dialled().len() <= 256);
    lab.receive();
    check_honest(&mut lab);
}

#[test]
fn pieces_of_datagrams_hold_bounded_memory_and_overlaps_go_nowhere() {
    let _turn = my_turn();
    let mut lab = lab();
    let piece = |number: u16, field: u16, payload: &[u8]| {
        let mut packet = guest::v4([198, 19, 255, 2], [1, 2, 3, 4], 17, payload);
        packet[4..6].copy_from_slice(&number.to_be_bytes());
        packet[6..8].copy_from_slice(&field.to_be_bytes());
        packet
    };
    let before = resident_bytes();
    for number in 0..20_000u16 {
        // Each with the room of many, none with its beginning.
        lab.send(&guest::framed(&piece(number % 300, 0x2000 | (1 + number % 40 * 180), &[7; 1440])));
        if number.is_multiple_of(50) {
            lab.turn();
        }
    }
    lab.turn();
    assert!(resident_bytes() < before + (4 << 20));
    assert_eq!((lab.stack.counters().flows, lab.host.dialled().len()), (0, 0));
    // The head of a datagram to one port, and again of one to another.
    let head = |port: u16| {
        let [high, low] = port.to_be_bytes();
        [3, 232, high, low, 0, 17, 0, 0]
    };
    let refused = dropped(&lab, Dropped::Fragment);
    for packet in [piece(5, 0x2000, &head(4000)), piece(5, 0x2000, &head(25)), piece(5, 1, b"123456789")] {
        lab.send(&guest::framed(&packet));
    }
    lab.turn();
    assert_eq!(dropped(&lab, Dropped::Fragment), refused + 1);
    assert!(lab.host.dialled().is_empty());
    // The same without the lie is one datagram.
    lab.send(&guest::framed(&piece(6, 1, b"123456789")));
    lab.send(&guest::framed(&piece(6, 0x2000, &head(4000))));
    // Pieces whose sum does not hold were of several datagrams.
    let mut wrong = head(4001);
    wrong[7] = 1;
    lab.send(&guest::framed(&piece(7, 1, b"123456789")));
    lab.send(&guest::framed(&piece(7, 0x2000, &wrong)));
    lab.turn();
    assert_eq!(lab.host.dialled(), [at("1.2.3.4:4000")]);
    check_honest(&mut lab);
}

#[test]
fn no_packet_breaks_the_stack() {
    let _turn = my_turn();
    for seed in 0..20 {
        let mut lab = Lab::new(Policy::of(Mode::Egress), seed);
        let mut dice = Dice::new(seed + 77);
        let handle = lab.guest.connect(at("1.2.3.4:80"));
        lab.run(seconds(5), |lab| lab.guest.state(handle) == State::Established);
        let question = Question::emit(1, &"a.example".parse().unwrap(), RecordKind::Aaaa);
        let seeds = [
            guest::framed(&guest::tcp(40_001, "1.2.3.4:80", 1, SYN)),
            guest::framed(&guest::tcp(40_001, "1.2.3.4:80", 1, ACK)),
            guest::framed(&guest::tcp(40_001, "1.2.3.4:53", 1, SYN)),
            guest::framed(&guest::udp(5000, "1.2.3.4:53", &question)),
            guest::framed(&guest::udp(5000, "1.2.3.4:5000", &[7; 100])),
            guest::framed(&guest::in_pieces(&guest::udp(5000, "1.2.3.4:5000", &[7; 100]), 64, 1)[0]),
            guest::framed(&guest::in_pieces(&guest::udp(5000, "1.2.3.4:5000", &[7; 100]), 64, 1)[1]),
            guest::framed(&guest::v4([198, 19, 255, 2], [1, 2, 3, 4], 1, &[8, 0, 0, 0, 0, 1, 0, 1])),
            vec![0x60; 300],
        ];
        for _ in 0..3000 {
            let mut message = seeds[dice.roll(seeds.len() as u64) as usize].clone();
            // Behind the Ethernet header, so that most get somewhere.
            for _ in 0..dice.roll(5) {
                let at = 26 + dice.roll(message.len() as u64 - 26) as usize;
                message[at] = dice.roll(256) as u8;
            }
            if dice.roll(4) == 0 {
                message.truncate(dice.roll(message.len() as u64 + 1) as usize);
            }
            if message.is_empty() {
                continue;
            }
            lab.send(&message);
            if dice.roll(8) == 0 {
                lab.now += std::time::Duration::from_micros(dice.roll(200_000));
                lab.host.step();
                lab.turn();
                lab.receive();
            }
        }
        lab.pass(seconds(1));
        let counters = lab.stack.counters();
        assert!(counters.flows <= 1024 + 256, "{counters:?}");
    }
}

#[test]
fn segments_of_any_size_are_cut_to_what_the_guest_takes() {
    let _turn = my_turn();
    let mut lab = lab();
    lab.host.serve("1.2.3.4:80", Script::Send(pattern(100_000, 1)));
    for (port, segment_bytes) in [(3000, 0u16), (3001, 1), (3002, 48), (3003, 65535)] {
        let [high, low] = segment_bytes.to_be_bytes();
        let packet = syn_with(port, [2, 4, high, low]);
        lab.send(&guest::framed(&packet));
        for _ in 0..3 {
            lab.host.step();
            lab.turn();
        }
        let reply = lab.receive().pop().unwrap();
        let sequence = u32::from_be_bytes(reply[26 + 24..26 + 28].try_into().unwrap());
        let mut ack = guest::tcp(port, "1.2.3.4:80", 2, ACK);
        ack[28..32].copy_from_slice(&(sequence + 1).to_be_bytes());
        lab.send(&guest::framed(&ack));
        for _ in 0..3 {
            lab.host.step();
            lab.turn();
        }
        let data = lab.receive();
        assert!(!data.is_empty());
        for message in &data {
            // `segments` looks at each header.
            assert!(!guest::segments(message).is_empty());
        }
    }
}

#[test]
fn servers_that_flood_a_guest_that_takes_nothing_fill_their_own_sockets() {
    let _turn = my_turn();
    let mut lab = lab();
    lab.send(&guest::framed(&guest::udp(2000, "1.2.3.4:9", b"x")));
    lab.turn();
    // The link is full before the flood.
    while lab.stack.counters().lost == 0 {
        lab.send(&guest::framed(&guest::tcp(3000, "1.2.3.4:81", 1, ACK)));
        lab.turn();
    }
    let before = resident_bytes();
    let mut taken = 0;
    for _ in 0..200_000 {
        taken += usize::from(lab.host.push_datagram(0, &[7; 100]));
        lab.turn();
    }
    assert!(taken < 10_000, "{taken} datagrams were taken from the socket");
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 4 << 20, "{grown}");
}
