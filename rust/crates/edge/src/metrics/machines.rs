//! What is counted of the machines of this host: `fly_app_*` (spec/network.md §7.1).

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::histogram::Histogram;
use super::responses::{self, Responses};
use super::text::{head, line};

/// What is counted of one machine.
#[derive(Debug, Default)]
pub(crate) struct MachineMetrics {
    responses: Responses,
    /// Connections made to it, and those of them that have ended.
    connects: AtomicU64,
    disconnects: AtomicU64,
    connect_time: Histogram,
}

/// Held for as long as there is a connection to a machine.
#[derive(Debug)]
pub(crate) struct Connected(Arc<MachineMetrics>);

/// Held from when a machine responds until its response is at its end, which is counted then.
#[derive(Debug)]
pub(crate) struct Served {
    metrics: Arc<MachineMetrics>,
    asked: Instant,
    status: u16,
}

type Read = fn(&MachineMetrics) -> &AtomicU64;

/// Of all machines that this host has.
#[derive(Debug, Default)]
pub(super) struct Machines(Mutex<HashMap<Arc<str>, Arc<MachineMetrics>>>);

impl MachineMetrics {
    /// A connection to it was made, in so long a time.
    pub(crate) fn connected(self: &Arc<Self>, took: Duration) -> Connected {
        self.connects.fetch_add(1, Relaxed);
        self.connect_time.observe(took);
        Connected(self.clone())
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.disconnects.fetch_add(1, Relaxed);
    }
}

impl Served {
    /// A machine that was `asked` then responds.
    pub(crate) fn new(metrics: Arc<MachineMetrics>, asked: Instant, status: u16) -> Self {
        Served {
            metrics,
            asked,
            status,
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.metrics
            .responses
            .observe(self.status, self.asked.elapsed());
    }
}

impl Machines {
    pub(super) fn of(&self, machine_id: &Arc<str>) -> Arc<MachineMetrics> {
        let mut machines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        machines.entry(machine_id.clone()).or_default().clone()
    }

    /// Forget those that are not there any more.
    pub(super) fn keep(&self, is_there: impl Fn(&str) -> bool) {
        let mut machines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        machines.retain(|id, _| is_there(id));
    }

    /// Write them, each with what `labels` says of it.
    pub(super) fn write(&self, page: &mut String, labels: impl Fn(&str) -> Option<String>) {
        const TIME: &str = "fly_app_connect_time_seconds";
        let machines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let labelled = machines.iter().map(|(id, held)| (labels(id), held.clone()));
        let mut all: Vec<_> = labelled
            .filter_map(|(labels, held)| Some((labels?, held)))
            .collect();
        drop(machines);
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        let each = || all.iter().map(|(labels, held)| (labels.as_str(), held));
        responses::write(
            page,
            "fly_app",
            each().map(|(labels, held)| (labels, &held.responses)),
        );
        let counters: [(&str, Read); 2] = [
            ("fly_app_tcp_connects_count", |held| &held.connects),
            ("fly_app_tcp_disconnects_count", |held| &held.disconnects),
        ];
        for (name, read) in counters {
            head(page, name, "counter");
            for (labels, held) in each() {
                line(page, name, labels, read(held).load(Relaxed));
            }
        }
        head(page, TIME, "histogram");
        for (labels, held) in each() {
            held.connect_time.write(page, TIME, labels);
        }
    }
}
