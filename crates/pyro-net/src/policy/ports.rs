//! Sets of ports.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::limits;

/// Which ports a rule is about: all, or ranges in ascending order that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ports(Vec<(u16, u16)>);

/// A text that is no set of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortsError {
    /// Not `PORT`, `PORT-PORT` or a list of these.
    #[error("\"{0}\" is not a port, a range such as 8000-8100 or a list such as 80,443")]
    Form(String),
    /// Port 0 is no port.
    #[error("ports are from 1 to 65535")]
    Zero,
    /// From high to low.
    #[error("the range {0}-{1} ends before it begins")]
    Backwards(u16, u16),
    /// More than anyone needs.
    #[error("a rule names at most {most} ranges of ports", most = limits::MAX_PORT_RANGES)]
    TooMany,
}

impl Ports {
    /// Every port.
    #[must_use]
    pub const fn all() -> Self {
        Self(Vec::new())
    }

    /// One port; none for 0.
    #[must_use]
    pub fn one(port: u16) -> Self {
        Self(vec![(port.max(1), port.max(1))])
    }

    /// Whether every port is meant.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `port` is meant.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.is_all() || self.0.iter().any(|&(first, last)| (first..=last).contains(&port))
    }

    /// How many ports are meant.
    #[must_use]
    pub fn count(&self) -> u32 {
        if self.is_all() {
            return 1 << 16;
        }
        self.0.iter().map(|&(first, last)| u32::from(last - first) + 1).sum()
    }

    /// Ranges in any order, joined where they meet.
    fn from_ranges(mut ranges: Vec<RangeInclusive<u16>>) -> Self {
        ranges.sort_by_key(|range| *range.start());
        let mut joined: Vec<(u16, u16)> = Vec::new();
        for range in ranges {
            let (first, last) = range.into_inner();
            match joined.last_mut() {
                Some((_, end)) if u32::from(first) <= u32::from(*end) + 1 => *end = last.max(*end),
                Some(_) | None => joined.push((first, last)),
            }
        }
        Self(joined)
    }
}

fn parse_port(text: &str, whole: &str) -> Result<u16, PortsError> {
    let is_number = !text.is_empty() && text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let port: Option<u16> = is_number.then(|| text.parse().ok()).flatten();
    match port {
        Some(0) => Err(PortsError::Zero),
        Some(port) => Ok(port),
        None => Err(PortsError::Form(whole.chars().take(limits::MAX_RULE_BYTES).collect())),
    }
}

impl FromStr for Ports {
    type Err = PortsError;

    fn from_str(text: &str) -> Result<Self, PortsError> {
        let mut ranges = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (parse_port(first, text)?, parse_port(last, text)?);
            if first > last {
                return Err(PortsError::Backwards(first, last));
            }
            if ranges.len() == limits::MAX_PORT_RANGES {
                return Err(PortsError::TooMany);
            }
            ranges.push(first..=last);
        }
        Ok(Self::from_ranges(ranges))
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            if first == last { write!(f, "{comma}{first}")? } else { write!(f, "{comma}{first}-{last}")? }
        }
        Ok(())
    }
}
