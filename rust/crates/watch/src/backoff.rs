//! Pauses between attempts: doubling, bounded, and spread so that a thousand hosts do not knock
//! at the same moment.

use std::time::Duration;

use rand::RngExt;

/// Doubles from the first pause to the greatest; each pause is between half and all of that.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    greatest: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, greatest: Duration) -> Self {
        Backoff {
            first,
            greatest,
            next: first,
        }
    }

    /// The next pause.
    pub(crate) fn pause(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.greatest);
        whole.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// Something went well: begin again with the first pause.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_bound_and_begin_again() {
        let (first, greatest) = (Duration::from_millis(50), Duration::from_secs(2));
        let mut backoff = Backoff::new(first, greatest);
        assert!(backoff.pause() <= first);
        let last = (0..20).map(|_| backoff.pause()).last().unwrap();
        assert!(last <= greatest && last >= greatest / 2);
        backoff.reset();
        assert!(backoff.pause() <= first);
    }
}
