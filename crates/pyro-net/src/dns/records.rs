//! Records other than addresses: read out of another name server's answer and written anew, never passed on as they
//! came. What is not of a kind that is known here is left out.

use crate::limits;
use crate::packet::u16_at;
use crate::policy::Name;

const HEAD_BYTES: usize = 12;
const CLASS_IN: u16 = 1;
const RESPONSE: u16 = 0x8000;
const TRUNCATED: u16 = 0x0200;
const OPCODE: u16 = 0x7800;
const NO_SUCH_NAME: u16 = 3;
const MAX_NAME_BYTES: usize = 255;

const NS: u16 = 2;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const PTR: u16 = 12;
const MX: u16 = 15;
const TXT: u16 = 16;
const SRV: u16 = 33;
const SSHFP: u16 = 44;
const TLSA: u16 = 52;
const SVCB: u16 = 64;
const HTTPS: u16 = 65;
const CAA: u16 = 257;

/// One record, in the form in which it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The name's labels, each with its length before it, and the root.
    pub(super) owner: Vec<u8>,
    pub(super) kind: u16,
    pub(super) ttl_s: u32,
    pub(super) data: Vec<u8>,
}

/// What another name server's message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Response {
    /// The records of the kind that was asked for, with the aliases that lead to them.
    Records(Vec<Record>),
    NoSuchName,
    /// It does not fit a datagram.
    Truncated,
    /// The server cannot tell, or what it says makes no sense.
    Failed,
    /// It answers another question.
    Other,
}

/// Whether records of `kind` can be passed on.
pub(crate) fn is_known(kind: u16) -> bool {
    matches!(kind, NS | CNAME | SOA | PTR | MX | TXT | SRV | SSHFP | TLSA | SVCB | HTTPS | CAA)
}

/// Reads the answer to question `id` for records of `kind` of `name`.
pub(crate) fn parse_response(message: &[u8], id: u16, name: &Name, kind: u16) -> Response {
    let Some(flags) = u16_at(message, 2) else { return Response::Other };
    let is_ours = u16_at(message, 0) == Some(id) && flags & (RESPONSE | OPCODE) == RESPONSE;
    let own = wire_name(name);
    match read_name(message, HEAD_BYTES) {
        Some((asked, end))
            if is_ours
                && u16_at(message, 4) == Some(1)
                && asked.eq_ignore_ascii_case(&own)
                && u16_at(message, end) == Some(kind)
                && u16_at(message, end + 2) == Some(CLASS_IN) =>
        {
            match flags & 15 {
                0 if flags & TRUNCATED != 0 => Response::Truncated,
                0 => parse_records(message, end + 4, own, kind).map_or(Response::Failed, Response::Records),
                NO_SUCH_NAME => Response::NoSuchName,
                _ => Response::Failed,
            }
        }
        Some(_) | None => Response::Other,
    }
}

/// The records that answer the question, wherever aliases lead.
fn parse_records(message: &[u8], mut at: usize, own: Vec<u8>, kind: u16) -> Option<Vec<Record>> {
    let mut owners = vec![own];
    let mut records = Vec::new();
    for _ in 0..u16_at(message, 6)? {
        let (owner, end) = read_name(message, at)?;
        let (found, class) = (u16_at(message, end)?, u16_at(message, end + 2)?);
        let ttl_s = u32::from(u16_at(message, end + 4)?) << 16 | u32::from(u16_at(message, end + 6)?);
        let from = end + 10;
        at = from + usize::from(u16_at(message, end + 8)?);
        // What lies beyond the record's own end is not its.
        let upto = message.get(..at)?;
        let is_wanted = class == CLASS_IN
            && (found == kind || found == CNAME)
            && owners.iter().any(|known| known.eq_ignore_ascii_case(&owner));
        if !is_wanted || records.len() == limits::MAX_ANSWER_RECORDS {
            continue;
        }
        let Some(data) = read_data(upto, from, found)? else { continue };
        if found == CNAME && owners.len() < limits::MAX_ALIASES {
            owners.push(data.clone());
        }
        records.push(Record { owner, kind: found, ttl_s, data });
    }
    Some(records)
}

