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

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use godwit_watch::WakeError;
use godwit_wire::facts::Concurrency;
use rand::Rng;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::balance::{self, Band, Candidate, Doubt};
use crate::front::worker::Worker;
use crate::load::{Slot, Ticket};
use crate::metrics::count;
use crate::refusal::{self, Refusal};
use crate::targets::{Target, Targets};
use crate::upstream::{self, Upstream};

/// A machine that takes the request.
#[derive(Debug)]
pub(crate) struct Reached<U = Upstream> {
    pub(crate) slot: Slot,
    pub(crate) upstream: U,
    pub(crate) targets: Arc<Targets>,
    pub(crate) machine_id: Arc<str>,
    pub(crate) port: u16,
}

/// What a request asks of its connection.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    /// It may be sent a second time.
    pub(crate) repeatable: bool,
    /// Only a connection that carried nothing yet will do.
    pub(crate) fresh: bool,
    /// The machine that broke it off before; another is better, if there is one.
    pub(crate) not_at: Option<Arc<str>>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// Connect to this one of the ready.
    Try(usize),
    /// Have this one of the sleepers started, and wait.
    Wake(usize),
    /// Wait for a slot.
    Queue,
    /// Wait for a change.
    Pause,
    /// Wait for a machine that comes back by itself.
    Await,
    Refuse(Refusal),
}

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const GREATEST_PAUSE: Duration = Duration::from_secs(1);
/// However often the view changes, a request does not look more often than this.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
/// A waiting request looks again at least this often.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Find a machine for a request; `find` gives the app's targets as they are now.
pub(crate) async fn reach(
    worker: &Worker,
    wish: Wish,
    port: &str,
    find: impl Fn() -> Result<Arc<Targets>, Refusal>,
) -> Result<Reached, Refusal> {
    search(worker, wish, port, find, Requests).await
}

/// Find a machine for a stream of bytes, and a connection to it that carried nothing yet.
pub(crate) async fn reach_bytes(
    worker: &Worker,
    port: &str,
    find: impl Fn() -> Result<Arc<Targets>, Refusal>,
) -> Result<Reached<TcpStream>, Refusal> {
    let wish = Wish {
        repeatable: false,
        fresh: true,
        not_at: None,
    };
    search(worker, wish, port, find, Bytes).await
}

async fn search<C: Connect>(
    worker: &Worker,
    wish: Wish,
    port: &str,
    find: impl Fn() -> Result<Arc<Targets>, Refusal>,
    how: C,
) -> Result<Reached<C::To>, Refusal> {
    let mut search = Search::new(worker, wish);
    loop {
        let targets = find()?;
        if targets.ready.len() > 1 {
            search.tried.extend(search.wish.not_at.take());
        }
        let verdict = search.decide(&targets, port);
        match verdict {
            Verdict::Try(index) => {
                if let Some(reached) = search.attempt(&targets, index, &how).await {
                    return Ok(reached);
                }
            }
            Verdict::Wake(index) => search.wake(&targets, index).await?,
            Verdict::Queue => search.queue(&targets).await?,
            Verdict::Pause => search.pause(&targets).await?,
            Verdict::Await => search.await_back(&targets).await?,
            Verdict::Refuse(refusal) => return Err(refusal),
        }
    }
}

/// How a machine that was chosen is connected to.
trait Connect {
    type To;

    fn connect(
        &self,
        worker: &Worker,
        wish: &Wish,
        target: &Target,
        targets: &Targets,
    ) -> impl Future<Output = io::Result<Self::To>> + Send;
}

/// For one request: a kept connection will do.
struct Requests;

/// For a stream of bytes.
struct Bytes;

impl Connect for Requests {
    type To = Upstream;

