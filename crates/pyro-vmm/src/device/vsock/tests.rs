use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use super::*;
use crate::vsock::Operation;
use crate::vsock::limits::{BUFFER_BYTES, MAX_CONNECTIONS};

mod guest;
mod rules;

use guest::{Guest, OPEN_PORT, TestHost};

/// Bytes that differ from place to place, so that a lost or doubled piece shows.
fn pattern(len: usize) -> Vec<u8> {
    let mut state = 12345u32;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

const PORTS: (u32, u32) = (1024, OPEN_PORT);

/// A guest with one connection to the host.
fn connected() -> (Guest, UnixStream) {
    let mut guest = Guest::new();
    guest.connect(PORTS);
    assert!(guest.sockets[&PORTS].established);
    let stream = guest.host.take_got();
    (guest, stream)
}

/// A guest to which the host has connected.
fn connected_by_host() -> (Guest, UnixStream, (u32, u32)) {
    let mut guest = Guest::new();
    let stream = guest.host.connect(5005);
    guest.wait();
    let ports = *guest.sockets.keys().next().unwrap();
    (guest, stream, ports)
}

fn to_host(size: usize, write: usize) {
    let data = pattern(size);
    let (mut guest, mut stream) = connected();
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        got
    });
    let mut at = 0;
    while at < data.len() {
        let end = data.len().min(at + (1 << 20));
        at += guest.write(PORTS, &data[at..end], write);
        if at < end {
            guest.wait();
        }
    }
    guest.send_operation(PORTS, Operation::Shutdown, 3);
    while !guest.sockets[&PORTS].reset {
        guest.wait();
    }
    while guest.device.muxer.connection_count() > 0 {
        guest.wait();
    }
    assert!(reader.join().unwrap() == data, "the bytes differ");
}

fn to_guest(size: usize, write: usize) {
    let data = pattern(size);
    let (mut guest, mut stream, ports) = connected_by_host();
    let expected = data.clone();
    let writer = std::thread::spawn(move || {
        data.chunks(write).for_each(|chunk| stream.write_all(chunk).unwrap());
    });
    let mut got = Vec::with_capacity(size);
    while got.len() < size {
        let bytes = guest.read(ports, 100_000);
        if bytes.is_empty() {
            guest.wait();
        }
        got.extend(bytes);
    }
    writer.join().unwrap();
    assert!(got == expected, "the bytes differ");
    while guest.sockets[&ports].ended != 3 {
        guest.wait();
    }
    guest.send_operation(ports, Operation::Reset, 0);
    assert_eq!(guest.device.muxer.connection_count(), 0);
}

#[test]
fn bulk_to_the_host_arrives_intact_in_64_kib_writes() {
    to_host(48 << 20, 64 << 10);
}

#[test]
fn bulk_to_the_host_arrives_intact_in_4_kib_writes() {
    to_host(16 << 20, 4 << 10);
}

#[test]
fn bulk_to_the_host_arrives_intact_in_1_byte_writes() {
    to_host(100_000, 1);
}

#[test]
fn bulk_to_the_guest_arrives_intact_in_64_kib_writes() {
    to_guest(48 << 20, 64 << 10);
}

#[test]
fn bulk_to_the_guest_arrives_intact_in_4_kib_writes() {
    to_guest(16 << 20, 4 << 10);
}

#[test]
fn bulk_to_the_guest_arrives_intact_in_1_byte_writes() {
    to_guest(300_000, 1);
}

#[test]
fn a_batch_to_the_guest_is_one_interrupt() {
    let (mut guest, mut stream, ports) = connected_by_host();
    guest.interrupts = 0;
    stream.write_all(&pattern(100_000)).unwrap();
    guest.run();
    assert_eq!(guest.read(ports, usize::MAX).len(), 100_000);
    assert!(guest.log.len() > 20, "many packets");
    assert!(guest.interrupts <= 3, "{} interrupts", guest.interrupts);
}

