//! A rate as a bucket that fills evenly.

use std::time::Duration;

/// Lets so many through a second, and as many at once after a quiet second.
pub(super) struct Bucket {
    per_second: u32,
    /// Millionths of one.
    level: u64,
    last: Duration,
}

const ONE: u64 = 1_000_000;

impl Bucket {
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second, level: u64::from(per_second) * ONE, last: Duration::ZERO }
    }

    /// Takes one out, if there is one.
    pub(super) fn take(&mut self, now: Duration) -> bool {
        let elapsed_us = now.saturating_sub(self.last).as_micros();
        let filled = u64::try_from(elapsed_us * u128::from(self.per_second)).unwrap_or(u64::MAX);
        self.last = self.last.max(now);
        self.level = self.level.saturating_add(filled).min(u64::from(self.per_second) * ONE);
        let is_there = self.level >= ONE;
        if is_there {
            self.level -= ONE;
        }
        is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let mut bucket = Bucket::new(10);
        let mut taken = |ms| (0..100).filter(|_| bucket.take(Duration::from_millis(ms))).count();
        assert_eq!([taken(0), taken(0), taken(100), taken(600), taken(60_000)], [10, 0, 1, 5, 10]);
    }
}
