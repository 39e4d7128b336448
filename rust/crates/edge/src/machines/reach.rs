//! Finding a machine for a request and a connection to it: decide, try, wait, decide again.
//!
//! ```text
//! ready machine below its hard limit ── connect ── refused ── try another, then wait ──┐
//! all at their hard limit ───────────── queue ──── a slot is free ─────────────────────┤
//! none ready, one asleep ────────────── wake ───── started ────────────────────────────┤
//! none ready, one coming ────────────── wait ──────────────────────────────────────────┤
//! none ready, one fails its checks ──── wait ──────────────────────────────────────────┤
//! nothing to hope for ───────────────── refuse                         decide again ◄──┘
//! ```
//! Every wait has a deadline of its own kind, counted from the first wait of that kind. A machine
//! that started while a request waited has what is left of the time to start for the rest of its
//! way, its app's first accept included. So many requests of an app wait at most.
//!
//! A machine of another host is tried by way of that host's edge, which starts it, queues for it
//! and knows its load; what that edge cannot do comes back here as one more refusal.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use godwit_watch::WakeError;
use godwit_wire::components::EdgeLimits;
use godwit_wire::facts::Concurrency;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::backhaul::{Bounce, Stream};
use crate::front::worker::Worker;
use crate::machines::decision::{Verdict, fits};
use crate::machines::load::Ticket;
use crate::machines::reached::{Link, Reached};
use crate::machines::targets::{At, Handling, Place, Target, Targets, There};
use crate::machines::upstream::{self, Need};
use crate::machines::wish::Wish;
use crate::metrics::count;
use crate::request::refusal::{self, Refusal};

/// How long a request waits, by what it waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For a started machine to take a connection.
    pub(crate) reach: Duration,
    /// For a slot.
    pub(crate) queue: Duration,
    /// For a stopped machine to be started.
    pub(crate) wake: Duration,
}

/// Where machines are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Everywhere,
    /// On this host: for another host's edge.
    Here,
}

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const GREATEST_PAUSE: Duration = Duration::from_secs(1);
/// However often the view changes, a request does not look more often than this.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
/// A waiting request looks again at least this often.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// A request waits at one other host no longer than this before it looks around again.
const QUEUE_THERE: Duration = Duration::from_secs(1);

/// One request's search; it goes on when a machine it found turns out not to take the request.
pub(crate) struct Search<'a> {
    pub(super) worker: &'a Worker,
    pub(crate) wish: Wish,
    pub(super) at: At,
    patience: Patience,
    pub(super) scope: Scope,
    /// The app's targets, if they were looked up a moment ago.
    pub(crate) found: Option<Arc<Targets>>,
    /// Machines that refused this request since the last pause.
    pub(super) tried: Vec<Arc<str>>,
    /// Machines that could not be started for this request.
    pub(super) unwakeable: Vec<Arc<str>>,
    /// A place among those that wait for a slot.
    pub(super) ticket: Option<Ticket>,
    /// A place among those that wait for a machine.
    place: Option<Ticket>,
    /// A machine was started for this request.
    pub(super) woke: bool,
    /// A machine came back while this request waited.
    came_back: bool,
    /// The last refusal was for want of a slot.
    full: bool,
    pub(super) attempts: u32,
    next_pause: Duration,
    pub(super) last_refusal: Option<Refusal>,
    reach_by: Option<Instant>,
    queue_by: Option<Instant>,
    wake_by: Option<Instant>,
}

impl Patience {
    /// Of the edge that a client came to.
    pub(crate) fn of(limits: &EdgeLimits) -> Self {
        Patience {
            reach: Duration::from_millis(limits.reach_ms),
            queue: Duration::from_millis(limits.queue_ms),
            wake: Duration::from_millis(limits.wake_ms),
        }
    }
}

impl<'a> Search<'a> {
    /// A search for what came to an external port.
    pub(crate) fn new(
        worker: &'a Worker,
        wish: Wish,
        at: At,
        patience: Patience,
        scope: Scope,
    ) -> Self {
        Search {
            worker,
            wish,
            at,
            patience,
            scope,
            found: None,
            tried: Vec::new(),
            unwakeable: Vec::new(),
            ticket: None,
            place: None,
            woke: false,
            came_back: false,
            full: false,
            attempts: 0,
            next_pause: FIRST_PAUSE,
            last_refusal: None,
            reach_by: None,
            queue_by: None,
            wake_by: None,
        }
    }

