//! How often a machine may ask: token buckets in bounded memory. The caller gives the time.

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

/// A rate and how much may be saved up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub(crate) per_second: f64,
    pub(crate) burst: f64,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

/// Buckets by machine.
#[derive(Debug)]
pub(crate) struct Limiter {
    rate: Rate,
    buckets: HashMap<Ipv6Addr, Bucket>,
    swept: Option<Instant>,
}

/// More sources than a host has machines by far.
const MOST_SOURCES: usize = 16_384;
/// A table that is full is not looked through for each query.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

impl Limiter {
    pub(crate) fn new(rate: Rate) -> Self {
        Limiter {
            rate,
            buckets: HashMap::new(),
            swept: None,
        }
    }

    /// Whether this machine may ask once more now.
    pub(crate) fn admit(&mut self, source: Ipv6Addr, now: Instant) -> bool {
        let rate = self.rate;
        if let Some(bucket) = self.buckets.get_mut(&source) {
            return bucket.take(rate, now);
        }
        if !self.has_room(now) {
            return false;
        }
        let fresh = Bucket {
            tokens: rate.burst,
            at: now,
        };
        self.buckets.entry(source).or_insert(fresh).take(rate, now)
    }

    /// Forget sources that have saved up everything: they are as good as new.
    fn has_room(&mut self, now: Instant) -> bool {
        if self.buckets.len() < MOST_SOURCES {
            return true;
        }
        if self
            .swept
            .is_none_or(|at| now.duration_since(at) >= SWEEP_EVERY)
        {
            self.swept = Some(now);
            let rate = self.rate;
            self.buckets.retain(|_, bucket| {
                bucket.refill(rate, now);
                bucket.tokens < rate.burst
            });
        }
        self.buckets.len() < MOST_SOURCES
    }
}

impl Bucket {
    fn take(&mut self, rate: Rate, now: Instant) -> bool {
        self.refill(rate, now);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }

    fn refill(&mut self, rate: Rate, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * rate.per_second).min(rate.burst);
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        per_second: 10.0,
        burst: 20.0,
    };

    fn admitted(limiter: &mut Limiter, source: u128, now: Instant, asks: usize) -> usize {
        (0..asks)
            .filter(|_| limiter.admit(Ipv6Addr::from_bits(source), now))
            .count()
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let (mut limiter, now) = (Limiter::new(RATE), Instant::now());
        assert_eq!(admitted(&mut limiter, 1, now, 100), 20);
        assert_eq!(
            admitted(&mut limiter, 1, now + Duration::from_secs(1), 100),
            10
        );
        assert_eq!(
            admitted(&mut limiter, 1, now + Duration::from_hours(1), 100),
            20
        );
    }

    #[test]
    fn one_source_does_not_take_from_another() {
        let (mut limiter, now) = (Limiter::new(RATE), Instant::now());
        assert_eq!(admitted(&mut limiter, 1, now, 100), 20);
        assert_eq!(admitted(&mut limiter, 2, now, 100), 20);
    }

    #[test]
    fn the_table_is_bounded_and_makes_room_in_time() {
        let (mut limiter, now) = (Limiter::new(RATE), Instant::now());
        for source in 0..2 * MOST_SOURCES {
            limiter.admit(Ipv6Addr::from_bits(source as u128), now);
        }
        assert_eq!(limiter.buckets.len(), MOST_SOURCES);
        let later = now + Duration::from_secs(5);
        assert!(limiter.admit(Ipv6Addr::from_bits(u128::MAX), later));
    }
}