    async fn connect(
        &self,
        worker: &Worker,
        wish: &Wish,
        target: &Target,
        targets: &Targets,
    ) -> io::Result<Upstream> {
        let pool = (target.concurrency == Concurrency::Requests).then_some(&worker.pool);
        let pooled = pool.filter(|_| !wish.fresh);
        if let Some(kept) = pooled.and_then(|pool| pool.take(target, wish.repeatable)) {
            return Ok(kept);
        }
        count(&targets.metrics.upstream_connects);
        let within = Duration::from_millis(worker.edge.config.limits.connect_ms);
        upstream::connect(target, within, pool).await
    }
}

impl Connect for Bytes {
    type To = TcpStream;

    async fn connect(
        &self,
        worker: &Worker,
        _: &Wish,
        target: &Target,
        targets: &Targets,
    ) -> io::Result<TcpStream> {
        count(&targets.metrics.upstream_connects);
        let within = Duration::from_millis(worker.edge.config.limits.connect_ms);
        upstream::dial(target, within).await
    }
}

/// One request's search.
struct Search<'a> {
    worker: &'a Worker,
    wish: Wish,
    /// Machines that refused this request since the last pause.
    tried: Vec<Arc<str>>,
    /// Machines that the agent could not start for this request.
    unwakeable: Vec<Arc<str>>,
    /// A place among those that wait for a slot.
    ticket: Option<Ticket>,
    /// A place among those that wait for a machine.
    place: Option<Ticket>,
    /// A machine was started for this request.
    woke: bool,
    /// A machine came back while this request waited.
    came_back: bool,
    next_pause: Duration,
    last_refusal: Option<Refusal>,
    reach_by: Option<Instant>,
    queue_by: Option<Instant>,
    wake_by: Option<Instant>,
}

impl<'a> Search<'a> {
    fn new(worker: &'a Worker, wish: Wish) -> Self {
        Search {
            worker,
            wish,
            tried: Vec::new(),
            unwakeable: Vec::new(),
            ticket: None,
            place: None,
            woke: false,
            came_back: false,
            next_pause: FIRST_PAUSE,
            last_refusal: None,
            reach_by: None,
            queue_by: None,
            wake_by: None,
        }
    }

    fn decide(&self, targets: &Targets, port: &str) -> Verdict {
        if self.ticket.is_none() && targets.queue.waiting() > 0 && !targets.ready.is_empty() {
            // Who came before goes before.
            return Verdict::Queue;
        }
        let sleeper = self.sleeper(targets);
        let picked = pick(&targets.ready, &self.tried, &mut rand::rng());
        match (picked, sleeper) {
            (Some((_, candidate)), Some(sleeper)) if candidate.doubt == Doubt::Tried => {
                Verdict::Wake(sleeper)
            }
            (Some((_, candidate)), None) if candidate.doubt == Doubt::Tried => Verdict::Pause,
            (Some((index, candidate)), sleeper) => {
                if let Some(sleeper) = sleeper.filter(|_| candidate.band() != Band::BelowSoft) {
                    self.wake_beside(&targets.asleep[sleeper], targets);
                }
                Verdict::Try(index)
            }
            (None, sleeper) if !targets.ready.is_empty() => {
                if let Some(sleeper) = sleeper {
                    self.wake_beside(&targets.asleep[sleeper], targets);
                }
                Verdict::Queue
            }
            (None, Some(sleeper)) => Verdict::Wake(sleeper),
            (None, None) => self.without_machine(targets, port),
        }
    }

    fn without_machine(&self, targets: &Targets, port: &str) -> Verdict {
        let (app, besides) = (targets.app_name(), targets.besides);
        if self.woke {
            return Verdict::Pause;
        }
        if besides.coming {
            return Verdict::Await;
        }
        if besides.failing {
            return Verdict::Pause;
        }
        Verdict::Refuse(match &self.last_refusal {
            Some(refusal) => refusal.clone(),
            None if besides.stopped => refusal::stopped(app),
            None if besides.elsewhere => refusal::elsewhere(app),
            None => refusal::nothing(app, port),
        })
    }

    fn sleeper(&self, targets: &Targets) -> Option<usize> {
        targets
            .asleep
            .iter()
            .position(|target| !self.unwakeable.contains(&target.machine_id))
    }