    /// Find a machine; `find` gives the app's targets as they are now.
    pub(crate) async fn next(
        &mut self,
        need: Need<'_>,
        find: impl Fn() -> Result<Arc<Targets>, Refusal>,
    ) -> Result<Reached, Refusal> {
        loop {
            let targets = self.found.take().map_or_else(&find, Ok)?;
            let verdict = self.decide(&targets);
            let reached = match verdict {
                Verdict::Try(index) => self.attempt(&targets, index, need).await?,
                Verdict::Refuse(refusal) => return Err(refusal),
                // Boxed, as all that most requests do without: they hold no room for it.
                wait => Box::pin(self.wait(&targets, wait)).await?,
            };
            if let Some(reached) = reached {
                return Ok(reached);
            }
        }
    }

    /// Wait for what a verdict says, and maybe find a machine by that.
    async fn wait(
        &mut self,
        targets: &Arc<Targets>,
        verdict: Verdict,
    ) -> Result<Option<Reached>, Refusal> {
        match verdict {
            Verdict::QueueThere(index) => self.queue_there(targets, index).await,
            Verdict::Wake(index) => self.wake(targets, index).await,
            Verdict::Queue => self.queue(targets).await.map(|()| None),
            Verdict::Pause => self.pause(targets).await.map(|()| None),
            Verdict::Await => self.await_back(targets).await.map(|()| None),
            Verdict::Try(_) => Ok(None),
            Verdict::Refuse(refusal) => Err(refusal),
        }
    }

    /// The external port, and how it is spoken.
    pub(crate) fn at(&self) -> At {
        self.at
    }

    /// How long it may still wait for a machine to be started.
    pub(crate) fn wake_left(&self) -> Duration {
        let left = |by: Instant| by.saturating_duration_since(Instant::now());
        self.wake_by.map_or(self.patience.wake, left)
    }

    /// Whether a machine of this host was started for it: its app may take its time to listen.
    pub(crate) fn has_woken(&self) -> bool {
        self.woke
    }

    /// Why no machine took it: for want of a slot, or otherwise.
    pub(crate) fn bounce(&self) -> Bounce {
        if self.full {
            Bounce::Full
        } else {
            Bounce::Unable
        }
    }

    /// The edge of a machine's host has sent the request back.
    pub(crate) fn bounced(&mut self, reached: &Reached, bounce: Bounce, refusal: Refusal) {
        self.full = bounce == Bounce::Full;
        if self.full {
            reached.slot.load().set_full();
        } else {
            reached.slot.load().set_suspect();
            self.tried.push(reached.machine_id.clone());
            self.unwakeable.push(reached.machine_id.clone());
        }
        self.last_refusal = Some(refusal);
    }

    /// A machine, or the way to it, broke the request off; another is better, if there is one.
    pub(crate) fn broke_off(&mut self, machine_id: &Arc<str>) {
        self.tried.push(machine_id.clone());
    }

    /// Take a slot and a connection; `None` means decide again.
    async fn attempt(
        &mut self,
        targets: &Arc<Targets>,
        index: usize,
        need: Need<'_>,
    ) -> Result<Option<Reached>, Refusal> {
        let target = &targets.ready[index];
        let Some(slot) = target.load.take(target.hard, &targets.queue) else {
            return Ok(None);
        };
        self.ticket = None;
        self.attempts += 1;
        let link = match &target.place {
            Place::Here(_) => match self.link(target, need).await {
                Ok(link) => {
                    target.load.clear_suspect();
                    link
                }
                Err(refusal) => {
                    count(&targets.metrics.upstream_failures);
                    self.failed(target, refusal);
                    return Ok(None);
                }
            },
            Place::There(there) => match Box::pin(self.stream(target, there)).await {
                Some(stream) => Link::There {
                    stream,
                    queue: Duration::ZERO,
                },
                None => return Ok(None),
            },
        };
        Ok(Some(Reached::new(slot, link, targets, target)))
    }

    /// A stream to the edge of a machine's host; `None` means decide again.
    async fn stream(&mut self, target: &Target, there: &There) -> Option<Stream> {
        match self
            .worker
            .peers
            .stream(&self.worker.edge, &there.host)
            .await
        {
            Ok(stream) => Some(stream),
            Err(unreached) => {
                self.unwakeable.push(target.machine_id.clone());
                self.failed(target, refusal::host_not_reached(&there.host, &unreached));
                None
            }
        }
    }

    fn failed(&mut self, target: &Target, refusal: Refusal) {
        target.load.set_suspect();
        self.tried.push(target.machine_id.clone());
        self.last_refusal = Some(refusal);
        self.full = false;
    }

