//! How many requests each machine has, the slots they hold, and who waits for one or for a machine.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use godwit_watch::{Flights, InFlight};
use godwit_wire::facts::Protocol;
use tokio::sync::Notify;

/// A machine that refused a connection is doubted for this long.
const SUSPECT_FOR: Duration = Duration::from_secs(1);
/// A machine that was started beside the requests has this long until its checks pass.
const FRESH_FOR: Duration = Duration::from_secs(20);
/// One that another edge says is at its hard limit is asked again after this.
const FULL_FOR: Duration = Duration::from_millis(100);
/// What another edge says of a machine's load counts this long.
const TOLD_FOR: Duration = Duration::from_secs(1);

/// The load of one service of one machine, shared by all workers.
#[derive(Debug, Default)]
pub(crate) struct Load {
    active: AtomicU32,
    /// Of the active, those that are tunnels by now.
    tunnels: AtomicU32,
    /// How many were ever taken.
    taken: AtomicU64,
    suspect_until_ms: AtomicU64,
    /// Of a machine of another host: until when it is held for full.
    full_until_ms: AtomicU64,
    /// Of a machine of another host: what its edge said it has, and until when that counts.
    told: AtomicU32,
    told_until_ms: AtomicU64,
    /// Somebody is having it started beside the requests.
    pub(crate) waking: AtomicBool,
    /// Until when it is one that was started a moment ago.
    fresh_until_ms: AtomicU64,
}

/// Requests that wait: for a slot of any machine of an app, or for a machine to be ready.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: AtomicUsize,
    pub(crate) freed: Notify,
}

/// A request's place at a machine; dropping it frees the place.
#[derive(Debug)]
pub(crate) struct Slot {
    load: Arc<Load>,
    queue: Arc<Queue>,
    tunnel: bool,
}

/// A request's place in a queue; dropping it leaves the queue.
#[derive(Debug)]
pub(crate) struct Ticket {
    queue: Arc<Queue>,
}

impl Load {
    pub(crate) fn active(&self) -> u32 {
        self.active.load(Acquire)
    }

    pub(crate) fn is_suspect(&self) -> bool {
        let until = self.suspect_until_ms.load(Relaxed);
        until != 0 && now_ms() < until
    }

    pub(crate) fn set_suspect(&self) {
        self.suspect_until_ms.store(from_now(SUSPECT_FOR), Relaxed);
    }

    /// Whether it was started so short a time ago that it may yet take its part of the load.
    pub(crate) fn is_fresh(&self) -> bool {
        let until = self.fresh_until_ms.load(Relaxed);
        until != 0 && now_ms() < until
    }

    /// It was started for requests that others take meanwhile.
    pub(crate) fn set_fresh(&self) {
        self.fresh_until_ms.store(from_now(FRESH_FOR), Relaxed);
    }

    pub(crate) fn clear_suspect(&self) {
        if self.suspect_until_ms.load(Relaxed) != 0 {
            self.suspect_until_ms.store(0, Relaxed);
        }
    }

    /// How many were ever taken.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Relaxed)
    }

    /// The load as far as this edge knows it: its own, or what another edge told just now.
    pub(crate) fn known(&self) -> u32 {
        let own = self.active();
        let until = self.told_until_ms.load(Relaxed);
        if until == 0 || until < now_ms() {
            return own;
        }
        own.max(self.told.load(Relaxed))
    }

    /// Another edge says what its machine has in flight.
    pub(crate) fn set_told(&self, active: u32) {
        self.told.store(active, Relaxed);
        self.told_until_ms.store(from_now(TOLD_FOR), Relaxed);
    }

    pub(crate) fn is_full(&self) -> bool {
        let until = self.full_until_ms.load(Relaxed);
        until != 0 && now_ms() < until
    }

    /// Another edge says that its machine is at its hard limit.
    pub(crate) fn set_full(&self) {
        self.full_until_ms.store(from_now(FULL_FOR), Relaxed);
    }

    /// Take a slot, unless that would go over the hard limit.
    pub(crate) fn take(self: &Arc<Self>, hard: Option<u32>, queue: &Arc<Queue>) -> Option<Slot> {
        let below = |active| (active < hard.unwrap_or(u32::MAX)).then(|| active + 1);
        self.active.fetch_update(AcqRel, Acquire, below).ok()?;
        self.taken.fetch_add(1, Relaxed);
        Some(Slot {
            load: self.clone(),
            queue: queue.clone(),
            tunnel: false,
        })
    }

    fn in_flight(&self) -> InFlight {
        let tunnels = self.tunnels.load(Acquire);
        InFlight {
            requests: self.active().saturating_sub(tunnels),
            tunnels,
        }
    }
}