/// A record's data, written anew out of its parts; inside, `None` for a record that is better left out.
fn read_data(message: &[u8], at: usize, kind: u16) -> Option<Option<Vec<u8>>> {
    let names = |fixed: usize, count: usize, rest: usize| {
        let mut data = message.get(at..at + fixed)?.to_vec();
        let mut at = at + fixed;
        for _ in 0..count {
            let (name, end) = read_name(message, at)?;
            data.extend(name);
            at = end;
        }
        data.extend(message.get(at..at + rest)?);
        (at + rest == message.len()).then_some(data)
    };
    let bytes = message.get(at..)?;
    match kind {
        NS | CNAME | PTR => names(0, 1, 0).map(Some),
        SOA => names(0, 2, 20).map(Some),
        MX => names(2, 1, 0).map(Some),
        SRV => names(6, 1, 0).map(Some),
        TXT => are_strings(bytes).then(|| Some(bytes.to_vec())),
        SSHFP => (bytes.len() > 2).then(|| Some(bytes.to_vec())),
        TLSA => (bytes.len() > 3).then(|| Some(bytes.to_vec())),
        CAA => {
            let tag = bytes.get(2..2 + usize::from(*bytes.get(1)?))?;
            let is_tag = !tag.is_empty() && tag.iter().all(u8::is_ascii_alphanumeric);
            is_tag.then(|| Some(bytes.to_vec()))
        }
        SVCB | HTTPS => read_service(message, at),
        _ => Some(None),
    }
}

/// Strings, each with its length before it.
fn are_strings(mut bytes: &[u8]) -> bool {
    if bytes.is_empty() {
        return false;
    }
    while let [length, rest @ ..] = bytes {
        match rest.get(usize::from(*length)..) {
            Some(rest) => bytes = rest,
            None => return false,
        }
    }
    true
}

/// A service's binding (RFC 9460). Of its parameters only the protocols and the port are kept: hints for addresses
/// would lead past the addresses that names are known by, and keys for encrypted hellos past the check of names.
fn read_service(message: &[u8], at: usize) -> Option<Option<Vec<u8>>> {
    const MANDATORY: u16 = 0;
    const ALPN: u16 = 1;
    const NO_DEFAULT_ALPN: u16 = 2;
    const PORT: u16 = 3;
    let mut data = message.get(at..at + 2)?.to_vec();
    let (target, mut at) = read_name(message, at + 2)?;
    data.extend(target);
    let mut last = None;
    while at < message.len() {
        let key = u16_at(message, at)?;
        let end = at + 4 + usize::from(u16_at(message, at + 2)?);
        let value = message.get(at + 4..end)?;
        // Once each, in ascending order.
        if last.replace(key).is_some_and(|last| last >= key) {
            return None;
        }
        let is_well_formed = match key {
            MANDATORY => {
                let mut keys = value.chunks(2);
                if value.len().is_multiple_of(2) && keys.any(|key| u16_at(key, 0) > Some(PORT)) {
                    return Some(None);
                }
                !value.is_empty() && value.len().is_multiple_of(2)
            }
            ALPN => are_strings(value),
            NO_DEFAULT_ALPN => value.is_empty(),
            PORT => value.len() == 2,
            _ => true,
        };
        if !is_well_formed {
            return None;
        }
        if key <= PORT {
            data.extend(message.get(at..end)?);
        }
        at = end;
    }
    Some(Some(data))
}

/// A name as messages have it.
pub(super) fn wire_name(name: &Name) -> Vec<u8> {
    let mut wire = Vec::with_capacity(name.as_str().len() + 2);
    for label in name.as_str().split('.') {
        wire.push(label.len() as u8);
        wire.extend(label.bytes());
    }
    wire.push(0);
    wire
}

/// A name, without the pointers that it may be made of, and where it ends.
fn read_name(message: &[u8], at: usize) -> Option<(Vec<u8>, usize)> {
    let mut name = Vec::new();
    let (mut from, mut end, mut lowest) = (at, None, at);
    loop {
        let length = *message.get(from)?;
        match length {
            0 => {
                name.push(0);
                let is_short = name.len() <= MAX_NAME_BYTES;
                return is_short.then_some((name, end.unwrap_or(from + 1)));
            }
            1..=63 => {
                name.extend(message.get(from..from + 1 + usize::from(length))?);
                if name.len() > MAX_NAME_BYTES {
                    return None;
                }
                from += 1 + usize::from(length);
            }
            0xc0.. => {
                end = end.or(Some(from + 2));
                // Always further back, so that there is an end.
                from = usize::from(u16_at(message, from)? & 0x3fff);
                if from >= lowest {
                    return None;
                }
                lowest = from;
            }
            64..0xc0 => return None,
        }
    }
}

#[cfg(test)]
mod tests;