    async fn link(&self, target: &Target, need: Need<'_>) -> Result<Link, Refusal> {
        let within = Duration::from_millis(self.worker.edge.config.limits.connect_ms);
        let failed = |error| refusal::connect_failed(target.internal_port, &error);
        if self.at.1 == Handling::Datagrams {
            return Ok(Link::Datagrams);
        }
        if self.at.1 == Handling::Bytes {
            let dialled = Box::pin(upstream::dial(target, within)).await;
            return dialled
                .map(|(stream, connected)| Link::Bytes(stream, connected))
                .map_err(failed);
        }
        if let Some((files, path)) = target.files().zip(need.path)
            && files.cover(path)
            && let Some(there) = Box::pin(files.reach(within, need.fresh))
                .await
                .map_err(|error| refusal::no_statics(&error))?
        {
            return Ok(Link::Here(there));
        }
        let home = match &target.place {
            Place::Here(here) if target.concurrency == Concurrency::Requests => Some(&here.kept),
            _ => None,
        };
        let pooled = home.filter(|_| !need.fresh);
        if let Some(kept) = pooled.and_then(|home| home.take(target.h2, need.repeatable)) {
            return Ok(Link::Here(kept));
        }
        let connected = Box::pin(upstream::connect(target, within, home, need.becomes));
        connected.await.map(Link::Here).map_err(failed)
    }

    /// Wait until a sleeper is started; one of another host is left to that host's edge.
    async fn wake(
        &mut self,
        targets: &Arc<Targets>,
        index: usize,
    ) -> Result<Option<Reached>, Refusal> {
        self.wait_for_a_machine(targets)?;
        let target = &targets.asleep[index];
        let by = deadline(&mut self.wake_by, self.patience.wake);
        if let Place::There(there) = &target.place {
            if Instant::now() >= by {
                return Err(refusal::wake_timeout(targets.app_name()));
            }
            self.attempts += 1;
            let Some(slot) = target.load.take(None, &targets.queue) else {
                return Ok(None);
            };
            let stream = self.stream(target, there).await;
            let link = |stream| Link::There {
                stream,
                queue: QUEUE_THERE,
            };
            return Ok(stream.map(|stream| Reached::new(slot, link(stream), targets, target)));
        }
        count(&targets.metrics.wakes);
        let woken = timeout_at(by, self.worker.edge.waker.wake(&target.machine_id)).await;
        match woken {
            Err(_) => return Err(refusal::wake_timeout(targets.app_name())),
            Ok(Ok(())) => {
                self.woke = true;
                // It has the whole time to be reached that a started machine has.
                self.reach_by = None;
                self.tried.clear();
                self.next_pause = FIRST_PAUSE;
            }
            Ok(Err(WakeError::Refused(why))) => {
                log::warn!(
                    org_id = targets.org_id(), machine_id = &*target.machine_id;
                    "{}: {} cannot start: {why}",
                    targets.app_name(),
                    target.machine_id
                );
                self.unwakeable.push(target.machine_id.clone());
                self.last_refusal = Some(refusal::wake_failed(targets.app_name(), &why));
            }
            Ok(Err(WakeError::Away)) => {
                let why = WakeError::Away.to_string();
                self.last_refusal = Some(refusal::wake_failed(targets.app_name(), &why));
                self.pause(targets).await?;
            }
        }
        Ok(None)
    }

    /// Have a sleeper started while this request goes on without it.
    pub(super) fn wake_beside(&self, target: &Target, targets: &Targets) {
        if targets.is_growing() || target.load.waking.swap(true, Relaxed) {
            return;
        }
        count(&targets.metrics.wakes);
        let (load, id) = (target.load.clone(), target.machine_id.clone());
        let org_id = targets.org_id().to_owned();
        let (edge, peers) = (self.worker.edge.clone(), self.worker.peers.clone());
        let host = match &target.place {
            Place::Here(_) => None,
            Place::There(there) => Some(there.host.clone()),
        };
        tokio::spawn(async move {
            let within = Duration::from_millis(edge.config.limits.wake_ms);
            let waking = async {
                match host {
                    Some(host) => peers.wake(&edge, &host, &id).await,
                    None => edge
                        .waker
                        .wake(&id)
                        .await
                        .map_err(|error| error.to_string()),
                }
            };
            if let Ok(Err(error)) = timeout(within, waking).await {
                log::warn!(
                    org_id = org_id.as_str(), machine_id = &*id;
                    "{id} cannot start beside others: {error}"
                );
                sleep(GREATEST_PAUSE).await;
            } else {
                load.set_fresh();
            }
            load.waking.store(false, Relaxed);
        });
    }

