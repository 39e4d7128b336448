//! What is known of other hosts and regions: round trips, and whether a host is doubted.
//!
//! Shared by all workers; read on every choice, so it is atomics behind handles that targets keep.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use godwit_catalog::nearness;

/// A measurement moves what is held by one part of so many.
const SMOOTHING: i64 = 4;
/// Of a region of which nothing is known at all.
const FAR_MS: u32 = 250;

/// One host or one region.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// Smoothed round trip in microseconds; 0 while nothing was measured.
    micros: AtomicU32,
    /// It did not answer the last time.
    doubted: AtomicBool,
}

/// All hosts and regions that anybody asked for.
#[derive(Debug, Default)]
pub(crate) struct Standings {
    hosts: Mutex<HashMap<Arc<str>, Arc<Standing>>>,
    regions: Mutex<HashMap<Arc<str>, Arc<Standing>>>,
    /// By what the configuration says.
    estimates: HashMap<Arc<str>, u32>,
}

impl Standing {
    pub(crate) fn micros(&self) -> u32 {
        self.micros.load(Relaxed)
    }

    pub(crate) fn is_doubted(&self) -> bool {
        self.doubted.load(Relaxed)
    }

    /// Returns whether it was not doubted before.
    pub(crate) fn doubt(&self) -> bool {
        !self.doubted.swap(true, Relaxed)
    }

    pub(crate) fn measured(&self, took: Duration) {
        let sample = u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1);
        let held = self.micros();
        let smooth = if held == 0 {
            sample
        } else {
            let moved = i64::from(held) + (i64::from(sample) - i64::from(held)) / SMOOTHING;
            u32::try_from(moved).unwrap_or(sample).max(1)
        };
        self.micros.store(smooth, Relaxed);
        self.doubted.store(false, Relaxed);
    }

    /// Orders hosts by their round trip; those within a fifth of each other are equally near.
    pub(crate) fn nearness(&self) -> u8 {
        match self.micros() {
            0 => u8::MAX,
            micros => nearness(micros),
        }
    }
}

impl Standings {
    pub(crate) fn new(estimates: impl IntoIterator<Item = (String, u32)>) -> Self {
        let named = |(region, ms): (String, u32)| (Arc::from(region), ms);
        Standings {
            estimates: estimates.into_iter().map(named).collect(),
            ..Standings::default()
        }
    }

    pub(crate) fn host(&self, id: &Arc<str>) -> Arc<Standing> {
        of(&self.hosts, id, || 0)
    }

    /// A region's; an estimate until something there was measured.
    pub(crate) fn region(&self, region: &Arc<str>) -> Arc<Standing> {
        let estimate = || self.estimates.get(region).copied().unwrap_or(FAR_MS) * 1_000;
        of(&self.regions, region, estimate)
    }

    /// A host has answered.
    pub(crate) fn measured(&self, host: &Arc<str>, region: &Arc<str>, took: Duration) {
        self.host(host).measured(took);
        self.region(region).measured(took);
    }

    /// Hosts and their round trips, and whether they are doubted.
    pub(crate) fn hosts(&self) -> Vec<(Arc<str>, u32, bool)> {
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let told =
            |(id, one): (&Arc<str>, &Arc<Standing>)| (id.clone(), one.micros(), one.is_doubted());
        hosts.iter().map(told).collect()
    }

    /// Regions that anybody asked for and how far they are, in microseconds.
    pub(crate) fn regions(&self) -> Vec<(Arc<str>, u32)> {
        let regions = self.regions.lock().unwrap_or_else(PoisonError::into_inner);
        let told = |(code, one): (&Arc<str>, &Arc<Standing>)| (code.clone(), one.micros());
        regions.iter().map(told).collect()
    }

    /// Forget hosts that are no more.
    pub(crate) fn keep_hosts(&self, known: impl Fn(&str) -> bool) {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.retain(|id, _| known(id));
    }
}

fn of(
    all: &Mutex<HashMap<Arc<str>, Arc<Standing>>>,
    id: &Arc<str>,
    first: impl FnOnce() -> u32,
) -> Arc<Standing> {
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    let new = || {
        Arc::new(Standing {
            micros: AtomicU32::new(first()),
            ..Standing::default()
        })
    };
    all.entry(id.clone()).or_insert_with(new).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_moves_what_is_held_and_clears_a_doubt() {
        let standing = Standing::default();
        assert!(standing.doubt() && !standing.doubt());
        standing.measured(Duration::from_millis(8));
        assert_eq!((standing.micros(), standing.is_doubted()), (8_000, false));
        standing.measured(Duration::from_millis(4));
        assert_eq!(standing.micros(), 7_000);
    }

    #[test]
    fn a_region_is_as_far_as_the_configuration_says_until_it_is_measured() {
        let standings = Standings::new([("iad".to_owned(), 90)]);
        let (iad, xyz) = ("iad".into(), "xyz".into());
        assert_eq!(standings.region(&iad).micros(), 90_000);
        assert_eq!(standings.region(&xyz).micros(), FAR_MS * 1_000);
        standings.measured(&"h1".into(), &iad, Duration::from_millis(50));
        assert_eq!(standings.region(&iad).micros(), 80_000);
    }
}