impl Slot {
    pub(crate) fn load(&self) -> &Load {
        &self.load
    }

    /// What holds the place has become a tunnel.
    pub(crate) fn set_tunnel(&mut self) {
        if !std::mem::replace(&mut self.tunnel, true) {
            self.load.tunnels.fetch_add(1, AcqRel);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.tunnel {
            self.load.tunnels.fetch_sub(1, AcqRel);
        }
        self.load.active.fetch_sub(1, AcqRel);
        self.queue.pass_on();
    }
}

impl Queue {
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Acquire)
    }

    /// Join the queue unless it is as long as it may be.
    pub(crate) fn join(self: &Arc<Self>, limit: usize) -> Option<Ticket> {
        let below = |waiting| (waiting < limit).then(|| waiting + 1);
        self.waiting.fetch_update(AcqRel, Acquire, below).ok()?;
        Some(Ticket {
            queue: self.clone(),
        })
    }

    /// Tell the next in the queue to look again.
    pub(crate) fn pass_on(&self) {
        if self.waiting() > 0 {
            self.freed.notify_one();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.queue.waiting.fetch_sub(1, AcqRel);
        // There may be room for more than the one who leaves.
        self.queue.pass_on();
    }
}

/// All loads and queues of this process, by what they belong to.
#[derive(Debug, Default)]
pub(crate) struct Loads {
    /// Of this host.
    machines: Shelf<Load, OfService>,
    /// Of other hosts: what this process has there.
    abroad: Shelf<Load, OfService>,
    queues: Shelf<Queue, OfService>,
    waits: Shelf<Queue, OfService>,
}

/// A machine's or an app's name, and a port.
pub(super) type Key = (Arc<str>, u16);
/// As above, of one of the two services that one port may have.
type OfService = (Arc<str>, u16, Protocol);

impl Loads {
    /// The load of a machine's service at an internal port.
    pub(crate) fn load(&self, machine: &Arc<str>, port: u16, protocol: Protocol) -> Arc<Load> {
        self.machines.get((machine.clone(), port, protocol))
    }

    /// What this process has at a service of a machine of another host.
    pub(crate) fn abroad(&self, machine: &Arc<str>, port: u16, protocol: Protocol) -> Arc<Load> {
        self.abroad.get((machine.clone(), port, protocol))
    }

    /// The queue of an app at an external port.
    pub(crate) fn queue(&self, app: &Arc<str>, port: u16, protocol: Protocol) -> Arc<Queue> {
        self.queues.get((app.clone(), port, protocol))
    }

    /// Who waits for a machine of an app at an external port.
    pub(crate) fn waits(&self, app: &Arc<str>, port: u16, protocol: Protocol) -> Arc<Queue> {
        self.waits.get((app.clone(), port, protocol))
    }

    /// Machines with load: id, internal port, what is there by either protocol.
    pub(crate) fn active(&self) -> Vec<(Arc<str>, u16, u32)> {
        let mut active: HashMap<Key, u32> = HashMap::new();
        for ((id, port, _), load) in self.machines.all() {
            *active.entry((id, port)).or_default() += load.active();
        }
        let told = |((id, port), active)| (id, port, active);
        active.into_iter().map(told).collect()
    }

    /// The number of requests that wait, for a slot or for a machine.
    pub(crate) fn waiting(&self) -> usize {
        [&self.queues, &self.waits]
            .into_iter()
            .flat_map(Shelf::all)
            .map(|(_, queue)| queue.waiting())
            .sum()
    }
}

impl Flights for Loads {
    fn of(&self, machine_id: &str) -> InFlight {
        let loads = self.machines.all();
        let own = loads.iter().filter(|((id, ..), _)| &**id == machine_id);
        own.map(|(_, load)| load.in_flight())
            .fold(InFlight::default(), |sum, one| InFlight {
                requests: sum.requests + one.requests,
                tunnels: sum.tunnels + one.tunnels,
            })
    }
}

/// Shared things that live as long as somebody uses them.
#[derive(Debug)]
pub(super) struct Shelf<T, K = Key>(Mutex<Shelved<T, K>>);

#[derive(Debug)]
struct Shelved<T, K> {
    things: HashMap<K, Weak<T>>,
    sweep_at: usize,
}

const FIRST_SWEEP: usize = 256;

impl<T, K> Default for Shelf<T, K> {
    fn default() -> Self {
        Shelf(Mutex::new(Shelved {
            things: HashMap::new(),
            sweep_at: FIRST_SWEEP,
        }))
    }
}

