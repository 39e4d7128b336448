//! A token bucket. Pure: time comes in as an argument.

use std::time::{Duration, Instant};

const NANOSECONDS: u128 = 1_000_000_000;

#[derive(Debug)]
pub(crate) struct Bucket {
    per_second: u64,
    burst: u64,
    tokens: u64,
    filled: Instant,
}

impl Bucket {
    /// A full bucket. A rate or burst of zero lets nothing through.
    pub(crate) fn new(per_second: u64, burst: u64, now: Instant) -> Self {
        Self {
            per_second,
            burst,
            tokens: burst,
            filled: now,
        }
    }

    /// Returns how many tokens there are.
    pub(crate) fn level(&mut self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.filled).as_nanos();
        let gained = elapsed * u128::from(self.per_second) / NANOSECONDS;
        if gained > 0 {
            let gained = u64::try_from(gained).unwrap_or(u64::MAX);
            self.tokens = self.tokens.saturating_add(gained).min(self.burst);
            self.filled = now;
        }
        self.tokens
    }

    /// Takes tokens if there are that many.
    pub(crate) fn take(&mut self, count: u64, now: Instant) -> bool {
        let enough = self.level(now) >= count;
        if enough {
            self.tokens -= count;
        }
        enough
    }

    /// Takes tokens that were used already, down to none.
    pub(crate) fn drain(&mut self, count: u64, now: Instant) {
        self.tokens = self.level(now).saturating_sub(count);
    }

    /// Returns how long it takes to have that many.
    pub(crate) fn time_until(&mut self, count: u64, now: Instant) -> Duration {
        let missing = count.min(self.burst).saturating_sub(self.level(now));
        if missing == 0 {
            return Duration::ZERO;
        }
        let nanoseconds = u128::from(missing) * NANOSECONDS / u128::from(self.per_second.max(1));
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Bucket;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(100, 1000, start);
        assert!(bucket.take(1000, start));
        assert!(!bucket.take(1, start));
        let later = start + Duration::from_secs(2);
        assert!(!bucket.take(201, later));
        assert!(bucket.take(200, later));
        assert_eq!(bucket.level(later + Duration::from_hours(1)), 1000);
    }

    #[test]
    fn often_asking_loses_no_fractions() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10, 100, start);
        bucket.drain(100, start);
        for ms in 1..=1000 {
            bucket.level(start + Duration::from_millis(ms));
        }
        assert_eq!(bucket.level(start + Duration::from_secs(1)), 10);
    }

    #[test]
    fn waiting_as_long_as_it_says_is_enough() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1000, 5000, start);
        bucket.drain(5000, start);
        let wait = bucket.time_until(700, start);
        assert_eq!(wait, Duration::from_millis(700));
        assert!(bucket.take(700, start + wait));
        let mut nothing = Bucket::new(0, 0, start);
        assert!(!nothing.take(1, start + Duration::from_secs(9)));
    }
}