#[test]
fn many_tiny_writes_never_exceed_the_packets_that_a_guest_holds() {
    let (mut guest, mut stream, ports) = connected_by_host();
    // Fewer than a socket holds in single bytes beyond what the guest takes.
    let data = pattern(600);
    for byte in &data {
        stream.write_all(&[*byte]).unwrap();
        // The model guest dies of one packet too many, as Linux resets.
        guest.run();
    }
    let held = guest.sockets[&ports].unread.len();
    assert!((300..450).contains(&held), "{held} packets wait");
    let mut got = Vec::new();
    while got.len() < data.len() {
        let bytes = guest.read(ports, usize::MAX);
        if bytes.is_empty() {
            guest.wait();
        }
        got.extend(bytes);
    }
    assert!(got == data, "the bytes differ");
}

#[test]
fn a_slow_reader_in_the_guest_stalls_nobody_else() {
    let (mut guest, mut slow, slow_ports) = connected_by_host();
    slow.set_nonblocking(true).unwrap();
    // As much as the guest's credit and the socket hold.
    while slow.write(&pattern(64 << 10)).is_ok_and(|len| len > 0) {
        guest.run();
    }
    let waiting: usize = guest.sockets[&slow_ports].unread.iter().map(Vec::len).sum();
    assert_eq!(waiting, guest::GUEST_BUFFER as usize, "full to the guest's credit");

    let mut quick = guest.host.connect(5005);
    guest.wait();
    let ports = *guest.sockets.keys().find(|ports| **ports != slow_ports).unwrap();
    for round in 0..100u32 {
        quick.write_all(&round.to_le_bytes()).unwrap();
        guest.wait();
        assert_eq!(guest.read(ports, 100), round.to_le_bytes());
    }
}

#[test]
fn a_stalled_host_socket_stalls_nobody_else_and_loses_nothing() {
    let (mut guest, mut slow) = connected();
    let data = pattern(1 << 20);
    let sent = guest.write(PORTS, &data, 64 << 10);
    assert!(sent >= BUFFER_BYTES as usize && sent < data.len(), "stopped by credit after {sent}");

    let other = (1025, OPEN_PORT);
    guest.connect(other);
    let mut quick = guest.host.take_got();
    for round in 0..100u32 {
        assert_eq!(guest.write(other, &round.to_le_bytes(), 4), 4);
        let mut got = [0; 4];
        quick.read_exact(&mut got).unwrap();
        assert_eq!(got, round.to_le_bytes());
        guest.run();
    }
    let mut got = vec![0; sent];
    let reader = std::thread::spawn(move || {
        slow.read_exact(&mut got).unwrap();
        (slow, got)
    });
    while guest.write(PORTS, &data[sent..sent + 1], 1) == 0 {
        guest.wait();
    }
    while !reader.is_finished() {
        guest.run();
        std::thread::yield_now();
    }
    let (_slow, got) = reader.join().unwrap();
    assert!(got == data[..sent], "the bytes differ");
}

#[test]
fn connections_with_much_to_send_take_turns() {
    let mut guest = Guest::new();
    let streams = [guest.host.connect(5005), guest.host.connect(5005)];
    guest.wait();
    guest.log.clear();
    streams.iter().for_each(|mut stream| stream.write_all(&pattern(100_000)).unwrap());
    guest.run();
    let turns = guest.log.windows(2).filter(|pair| pair[0].src_port != pair[1].src_port).count();
    assert!(guest.log.len() > 40 && turns > guest.log.len() / 2, "{turns} turns in {}", guest.log.len());
}

#[test]
fn two_bulk_transfers_to_the_guest_share_it_evenly() {
    let mut guest = Guest::new();
    let streams = [guest.host.connect(5005), guest.host.connect(5005)];
    guest.wait();
    let keys: Vec<_> = guest.sockets.keys().copied().collect();
    assert_eq!(keys.len(), 2);
    streams.iter().for_each(|stream| stream.set_nonblocking(true).unwrap());
    let mut read = [0usize; 2];
    while read.iter().sum::<usize>() < 16 << 20 {
        // Both always have something to say, whatever a scheduler thinks of it.
        streams.iter().for_each(|mut stream| while stream.write(&[7; 64 << 10]).is_ok() {});
        guest.run();
        for (total, ports) in read.iter_mut().zip(&keys) {
            *total += guest.read(*ports, usize::MAX).len();
        }
    }
    assert!(read.iter().all(|total| *total > 7 << 20), "{read:?}");
}

