//! The rate of this host's time stamp counter, which an emulated guest has to be told.

use std::thread;
use std::time::{Duration, Instant};

use crate::sys;

const WINDOW: Duration = Duration::from_millis(200);
const TRIES: usize = 64;

/// Returns the counter's rate in kHz, from two readings 0.2 s apart.
pub(crate) fn measure_khz() -> u64 {
    let (first_time, first_count) = tight_reading();
    thread::sleep(WINDOW);
    let (second_time, second_count) = tight_reading();
    let nanoseconds = second_time.duration_since(first_time).as_nanos().max(1);
    let khz = u128::from(second_count.wrapping_sub(first_count)) * 1_000_000 / nanoseconds;
    u64::try_from(khz).unwrap_or(0)
}

/// Reads clock and counter together: of several tries the one least disturbed in between.
fn tight_reading() -> (Instant, u64) {
    let mut best: Option<(u64, Instant, u64)> = None;
    for _ in 0..TRIES {
        let before = sys::time_stamp_counter();
        let time = Instant::now();
        let after = sys::time_stamp_counter();
        let width = after.wrapping_sub(before);
        if best.is_none_or(|(narrowest, _, _)| width < narrowest) {
            best = Some((width, time, before + width / 2));
        }
    }
    best.map_or((Instant::now(), 0), |(_, time, count)| (time, count))
}

#[cfg(test)]
mod tests {
    use super::measure_khz;

    #[test]
    fn two_measurements_agree() {
        let (first, second) = (measure_khz(), measure_khz());
        assert!(first > 100_000, "{first} kHz");
        assert!(
            first.abs_diff(second) * 1000 < first,
            "{first} and {second} kHz"
        );
    }
}
