//! How the following goes: numbers and flags that any thread may read.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use godwit_catalog::{Skips, View};
use serde::Serialize;

/// Written by the followers, read by the status page.
#[derive(Debug, Default)]
pub(crate) struct Status {
    pub(crate) agent_connected: AtomicBool,
    pub(crate) agent_synced: AtomicBool,
    pub(crate) bus_connected: AtomicBool,
    pub(crate) bus_synced: AtomicBool,
    /// Everything that the region's mirror tells of other regions is known.
    pub(crate) mirror_synced: AtomicBool,
    /// Watches made on the bus; each begins with every subject's last record.
    pub(crate) bus_watches: AtomicU64,
    /// Watches ended because the bus was silent or left something out.
    pub(crate) bus_silences: AtomicU64,
    pub(crate) applied: AtomicU64,
    pub(crate) stale: AtomicU64,
    pub(crate) skipped_unreadable: AtomicU64,
    pub(crate) skipped_owner: AtomicU64,
    pub(crate) saves: AtomicU64,
    pub(crate) save_errors: AtomicU64,
    /// Times the watchdog had to start the following again.
    pub(crate) restarts: AtomicU64,
}

/// The following in numbers, for `/view` and `/metrics`.
#[derive(Clone, Debug, Serialize)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "four independent facts, not a state"
)]
pub struct Report {
    pub agent_connected: bool,
    pub agent_synced: bool,
    pub bus_connected: bool,
    pub bus_synced: bool,
    pub mirror_synced: bool,
    pub bus_watches: u64,
    pub bus_silences: u64,
    pub apps: usize,
    pub machines: usize,
    pub hosts: usize,
    pub hostnames: usize,
    pub networks: usize,
    pub applied: u64,
    pub stale: u64,
    pub skipped_unreadable: u64,
    pub skipped_owner: u64,
    pub saves: u64,
    pub save_errors: u64,
    pub restarts: u64,
}

impl Status {
    pub(crate) fn set_skips(&self, skips: Skips) {
        self.skipped_unreadable.store(skips.unreadable, Relaxed);
        self.skipped_owner.store(skips.owner, Relaxed);
    }

    pub(crate) fn report(&self, view: &View) -> Report {
        let counts = view.counts();
        Report {
            agent_connected: self.agent_connected.load(Relaxed),
            agent_synced: self.agent_synced.load(Relaxed),
            bus_connected: self.bus_connected.load(Relaxed),
            bus_synced: self.bus_synced.load(Relaxed),
            mirror_synced: self.mirror_synced.load(Relaxed),
            bus_watches: self.bus_watches.load(Relaxed),
            bus_silences: self.bus_silences.load(Relaxed),
            apps: counts.apps,
            machines: counts.machines,
            hosts: counts.hosts,
            hostnames: counts.hostnames,
            networks: counts.networks,
            applied: self.applied.load(Relaxed),
            stale: self.stale.load(Relaxed),
            skipped_unreadable: self.skipped_unreadable.load(Relaxed),
            skipped_owner: self.skipped_owner.load(Relaxed),
            saves: self.saves.load(Relaxed),
            save_errors: self.save_errors.load(Relaxed),
            restarts: self.restarts.load(Relaxed),
        }
    }
}
