//! Responses by status, and how long they took.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use super::histogram::Histogram;
use super::text::{head, line};

#[derive(Debug, Default)]
pub(super) struct Responses(RwLock<BTreeMap<u16, Histogram>>);

impl Responses {
    /// Count a response and how long it took to its end.
    pub(super) fn observe(&self, status: u16, took: Duration) {
        let held = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(times) = held.get(&status) {
            times.observe(took);
            return;
        }
        drop(held);
        let mut held = self.0.write().unwrap_or_else(PoisonError::into_inner);
        held.entry(status).or_default().observe(took);
    }
}

/// Write `<family>_http_responses_count` and `<family>_http_response_time_seconds` of all of them,
/// each with its labels.
pub(super) fn write<'a>(
    page: &mut String,
    family: &str,
    all: impl Iterator<Item = (&'a str, &'a Responses)>,
) {
    let count = format!("{family}_http_responses_count");
    let time = format!("{family}_http_response_time_seconds");
    let (mut counts, mut times) = (String::new(), String::new());
    for (labels, responses) in all {
        let held = responses.0.read().unwrap_or_else(PoisonError::into_inner);
        for (status, histogram) in held.iter() {
            let labels = format!("{labels},status=\"{status}\"");
            line(&mut counts, &count, &labels, histogram.count());
            histogram.write(&mut times, &time, &labels);
        }
    }
    head(page, &count, "counter");
    page.push_str(&counts);
    head(page, &time, "histogram");
    page.push_str(&times);
}
