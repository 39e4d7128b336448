//! How long something took, by bounds that are the same for all of it.

use std::fmt::Write;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::text::line;

/// Upper bounds in microseconds, and as printed.
const BOUNDS: [(u64, &str); 12] = [
    (1_000, "0.001"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1"),
    (2_500_000, "2.5"),
    (5_000_000, "5"),
    (10_000_000, "10"),
];

#[derive(Debug, Default)]
pub(crate) struct Histogram {
    count: AtomicU64,
    micros: AtomicU64,
    buckets: [AtomicU64; BOUNDS.len()],
}

impl Histogram {
    pub(crate) fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.count.fetch_add(1, Relaxed);
        self.micros.fetch_add(micros, Relaxed);
        let bucket = BOUNDS.iter().position(|(bound, _)| micros <= *bound);
        if let Some(bucket) = bucket {
            self.buckets[bucket].fetch_add(1, Relaxed);
        }
    }

    /// How often it was observed.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    pub(super) fn write(&self, page: &mut String, name: &str, labels: &str) {
        let bucket = format!("{name}_bucket");
        let before = if labels.is_empty() { "" } else { "," };
        let total = self.count();
        let mut sum = 0;
        for (held, (_, bound)) in self.buckets.iter().zip(BOUNDS) {
            sum += held.load(Relaxed);
            let labels = format!("{labels}{before}le=\"{bound}\"");
            line(page, &bucket, &labels, sum);
        }
        // Somebody may be counting meanwhile.
        let total = total.max(sum);
        line(
            page,
            &bucket,
            &format!("{labels}{before}le=\"+Inf\""),
            total,
        );
        let seconds = Duration::from_micros(self.micros.load(Relaxed)).as_secs_f64();
        // Writing to a String does not fail.
        let _ = match labels {
            "" => writeln!(page, "{name}_sum {seconds}"),
            labels => writeln!(page, "{name}_sum{{{labels}}} {seconds}"),
        };
        line(page, &format!("{name}_count"), labels, total);
    }
}