#[test]
fn the_guests_end_of_sending_leaves_the_other_direction_open() {
    let (mut guest, mut stream) = connected();
    assert_eq!(guest.write(PORTS, b"question", 8), 8);
    guest.send_operation(PORTS, Operation::Shutdown, 2);
    let mut got = String::new();
    stream.read_to_string(&mut got).unwrap();
    assert_eq!(got, "question");
    stream.write_all(b"answer").unwrap();
    guest.wait();
    assert_eq!(guest.read(PORTS, 100), b"answer");
    drop(stream);
    guest.wait();
    assert_eq!(guest.sockets[&PORTS].ended, 3);
}

#[test]
fn the_hosts_end_of_sending_leaves_the_other_direction_open() {
    let (mut guest, mut stream, ports) = connected_by_host();
    stream.write_all(b"question").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    guest.wait();
    assert_eq!(guest.read(ports, 100), b"question");
    guest.run();
    assert_eq!(guest.sockets[&ports].ended, 2);
    guest.run();
    assert_eq!(guest.write(ports, b"answer", 8), 6);
    guest.send_operation(ports, Operation::Shutdown, 3);
    assert!(guest.sockets[&ports].reset);
    let mut got = String::new();
    stream.read_to_string(&mut got).unwrap();
    assert_eq!(got, "answer");
    assert_eq!(guest.device.muxer.connection_count(), 0);
}

#[test]
fn what_the_host_wrote_before_it_closed_is_still_read() {
    let mut guest = Guest::new();
    let mut stream = guest.host.connect(5005);
    stream.write_all(&pattern(150_000)).unwrap();
    drop(stream);
    guest.wait();
    let ports = *guest.sockets.keys().next().unwrap();
    while guest.sockets[&ports].ended != 3 {
        guest.wait();
    }
    assert!(!guest.sockets[&ports].reset);
    assert!(guest.read(ports, usize::MAX) == pattern(150_000));
}

#[test]
fn what_the_guest_sent_before_it_closed_reaches_a_slow_host() {
    let (mut guest, mut stream) = connected();
    let data = pattern(400_000);
    let sent = guest.write(PORTS, &data, 64 << 10);
    assert!(sent > 250_000, "more than the socket takes");
    guest.send_operation(PORTS, Operation::Shutdown, 3);
    assert!(guest.sockets[&PORTS].reset, "the guest is not kept waiting");
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        got
    });
    while guest.device.muxer.connection_count() > 0 {
        guest.wait();
    }
    assert!(reader.join().unwrap() == data[..sent], "the bytes differ");
}

#[test]
fn a_host_that_stops_reading_for_good_ends_that_direction() {
    let (mut guest, stream) = connected();
    stream.shutdown(Shutdown::Read).unwrap();
    guest.write(PORTS, b"lost", 4);
    assert_eq!(guest.sockets[&PORTS].ended & 1, 1);
    drop(stream);
    guest.wait();
    assert_eq!(guest.sockets[&PORTS].ended, 3);
}

#[test]
fn a_guest_that_stops_reading_after_the_host_has_gone_is_told_so() {
    let (mut guest, mut stream, ports) = connected_by_host();
    stream.set_nonblocking(true).unwrap();
    // More than the guest's credit, so that the host's end lies behind unread bytes.
    while stream.write(&pattern(64 << 10)).is_ok_and(|len| len > 0) {
        guest.run();
    }
    assert!(guest.write(ports, &pattern(1 << 20), 64 << 10) < 1 << 20, "the host's socket is full too");
    drop(stream);
    guest.run();
    assert_eq!(guest.sockets[&ports].ended, 1, "what the host wrote can still be read");
    guest.send_operation(ports, Operation::Shutdown, 1);
    assert_eq!(guest.sockets[&ports].ended, 3);
}

#[test]
fn a_reset_of_the_device_ends_every_stream() {
    let (mut guest, mut stream) = connected();
    let mut other = guest.host.connect(5005);
    guest.wait();
    guest.device.reset();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(other.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(guest.device.muxer.connection_count(), 0);
}
