//! Packets of the guest: what the gateway answers itself, and who gets the rest.

use std::net::{IpAddr, SocketAddr};

use super::{FlowKey, Stack};
use crate::address;
use crate::guest;
use crate::packet::emit::{self, Unreachable};
use crate::packet::fragments::Fragment;
use crate::packet::{self, Claim, Datagram, Dropped, Echo, ICMP, ICMP6, Packet, TCP, TcpHead, UDP};
use crate::policy::Protocol;

impl Stack {
    /// Takes one packet of the link.
    pub(super) fn take_packet(&mut self, message: &[u8]) {
        self.counters.received += 1;
        let result = match packet::parse(message) {
            Ok(Claim::Arp { sender_mac, sender, target }) => {
                if target == guest::GATEWAY_V4 {
                    self.reply(|| emit::arp_reply(sender_mac, sender, target))
                } else {
                    Ok(())
                }
            }
            Ok(Claim::Ip(packet)) => self.take_ip(&packet),
            Ok(Claim::Fragment(fragment)) => self.take_fragment(&fragment),
            Err(dropped) => Err(dropped),
        };
        if let Err(dropped) = result {
            self.counters.dropped[dropped as usize] += 1;
        }
    }

    /// Takes a piece of a packet, and the packet once it is whole.
    fn take_fragment(&mut self, fragment: &Fragment<'_>) -> Result<(), Dropped> {
        let key = fragment.key;
        if !guest::is_guest(key.source) {
            return Err(Dropped::Spoofed);
        }
        let Some(payload) = self.fragments.take(fragment, self.now)? else { return Ok(()) };
        let whole = emit::whole_packet(key.source, key.destination, key.protocol, &payload);
        let packet = packet::packet_of(&whole)?;
        if !packet::sum_holds(&packet) {
            return Err(Dropped::Malformed);
        }
        self.take_ip(&packet)
    }

    fn take_ip(&mut self, packet: &Packet<'_>) -> Result<(), Dropped> {
        if packet.protocol == ICMP6
            && let Some(target) = packet::solicited(packet.payload)
        {
            return self.take_solicitation(packet, target);
        }
        if !guest::is_guest(packet.source) {
            return Err(Dropped::Spoofed);
        }
        if !address::is_unicast(packet.destination) || guest::is_guest(packet.destination) {
            return Err(Dropped::NotUnicast);
        }
        match packet.protocol {
            TCP => {
                let head = TcpHead::parse(packet.payload).ok_or(Dropped::Malformed)?;
                let key = FlowKey {
                    protocol: Protocol::Tcp,
                    source: SocketAddr::new(packet.source, head.source_port),
                    destination: SocketAddr::new(packet.destination, head.destination_port),
                };
                self.take_segment(packet, &head, key)
            }
            UDP => {
                let datagram = Datagram::parse(packet.payload).ok_or(Dropped::Malformed)?;
                let key = FlowKey {
                    protocol: Protocol::Udp,
                    source: SocketAddr::new(packet.source, datagram.source_port),
                    destination: SocketAddr::new(packet.destination, datagram.destination_port),
                };
                self.take_datagram(packet, datagram.payload, key)
            }
            ICMP | ICMP6 => {
                let echo = Echo::parse(packet.protocol, packet.payload).ok_or(Dropped::Protocol)?;
                if guest::is_gateway(packet.destination) {
                    return self.answer_echo(packet, &echo);
                }
                let key = FlowKey {
                    protocol: Protocol::Icmp,
                    source: SocketAddr::new(packet.source, echo.identifier),
                    destination: SocketAddr::new(packet.destination, 0),
                };
                self.take_datagram(packet, echo.rest, key)
            }
            _ => {
                self.reply(|| emit::unreachable(packet, Unreachable::Prohibited))?;
                Err(Dropped::Protocol)
            }
        }
    }

    /// Neighbours ask for the gateway from their own or their link's address; a guest that only looks whether its
    /// address is free asks from none and is told nothing.
    fn take_solicitation(&mut self, packet: &Packet<'_>, target: std::net::Ipv6Addr) -> Result<(), Dropped> {
        let IpAddr::V6(asker) = packet.source else { return Err(Dropped::Malformed) };
        if target != guest::GATEWAY_V6 || asker.is_unspecified() {
            return Ok(());
        }
        if asker != guest::GUEST_V6 && !asker.is_unicast_link_local() {
            return Err(Dropped::Spoofed);
        }
        self.reply(|| emit::neighbour_advertisement(asker, target))
    }

    fn answer_echo(&mut self, packet: &Packet<'_>, echo: &Echo<'_>) -> Result<(), Dropped> {
        let identification = self.next_identification();
        if !self.replies.take(self.now) {
            return Err(Dropped::Overrun);
        }
        let replies =
            emit::echo_reply(packet.destination, packet.source, echo.identifier, echo.rest, identification);
        for reply in replies {
            self.link.send(reply);
        }
        Ok(())
    }

    /// Answers at once, unless there was too much to answer.
    pub(super) fn reply(&mut self, make: impl FnOnce() -> Vec<u8>) -> Result<(), Dropped> {
        if !self.replies.take(self.now) {
            return Err(Dropped::Overrun);
        }
        self.link.send(make());
        Ok(())
    }
}
