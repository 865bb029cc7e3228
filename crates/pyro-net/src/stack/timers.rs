//! Everything that is due at some time, in order.

use std::collections::BTreeSet;
use std::time::Duration;

use super::table::FlowId;
use crate::dns::Ticket;

/// What becomes due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Flow(FlowId),
    Lookup(Ticket),
}

#[derive(Default)]
pub(super) struct Timers(BTreeSet<(Duration, Timer)>);

impl Timers {
    pub(super) fn insert(&mut self, at: Duration, timer: Timer) {
        self.0.insert((at, timer));
    }

    pub(super) fn remove(&mut self, at: Duration, timer: Timer) {
        self.0.remove(&(at, timer));
    }

    pub(super) fn first(&self) -> Option<Duration> {
        self.0.first().map(|(at, _)| *at)
    }

    pub(super) fn take_due(&mut self, now: Duration) -> Option<Timer> {
        if self.first()? > now {
            return None;
        }
        self.0.pop_first().map(|(_, timer)| timer)
    }
}
