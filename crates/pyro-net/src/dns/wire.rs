//! DNS messages (RFC 1035): one question in, one answer out.

use std::net::IpAddr;

use super::records::{Record, wire_name};
use crate::limits;
use crate::packet::u16_at;
use crate::policy::Name;

const HEAD_BYTES: usize = 12;
const CLASS_IN: u16 = 1;
const OPT: u16 = 41;
/// The answer says it is one.
const RESPONSE: u16 = 0x8000;
const RECURSION_DESIRED: u16 = 0x0100;
const RECURSION_AVAILABLE: u16 = 0x0080;
const TRUNCATED: u16 = 0x0200;
const OPCODE: u16 = 0x7800;
const MIN_UDP_BYTES: usize = 512;

/// Which records are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Anything else; what is known of them is asked of the host's name servers.
    Other(u16),
}

impl RecordKind {
    fn parse(number: u16) -> Self {
        match number {
            1 => Self::A,
            28 => Self::Aaaa,
            other => Self::Other(other),
        }
    }

    fn emit(self) -> u16 {
        match self {
            Self::A => 1,
            Self::Aaaa => 28,
            Self::Other(other) => other,
        }
    }
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What the client tells its questions apart by.
    pub id: u16,
    flags: u16,
    /// The name asked for; `None` where it is none that a host can have.
    pub name: Option<Name>,
    /// The question as it came, which the answer repeats: clients check its letters' case.
    section: Vec<u8>,
    /// Which records.
    pub kind: RecordKind,
    /// The longest answer that the client takes over UDP.
    pub udp_bytes: usize,
    has_opt: bool,
}

/// What is no question, and what to say to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Not even a head, or an answer: silence.
    Ignore,
    /// A head with something else behind it: this message.
    Reply(Vec<u8>),
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// These addresses, as far as they are of the kind that is asked for; none is an answer too.
    Addresses(Vec<IpAddr>),
    /// These records; none is an answer too.
    Records(Vec<Record>),
    /// There is no such name.
    NoSuchName,
    /// It cannot be told now.
    Failed,
}

const FORMAT_ERROR: u16 = 1;
const SERVER_FAILURE: u16 = 2;
const NO_SUCH_NAME: u16 = 3;
const NOT_IMPLEMENTED: u16 = 4;

impl Question {
    /// Reads a message with one question.
    pub fn parse(message: &[u8]) -> Result<Self, Malformed> {
        let word = |at| u16_at(message, at).ok_or(Malformed::Ignore);
        let (id, flags) = (word(0)?, word(2)?);
        let counts = [word(4)?, word(6)?, word(8)?, word(10)?];
        if flags & RESPONSE != 0 {
            return Err(Malformed::Ignore);
        }
        let error = |code| Malformed::Reply(bare(id, flags, code));
        if flags & OPCODE != 0 {
            return Err(error(NOT_IMPLEMENTED));
        }
        if counts[0] != 1 || counts[1] != 0 || counts[2] != 0 || message.len() > limits::MAX_QUESTION_BYTES {
            return Err(error(FORMAT_ERROR));
        }
        let (text, end) = parse_name(message, HEAD_BYTES).ok_or_else(|| error(FORMAT_ERROR))?;
        let kind = u16_at(message, end).ok_or_else(|| error(FORMAT_ERROR))?;
        let class = u16_at(message, end + 2).ok_or_else(|| error(FORMAT_ERROR))?;
        if class != CLASS_IN {
            return Err(error(NOT_IMPLEMENTED));
        }
        let opt = parse_opt(message, end + 4, counts[3]);
        Ok(Self {
            id,
            flags,
            name: text.and_then(|text| text.parse().ok()),
            section: message[HEAD_BYTES..end + 4].to_vec(),
            kind: RecordKind::parse(kind),
            udp_bytes: usize::from(opt.unwrap_or(0)).clamp(MIN_UDP_BYTES, limits::MAX_ANSWER_BYTES),
            has_opt: opt.is_some(),
        })
    }

