//! Keeps every region's distance known: now and then one host of each is asked.
//!
//! One worker does it for the process. Hosts that carry requests are measured anyway; this is for
//! regions that nobody was sent to yet, so its cost grows with the regions and not with the hosts.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::time::{MissedTickBehavior, interval};

use crate::front::worker::Worker;

const EVERY: Duration = Duration::from_secs(10);

/// Probe until the worker ends.
pub(crate) async fn run(worker: Arc<Worker>) {
    let mut phases = worker.phases.clone();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let rounds = async {
        loop {
            ticks.tick().await;
            round(&worker).await;
        }
    };
    tokio::select! {
        () = rounds => {}
        () = crate::drain::begun(&mut phases) => {}
    }
}

async fn round(worker: &Worker) {
    let edge = &worker.edge;
    let mut chosen: HashMap<Arc<str>, (Arc<str>, u32)> = HashMap::new();
    {
        let view = edge.watch.view();
        edge.standings.keep_hosts(|id| view.host(id).is_some());
        for host in view.hosts() {
            if *host.id == *edge.config.host_id || host.backhaul.is_none() {
                continue;
            }
            let held = chosen.entry(host.region.clone());
            let (one, seen) = held.or_insert_with(|| (host.id.clone(), 0));
            *seen += 1;
            if rand::rng().random_range(0..*seen) == 0 {
                *one = host.id.clone();
            }
        }
    }
    for (host, _) in chosen.into_values() {
        worker.peers.measure(edge, &host).await;
    }
}
