//! Whether a client takes what is written to it, by HTTP/1.1; HTTP/2 knows of each stream.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;

/// Odd while a write waits; each step is one more.
#[derive(Debug, Default)]
pub(crate) struct Stall(AtomicU64);

impl Stall {
    /// Note what a write came to.
    pub(super) fn heed<T>(&self, written: Poll<T>) -> Poll<T> {
        let step = self.0.load(Relaxed);
        if written.is_pending() != Self::waits(step) {
            self.0.store(step + 1, Relaxed);
        }
        written
    }

    /// What stays the same for as long as the client takes nothing; `None` if nothing waits.
    pub(super) fn mark(&self) -> Option<u64> {
        Some(self.0.load(Relaxed)).filter(|step| Self::waits(*step))
    }

    fn waits(step: u64) -> bool {
        step % 2 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_write_that_waits_all_the_time_stays_the_same() {
        let stall = Stall::default();
        assert!(stall.heed(Poll::Ready(())).is_ready());
        assert_eq!(stall.mark(), None);
        assert!(stall.heed(Poll::<()>::Pending).is_pending());
        let first = stall.mark();
        assert!(first.is_some());
        assert!(stall.heed(Poll::<()>::Pending).is_pending());
        assert_eq!(stall.mark(), first);
        assert!(stall.heed(Poll::Ready(())).is_ready());
        assert!(stall.heed(Poll::<()>::Pending).is_pending());
        assert!(stall.mark().is_some());
        assert_ne!(stall.mark(), first);
    }
}
