//! The catalog's owner: takes events in batches, shows the result, keeps it on disk.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use godwit_catalog::{Catalog, Outcome, View, disk};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::Sources;
use crate::event::Event;
use crate::shared::Shared;

const BATCH: usize = 1024;
pub(crate) const BEAT: Duration = Duration::from_secs(1);
/// A change is on disk this much later, so that a burst is written once.
const SAVE_AFTER: Duration = Duration::from_secs(1);
/// Between two writes lies this many times what the first one took.
const SAVE_SHARE: u32 = 20;

/// Own the catalog until the process stops; then keep it on disk.
pub(crate) async fn run(
    sources: Arc<Sources>,
    shared: Arc<Shared>,
    incarnation: u64,
    mut catalog: Catalog,
    mut events: mpsc::Receiver<Event>,
) {
    let mut stop = shared.stop.subscribe();
    let mut saver = Saver::new(sources);
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            taken = events.recv_many(&mut batch, BATCH) => {
                if taken == 0 {
                    return;
                }
                let mut shown = Vec::new();
                if apply(&mut catalog, &shared, &mut batch, &mut shown) {
                    shared.publish(incarnation, catalog.view().clone());
                    saver.changed();
                }
                for tell in shown {
                    // Who asked may have gone with its connection.
                    let _ = tell.send(());
                }
            }
            _ = beat.tick() => {
                Shared::count(&shared.beat);
                saver.save_if_due(&shared, catalog.view()).await;
            }
            _ = stop.wait_for(|stop| *stop) => {
                saver.save_last(&shared, catalog.view()).await;
                return;
            }
        }
    }
}

/// Apply a batch; returns whether the view changed, and who is to be told once it is shown.
fn apply(
    catalog: &mut Catalog,
    shared: &Shared,
    batch: &mut Vec<Event>,
    shown: &mut Vec<oneshot::Sender<()>>,
) -> bool {
    let mut changed = false;
    for event in batch.drain(..) {
        let outcome = match event {
            Event::AgentFact(fact) => catalog.apply_agent(&fact),
            Event::BusFact { subject, payload } => {
                let outcome = catalog.apply_bus(&subject, &payload);
                if let Outcome::Skipped(why) = outcome {
                    log::warn!("skipped a fact on {subject:?}: {why:?}");
                }
                outcome
            }
            Event::Shown(tell) => {
                shown.push(tell);
                continue;
            }
            Event::AgentUnreadable => {
                catalog.skip_unreadable();
                continue;
            }
            Event::AgentBegins => {
                catalog.agent_begins();
                continue;
            }
            Event::BusBegins(book) => {
                catalog.bus_begins(book);
                continue;
            }
            Event::BusSettled(book) => {
                let gone = catalog.bus_settled(book);
                if gone > 0 {
                    log::info!("the bus tells no more of {gone} machines: they are gone");
                }
                changed |= gone > 0;
                continue;
            }
            Event::AgentSynced => {
                let dropped = catalog.agent_synced();
                log::info!("the agent told everything; {dropped} machines are no more");
                changed |= dropped > 0;
                continue;
            }
        };
        match outcome {
            Outcome::Applied => {
                Shared::count(&shared.status.applied);
                changed = true;
            }
            Outcome::Stale | Outcome::Ours => Shared::count(&shared.status.stale),
            Outcome::Beside | Outcome::Skipped(_) => {}
        }
    }
    shared.status.set_skips(catalog.skips());
    changed
}

/// Writes the view to disk, a while after it changed, off the owner's thread.
struct Saver {
    sources: Arc<Sources>,
    due: Option<Instant>,
    not_before: Instant,
    writing: Option<JoinHandle<Duration>>,
}

impl Saver {
    fn new(sources: Arc<Sources>) -> Self {
        Saver {
            sources,
            due: None,
            not_before: Instant::now(),
            writing: None,
        }
    }

    fn changed(&mut self) {
        self.due.get_or_insert_with(|| Instant::now() + SAVE_AFTER);
    }

    async fn save_if_due(&mut self, shared: &Arc<Shared>, view: &View) {
        if self
            .writing
            .as_ref()
            .is_some_and(|writing| !writing.is_finished())
        {
            return;
        }
        self.collect().await;
        let now = Instant::now();
        if self.due.is_some_and(|due| now >= due) && now >= self.not_before {
            self.write(shared, view);
        }
    }

    async fn save_last(&mut self, shared: &Arc<Shared>, view: &View) {
        self.collect().await;
        if self.due.is_some() {
            self.write(shared, view);
            self.collect().await;
        }
    }

    fn write(&mut self, shared: &Arc<Shared>, view: &View) {
        self.due = None;
        let (sources, shared, view) = (self.sources.clone(), shared.clone(), view.clone());
        self.writing = Some(spawn_blocking(move || save(&sources, &shared, &view)));
    }

    async fn collect(&mut self) {
        if let Some(writing) = self.writing.take() {
            let took = writing.await.unwrap_or_default();
            self.not_before = Instant::now() + took * SAVE_SHARE;
        }
    }
}

fn save(sources: &Sources, shared: &Shared, view: &View) -> Duration {
    let begun = std::time::Instant::now();
    match disk::save(&sources.view_file, &sources.host_id, view) {
        Ok(()) => Shared::count(&shared.status.saves),
        Err(error) => {
            let errors = shared.status.save_errors.fetch_add(1, Relaxed);
            if errors.is_power_of_two() || errors == 0 {
                log::error!(
                    "the view cannot be kept in {}: {error}",
                    sources.view_file.display()
                );
            }
        }
    }
    begun.elapsed()
}