    /// The message that answers it, of at most `most_bytes`; what does not fit is left out and said to be.
    #[must_use]
    pub fn answer(&self, answer: &Answer, most_bytes: usize) -> Vec<u8> {
        let (code, records): (u16, Vec<Vec<u8>>) = match answer {
            Answer::Addresses(addresses) => (0, self.address_records(addresses)),
            Answer::Records(records) => (0, records.iter().map(|record| self.other_record(record)).collect()),
            Answer::NoSuchName => (NO_SUCH_NAME, Vec::new()),
            Answer::Failed => (SERVER_FAILURE, Vec::new()),
        };
        let opt_bytes = if self.has_opt { 11 } else { 0 };
        let mut room = most_bytes.saturating_sub(HEAD_BYTES + self.section.len() + opt_bytes);
        let fits = |record: &&Vec<u8>| match room.checked_sub(record.len()) {
            Some(left) => {
                room = left;
                true
            }
            None => false,
        };
        let fitting = records.iter().take_while(fits).count();
        let truncated = if fitting < records.len() { TRUNCATED } else { 0 };

        let mut message = bare(self.id, self.flags, code | truncated);
        message[4..6].copy_from_slice(&1u16.to_be_bytes());
        message[6..8].copy_from_slice(&(fitting as u16).to_be_bytes());
        message[10..12].copy_from_slice(&u16::from(self.has_opt).to_be_bytes());
        message.extend(&self.section);
        message.extend(records[..fitting].iter().flatten());
        if self.has_opt {
            message.push(0);
            message.extend(OPT.to_be_bytes());
            message.extend((limits::MAX_ANSWER_BYTES as u16).to_be_bytes());
            message.extend([0; 6]);
        }
        message
    }

    fn address_records(&self, addresses: &[IpAddr]) -> Vec<Vec<u8>> {
        let is_wanted = |address: &&IpAddr| match self.kind {
            RecordKind::A => address.is_ipv4(),
            RecordKind::Aaaa => address.is_ipv6(),
            RecordKind::Other(_) => false,
        };
        let record = |address: &IpAddr| match address {
            IpAddr::V4(v4) => emit_record(OWN_NAME, self.kind.emit(), limits::ANSWER_TTL_S, &v4.octets()),
            IpAddr::V6(v6) => emit_record(OWN_NAME, self.kind.emit(), limits::ANSWER_TTL_S, &v6.octets()),
        };
        addresses.iter().filter(is_wanted).take(limits::MAX_ANSWER_ADDRESSES).map(record).collect()
    }

    fn other_record(&self, record: &Record) -> Vec<u8> {
        let is_own = self.section.get(..record.owner.len()) == Some(record.owner.as_slice());
        let owner = if is_own { OWN_NAME } else { &record.owner };
        emit_record(owner, record.kind, record.ttl_s.min(limits::ANSWER_TTL_S), &record.data)
    }

    /// A question as a client writes it.
    #[must_use]
    pub fn emit(id: u16, name: &Name, kind: RecordKind) -> Vec<u8> {
        let mut message = id.to_be_bytes().to_vec();
        message.extend(RECURSION_DESIRED.to_be_bytes());
        message.extend([0, 1, 0, 0, 0, 0, 0, 0]);
        message.extend(wire_name(name));
        message.extend(kind.emit().to_be_bytes());
        message.extend(CLASS_IN.to_be_bytes());
        message
    }
}

/// The question's name, which stands right behind the head.
const OWN_NAME: &[u8] = &[0xc0, HEAD_BYTES as u8];

fn emit_record(owner: &[u8], kind: u16, ttl_s: u32, data: &[u8]) -> Vec<u8> {
    let mut record = owner.to_vec();
    record.extend(kind.to_be_bytes());
    record.extend(CLASS_IN.to_be_bytes());
    record.extend(ttl_s.to_be_bytes());
    record.extend((data.len() as u16).to_be_bytes());
    record.extend(data);
    record
}

/// A head alone.
fn bare(id: u16, flags: u16, code: u16) -> Vec<u8> {
    let flags = RESPONSE | RECURSION_AVAILABLE | flags & (OPCODE | RECURSION_DESIRED) | code;
    let mut message = id.to_be_bytes().to_vec();
    message.extend(flags.to_be_bytes());
    message.resize(HEAD_BYTES, 0);
    message
}

/// A name without pointers, which a question has no use for, and where it ends; its text if it has one.
fn parse_name(message: &[u8], mut at: usize) -> Option<(Option<String>, usize)> {
    let start = at;
    let mut text = Some(String::new());
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            return Some((text, at));
        }
        if length > 63 || at + length - start > 255 {
            return None;
        }
        let label = message.get(at..at + length)?;
        at += length;
        // A dot inside a label must not become one between labels.
        let is_plain = label.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'.');
        text = text.filter(|_| is_plain).map(|mut text| {
            if !text.is_empty() {
                text.push('.');
            }
            text.extend(label.iter().map(|byte| char::from(*byte)));
            text
        });
    }
}

/// The size for UDP out of the OPT record, the only additional one that questions have.
fn parse_opt(message: &[u8], at: usize, additional: u16) -> Option<u16> {
    let is_opt = additional == 1 && message.get(at) == Some(&0) && u16_at(message, at + 1) == Some(OPT);
    if is_opt { u16_at(message, at + 3) } else { None }
}

#[cfg(test)]
mod tests;