    /// Take a slot and a connection; `None` means decide again.
    async fn attempt<C: Connect>(
        &mut self,
        targets: &Arc<Targets>,
        index: usize,
        how: &C,
    ) -> Option<Reached<C::To>> {
        let target = &targets.ready[index];
        let slot = target.load.take(target.hard, &targets.queue)?;
        self.ticket = None;
        match how.connect(self.worker, &self.wish, target, targets).await {
            Ok(upstream) => {
                target.load.clear_suspect();
                Some(Reached {
                    slot,
                    upstream,
                    targets: targets.clone(),
                    machine_id: target.machine_id.clone(),
                    port: target.address.port(),
                })
            }
            Err(error) => {
                count(&targets.metrics.upstream_failures);
                target.load.set_suspect();
                self.tried.push(target.machine_id.clone());
                self.last_refusal = Some(refusal::connect_failed(target.address.port(), &error));
                None
            }
        }
    }

    /// Wait until a sleeper is started.
    async fn wake(&mut self, targets: &Targets, index: usize) -> Result<(), Refusal> {
        self.wait_for_a_machine(targets)?;
        let target = &targets.asleep[index];
        let limits = &self.worker.edge.config.limits;
        let by = deadline(&mut self.wake_by, limits.wake_ms);
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
        Ok(())
    }

    /// Have a sleeper started while this request goes on without it.
    fn wake_beside(&self, target: &Target, targets: &Targets) {
        if target.load.waking.swap(true, Relaxed) {
            return;
        }
        count(&targets.metrics.wakes);
        let (load, id) = (target.load.clone(), target.machine_id.clone());
        let org_id = targets.org_id().to_owned();
        let edge = self.worker.edge.clone();
        let within = Duration::from_millis(edge.config.limits.wake_ms);
        tokio::spawn(async move {
            if let Ok(Err(error)) = timeout(within, edge.waker.wake(&id)).await {
                log::warn!(
                    org_id = org_id.as_str(), machine_id = &*id;
                    "{id} cannot start beside others: {error}"
                );
                sleep(GREATEST_PAUSE).await;
            }
            load.waking.store(false, Relaxed);
        });
    }

    /// Wait for a slot.
    async fn queue(&mut self, targets: &Targets) -> Result<(), Refusal> {
        self.place = None;
        let limits = &self.worker.edge.config.limits;
        let by = deadline(&mut self.queue_by, limits.queue_ms);
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

    /// Wait for a change of the view, or a while.
    async fn pause(&mut self, targets: &Targets) -> Result<(), Refusal> {
        self.wait_for_a_machine(targets)?;
        let by = deadline(&mut self.reach_by, self.worker.edge.config.limits.reach_ms);
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
            None if targets.besides.failing && targets.ready.is_empty() => refusal::unhealthy(app),
            None => refusal::not_reachable_in_time(app),
        }
    }

    /// Wait for a machine that comes back by itself.
    async fn await_back(&mut self, targets: &Targets) -> Result<(), Refusal> {
        self.wait_for_a_machine(targets)?;
        let by = deadline(&mut self.wake_by, self.worker.edge.config.limits.wake_ms);
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

fn pick(
    ready: &[Target],
    tried: &[Arc<str>],
    random: &mut impl Rng,
) -> Option<(usize, Candidate)> {
    let candidate = |index: usize| {
        let target = &ready[index];
        let doubt = if tried.contains(&target.machine_id) {
            Doubt::Tried
        } else if target.load.is_suspect() {
            Doubt::Suspect
        } else {
            Doubt::None
        };
        let Target { soft, hard, .. } = *target;
        Candidate {
            active: target.load.active(),
            soft,
            hard,
            doubt,
        }
    };
    balance::pick(ready.len(), candidate, random)
}

fn deadline(kept: &mut Option<Instant>, within_ms: u64) -> Instant {
    *kept.get_or_insert_with(|| Instant::now() + Duration::from_millis(within_ms))
}