    /// Wait for a slot.
    async fn queue(&mut self, targets: &Targets) -> Result<(), Refusal> {
        self.place = None;
        self.full = true;
        let limits = &self.worker.edge.config.limits;
        let by = deadline(&mut self.queue_by, self.patience.queue);
        let overloaded = || refusal::overloaded(targets.app_name());
        let freed = targets.queue.freed.notified();
        if self.ticket.is_none() {
            count(&targets.metrics.queued);
            self.ticket = Some(
                targets
                    .queue
                    .join(limits.queue_length)
                    .ok_or_else(overloaded)?,
            );
            // A slot may have come free before anybody was in the queue to be told.
            if targets.queue.waiting() == 1 {
                return Ok(());
            }
        }
        let look_again = (Instant::now() + LOOK_AGAIN).min(by);
        // Told or not, it looks again.
        let _ = timeout_at(look_again, freed).await;
        if Instant::now() >= by {
            Err(overloaded())
        } else {
            Ok(())
        }
    }

    /// Wait for a slot at another host: its edge knows when there is one.
    async fn queue_there(
        &mut self,
        targets: &Arc<Targets>,
        index: usize,
    ) -> Result<Option<Reached>, Refusal> {
        let target = &targets.ready[index];
        let Place::There(there) = &target.place else {
            return Ok(None);
        };
        let by = deadline(&mut self.queue_by, self.patience.queue);
        let left = by.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(refusal::overloaded(targets.app_name()));
        }
        if self.ticket.is_none() {
            count(&targets.metrics.queued);
            let most = self.worker.edge.config.limits.queue_length;
            let ticket = targets.queue.join(most);
            self.ticket = Some(ticket.ok_or_else(|| refusal::overloaded(targets.app_name()))?);
        }
        self.attempts += 1;
        if self.full {
            // Its edge did not even let it wait.
            sleep(FIRST_PAUSE).await;
        }
        let Some(slot) = target.load.take(None, &targets.queue) else {
            return Ok(None);
        };
        let stream = self.stream(target, there).await;
        let queue = left.min(QUEUE_THERE);
        let link = |stream| Link::There { stream, queue };
        Ok(stream.map(|stream| Reached::new(slot, link(stream), targets, target)))
    }

    /// Wait for a change of the view, or a while.
    async fn pause(&mut self, targets: &Targets) -> Result<(), Refusal> {
        self.wait_for_a_machine(targets)?;
        let by = deadline(&mut self.reach_by, self.patience.reach);
        let started = self.woke || self.came_back;
        let by = self
            .wake_by
            .filter(|_| started)
            .map_or(by, |wake_by| wake_by.max(by));
        if Instant::now() >= by {
            return Err(self.too_late(targets, started));
        }
        self.until_changed(by).await;
        Ok(())
    }

    /// Say why no machine took the request in time.
    fn too_late(&mut self, targets: &Targets, started: bool) -> Refusal {
        let app = targets.app_name();
        match self.last_refusal.take() {
            Some(refusal) if started && refusal.is_of_a_connection() => {
                refusal::started_in_vain(app, &refusal)
            }
            Some(refusal) => refusal,
            None if self.are_unhealthy(targets) => refusal::unhealthy(app),
            None => refusal::not_reachable_in_time(app),
        }
    }

    /// Whether of the machines that would do there are those alone whose checks fail.
    fn are_unhealthy(&self, targets: &Targets) -> bool {
        let any = |of: &[Target]| of.iter().any(|target| fits(&self.wish, target));
        any(&targets.failing) && !any(&targets.ready)
    }

    /// Wait for a machine that comes back by itself.
    async fn await_back(&mut self, targets: &Targets) -> Result<(), Refusal> {
        self.wait_for_a_machine(targets)?;
        let by = deadline(&mut self.wake_by, self.patience.wake);
        if Instant::now() >= by {
            return Err(refusal::wake_timeout(targets.app_name()));
        }
        self.until_changed(by).await;
        // Once it is back it has the whole time to be reached.
        self.came_back = true;
        self.reach_by = None;
        Ok(())
    }

    /// Be one of those that wait for a machine, unless there are as many as there may be.
    fn wait_for_a_machine(&mut self, targets: &Targets) -> Result<(), Refusal> {
        self.ticket = None;
        if self.place.is_none() {
            let most = self.worker.edge.config.limits.queue_length;
            let place = targets.waits.join(most);
            self.place = Some(place.ok_or_else(|| refusal::crowded(targets.app_name()))?);
        }
        Ok(())
    }

    async fn until_changed(&mut self, by: Instant) {
        let mut changes = self.worker.edge.watch.changes();
        let again = (Instant::now() + self.next_pause).min(by);
        self.next_pause = (self.next_pause * 2).min(GREATEST_PAUSE);
        sleep(SHORTEST_PAUSE).await;
        // Changed or not, it looks again.
        let _ = timeout_at(again, changes.changed()).await;
        self.tried.clear();
    }
}

fn deadline(kept: &mut Option<Instant>, within: Duration) -> Instant {
    *kept.get_or_insert_with(|| Instant::now() + within)
}
