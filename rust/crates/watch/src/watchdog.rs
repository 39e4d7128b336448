//! Starts the following, and starts it again when it ends or does not move.
//!
//! No fact may stop an edge for good: a loop that hangs on one is left behind and can publish
//! nothing more; a new one begins from the view that readers have.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use godwit_catalog::Catalog;
use tokio::sync::mpsc;

use crate::shared::Shared;
use crate::{Sources, agent, bus, event, owner};

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Longer than the greatest batch takes on a slow machine.
const STUCK_AFTER: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_secs(1);
const STOP_WITHIN: Duration = Duration::from_secs(5);

pub(crate) fn start(sources: Arc<Sources>, shared: Arc<Shared>, catalog: Catalog) {
    let watch = move || {
        let mut catalog = Some(catalog);
        while !shared.is_stopping() {
            let begin = catalog
                .take()
                .unwrap_or_else(|| from_readers(&sources, &shared));
            oversee(&shared, &follow(&sources, &shared, begin));
            if !shared.is_stopping() {
                Shared::count(&shared.status.restarts);
                log::error!("the following ended or hangs; it is started again");
                thread::sleep(PAUSE);
            }
        }
        shared.ended.send_replace(true);
    };
    // Without threads nothing here can work; the supervisor tries again.
    let spawned = thread::Builder::new()
        .name("catalog-dog".to_owned())
        .spawn(watch);
    spawned.expect("a thread can be started");
}

pub(crate) fn stop(shared: &Shared) {
    shared.stop.send_replace(true);
    let begun = Instant::now();
    while !*shared.ended.borrow() && begun.elapsed() < STOP_WITHIN {
        thread::sleep(Duration::from_millis(5));
    }
}

/// Return when the thread ended or stopped moving.
fn oversee(shared: &Shared, thread: &JoinHandle<()>) {
    let mut beat = shared.beat.load(Relaxed);
    let mut moved = Instant::now();
    while !thread.is_finished() {
        thread::sleep(LOOK_EVERY);
        let now = shared.beat.load(Relaxed);
        if now != beat {
            (beat, moved) = (now, Instant::now());
        } else if moved.elapsed() > STUCK_AFTER {
            return;
        }
    }
}

fn follow(sources: &Arc<Sources>, shared: &Arc<Shared>, catalog: Catalog) -> JoinHandle<()> {
    let (sources, shared) = (sources.clone(), shared.clone());
    let incarnation = shared.next_incarnation();
    let body = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.expect("a runtime can be started");
        let (sender, receiver) = mpsc::channel(event::CAPACITY);
        runtime.block_on(async {
            tokio::select! {
                () = owner::run(sources.clone(), shared.clone(), incarnation, catalog, receiver) => {}
                () = agent::follow(&sources, &shared, &sender) => {}
                () = bus::follow(&sources, &shared, &sender) => {}
            }
        });
    };
    let spawned = thread::Builder::new()
        .name("catalog".to_owned())
        .spawn(body);
    spawned.expect("a thread can be started")
}

/// A catalog of what readers have now.
fn from_readers(sources: &Sources, shared: &Shared) -> Catalog {
    let mut catalog = Catalog::new(&sources.host_id, &sources.region);
    for fact in shared.view.load().facts() {
        catalog.apply_kept(&fact);
    }
    catalog
}