impl<T: Default, K: Clone + Hash + Eq> Shelf<T, K> {
    /// The thing of a key, the same for all who use it at a time.
    pub(super) fn get(&self, key: K) -> Arc<T> {
        let mut shelved = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thing) = shelved.things.get(&key).and_then(Weak::upgrade) {
            return thing;
        }
        if shelved.things.len() >= shelved.sweep_at {
            shelved.things.retain(|_, thing| thing.strong_count() > 0);
            shelved.sweep_at = (shelved.things.len() * 2).max(FIRST_SWEEP);
        }
        let thing = Arc::new(T::default());
        shelved.things.insert(key, Arc::downgrade(&thing));
        thing
    }

    /// Every one that is in use.
    pub(super) fn all(&self) -> Vec<(K, Arc<T>)> {
        let shelved = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let live = |(key, thing): (&K, &Weak<T>)| Some((key.clone(), thing.upgrade()?));
        shelved.things.iter().filter_map(live).collect()
    }
}

fn from_now(time: Duration) -> u64 {
    now_ms() + u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 2)
}

fn now_ms() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    // Never 0, which means "not suspect".
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX) + 1
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn the_hard_limit_holds_under_contention() {
        let (load, queue) = (Arc::new(Load::default()), Arc::new(Queue::default()));
        let most = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        if let Some(_slot) = load.take(Some(3), &queue) {
                            most.fetch_max(load.active(), AcqRel);
                        }
                    }
                });
            }
        });
        assert_eq!(load.active(), 0);
        assert!(most.load(Acquire) <= 3);
    }

    #[test]
    fn a_queue_has_an_end() {
        let queue = Arc::new(Queue::default());
        let first = queue.join(1);
        assert!(first.is_some() && queue.join(1).is_none());
        drop(first);
        assert!(queue.join(1).is_some());
    }

    #[test]
    fn a_load_is_one_for_all_and_gone_with_its_last_user() {
        let loads = Loads::default();
        let machine: Arc<str> = "m1".into();
        let load = loads.load(&machine, 8080, Protocol::Tcp);
        assert!(Arc::ptr_eq(
            &load,
            &loads.load(&machine, 8080, Protocol::Tcp)
        ));
        let slot = load.take(None, &loads.queue(&machine, 80, Protocol::Tcp));
        drop(load);
        assert_eq!(loads.active(), [(machine.clone(), 8080, 1)]);
        drop(slot);
        assert!(loads.active().is_empty());
    }

    #[test]
    fn services_at_one_port_by_tcp_and_by_udp_have_each_its_own_load_and_queue() {
        let loads = Loads::default();
        let name: Arc<str> = "m1".into();
        let by = |protocol| {
            let (load, queue) = (
                loads.load(&name, 5353, protocol),
                loads.queue(&name, 53, protocol),
            );
            (load, queue, loads.waits(&name, 53, protocol))
        };
        let (tcp, udp) = (by(Protocol::Tcp), by(Protocol::Udp));
        let _flows: Vec<_> = (0..20).map(|_| udp.0.take(Some(20), &udp.1)).collect();
        let _ticket = udp.1.join(1);
        let _place = udp.2.join(1);
        assert_eq!((udp.0.active(), tcp.0.active()), (20, 0));
        assert_eq!((tcp.1.waiting(), tcp.2.waiting()), (0, 0));
        assert_eq!(loads.of("m1").requests, 20);
        assert_eq!(loads.active(), [(name.clone(), 5353, 20)]);
        let abroad = |protocol| loads.abroad(&name, 5353, protocol);
        abroad(Protocol::Udp).set_full();
        assert!(!abroad(Protocol::Tcp).is_full());
    }

    #[test]
    fn tunnels_are_told_apart_from_requests_over_all_ports_of_a_machine() {
        let loads = Loads::default();
        let machine: Arc<str> = "m1".into();
        let queue = loads.queue(&machine, 80, Protocol::Tcp);
        let (one, other) = (
            loads.load(&machine, 8080, Protocol::Tcp),
            loads.load(&machine, 9090, Protocol::Tcp),
        );
        let _request = one.take(None, &queue);
        let mut tunnel = other.take(None, &queue).unwrap();
        let told = |requests, tunnels| InFlight { requests, tunnels };
        assert_eq!(loads.of("m1"), told(2, 0));
        tunnel.set_tunnel();
        tunnel.set_tunnel();
        assert_eq!(loads.of("m1"), told(1, 1));
        drop(tunnel);
        assert_eq!(loads.of("m1"), told(1, 0));
        assert_eq!(loads.of("m2"), told(0, 0));
    }

    #[test]
    fn suspicion_can_be_cleared() {
        let load = Load::default();
        assert!(!load.is_suspect());
        load.set_suspect();
        assert!(load.is_suspect());
        load.clear_suspect();
        assert!(!load.is_suspect());
    }
}
