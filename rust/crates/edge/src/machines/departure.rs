//! When a machine is gone under what it has in flight.
//!
//! A process that ends closes its connections, which is all that is needed. A machine whose VM
//! vanished sends nothing any more, so what waits for it is told by the catalog. A machine on its
//! way down still speaks: its app finishes what it has, and bids its tunnels farewell.
//!
//! Whoever waits is woken by that alone: one task looks at the view as it changes, for all.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use godwit_catalog::{Machine, View};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::edge::Edge;

/// What a machine sent in its last moment is on its way for no longer.
const PARTING: Duration = Duration::from_secs(1);
/// However often the view changes, it is not looked at more often than this.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The boots of machines whose end somebody waits for.
#[derive(Debug, Default)]
pub(crate) struct Departures {
    boots: Mutex<HashMap<Arc<str>, Boot>>,
}

#[derive(Debug, Default)]
struct Boot {
    stay: Stay,
    end: Arc<End>,
    waiting: usize,
}

#[derive(Debug, Default)]
struct End {
    has_come: AtomicBool,
    told: Notify,
}

/// Somebody who waits for a boot's end; the last that goes takes it off the list.
#[derive(Debug)]
struct Waiting<'a> {
    departures: &'a Departures,
    machine_id: Arc<str>,
    end: Arc<End>,
}

/// Return a moment after the boot that a machine is in has ended.
pub(crate) async fn departed(edge: &Edge, machine_id: &Arc<str>) {
    let waiting = edge.departures.wait(machine_id, || edge.watch.view());
    if let Some(waiting) = waiting {
        waiting.over().await;
    }
    sleep(PARTING).await;
}

/// Tell who waits, for as long as the view changes.
pub(crate) async fn follow(edge: Arc<Edge>) {
    let mut changes = edge.watch.changes();
    loop {
        edge.departures.look(|| edge.watch.view());
        sleep(LOOK_EVERY).await;
        if changes.changed().await.is_err() {
            return;
        }
    }
}

impl Departures {
    /// Wait for the end of the boot that a machine is in; `None` if it has come.
    ///
    /// The view is taken under the lock, here and in `look`: so nobody sees an older one than who
    /// came before, and a change that is not seen here is one that is yet to be looked at.
    fn wait<V: Deref<Target = Arc<View>>>(
        &self,
        machine_id: &Arc<str>,
        view: impl FnOnce() -> V,
    ) -> Option<Waiting<'_>> {
        let mut boots = self.boots();
        let view = view();
        let machine = view.machine(machine_id);
        let of_last = boots.get_mut(machine_id);
        let is_of_last = of_last.is_some_and(|boot| boot.stay.is_over(machine));
        let ended = is_of_last.then(|| boots.remove(machine_id)).flatten();
        let boot = boots.entry(machine_id.clone()).or_default();
        let is_over = boot.waiting == 0 && boot.stay.is_over(machine);
        let end = boot.end.clone();
        if is_over {
            boots.remove(machine_id);
        } else {
            boot.waiting += 1;
        }
        drop(boots);
        if let Some(boot) = ended {
            boot.end.come();
        }
        (!is_over).then(|| Waiting {
            departures: self,
            machine_id: machine_id.clone(),
            end,
        })
    }

    /// Look for boots that have ended.
    fn look<V: Deref<Target = Arc<View>>>(&self, view: impl FnOnce() -> V) {
        let mut ended = Vec::new();
        let mut boots = self.boots();
        let view = view();
        boots.retain(|machine_id, boot| {
            let is_over = boot.stay.is_over(view.machine(machine_id));
            if is_over {
                ended.push(boot.end.clone());
            }
            !is_over
        });
        drop(boots);
        for end in ended {
            end.come();
        }
    }

    fn boots(&self) -> MutexGuard<'_, HashMap<Arc<str>, Boot>> {
        self.boots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl End {
    fn come(&self) {
        self.has_come.store(true, Release);
        self.told.notify_waiters();
    }
}

impl Waiting<'_> {
    async fn over(&self) {
        // It is told from its making on, so nothing is missed between the two.
        let told = self.end.told.notified();
        if !self.end.has_come.load(Acquire) {
            told.await;
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut boots = self.departures.boots();
        let Some(boot) = boots.get_mut(&self.machine_id) else {
            return;
        };
        if Arc::ptr_eq(&boot.end, &self.end) {
            boot.waiting -= 1;
            if boot.waiting == 0 {
                boots.remove(&self.machine_id);
            }
        }
    }
}

/// What was seen of a boot so far.
#[derive(Debug, Default)]
struct Stay {
    instance_id: Option<Box<str>>,
    leaving: bool,
}

impl Stay {
    fn is_over(&mut self, machine: Option<&Arc<Machine>>) -> bool {
        let Some(machine) = machine else {
            return true;
        };
        let first = self.instance_id.get_or_insert(machine.instance_id.clone());
        if **first != *machine.instance_id {
            return true;
        }
        let leaving = std::mem::replace(&mut self.leaving, !machine.is_started());
        match &*machine.state {
            "started" => leaving,
            "stopped" | "suspended" | "failed" | "destroyed" => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::Relaxed;
    use std::task::{Context, Wake, Waker};

    use godwit_catalog::Catalog;
    use godwit_wire::facts::Fact;
    use serde_json::json;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    /// A view of machines: id, instance, state.
    fn view(machines: &[(&str, &str, &str)]) -> Arc<View> {
        let mut catalog = Catalog::new("own", "lcl");
        for (id, instance_id, state) in machines {
            let document = json!({
                "owner": "own", "epoch": 1, "revision": 1, "org_id": "org_1",
                "network_id": "net_1", "network_number": 1, "app_id": "app_1", "app": "hello",
                "machine_id": id, "instance_id": instance_id, "name": "n", "host_id": "own",
                "region": "lcl", "state": state, "private_ip": "fdaa:0:1::2",
                "local_ipv4": "172.16.0.5",
            });
            catalog.apply_kept(&Fact::Machine(serde_json::from_value(document).unwrap()));
        }
        Arc::new(catalog.view().clone())
    }

    fn machine(instance_id: &str, state: &str) -> Arc<Machine> {
        let view = view(&[("m1", instance_id, state)]);
        view.machine("m1").unwrap().clone()
    }

    #[test]
    fn only_its_own_machines_departure_wakes_who_waits() {
        let (departures, id) = (Departures::default(), "m1".into());
        let up = view(&[("m1", "a", "started"), ("m2", "b", "started")]);
        let waiting = departures.wait(&id, || &up).unwrap();
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut over = pin!(waiting.over());
        let mut poll = || over.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(poll().is_pending());
        for others in [
            view(&[("m1", "a", "started"), ("m2", "b", "stopped")]),
            view(&[("m1", "a", "stopping"), ("m3", "c", "started")]),
        ] {
            departures.look(|| &others);
        }
        assert_eq!(woken.0.load(Relaxed), 0);
        departures.look(|| Box::new(view(&[("m1", "a", "stopped")])));
        assert_eq!(woken.0.load(Relaxed), 1);
        assert!(poll().is_ready());
        assert!(departures.boots().is_empty());
    }

    #[test]
    fn a_departure_before_anybody_looks_for_it_is_not_missed() {
        let (departures, id) = (Departures::default(), "m1".into());
        let (up, gone) = (view(&[("m1", "a", "started")]), view(&[]));
        let waiting = departures.wait(&id, || &up).unwrap();
        departures.look(|| &gone);
        let over = pin!(waiting.over());
        let polled = over.poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_ready());
        assert!(departures.wait(&id, || &gone).is_none());
    }

    #[test]
    fn who_waits_for_the_next_boot_is_not_told_of_the_last() {
        let (departures, id) = (Departures::default(), "m1".into());
        let last = departures
            .wait(&id, || Box::new(view(&[("m1", "a", "started")])))
            .unwrap();
        let now = view(&[("m1", "b", "started")]);
        let next = departures.wait(&id, || &now).unwrap();
        departures.look(|| &now);
        let has_come = |waiting: &Waiting<'_>| waiting.end.has_come.load(Acquire);
        assert!(has_come(&last) && !has_come(&next));
        drop(last);
        assert_eq!(departures.boots()["m1"].waiting, 1);
        departures.look(|| Box::new(view(&[])));
        assert!(has_come(&next));
    }

    #[test]
    fn nothing_is_left_of_those_who_no_longer_wait() {
        let departures = Departures::default();
        let up = view(&[("m1", "a", "started"), ("m2", "b", "started")]);
        let wait = |id: &str| departures.wait(&id.into(), || &up);
        let (one, other, third) = (wait("m1"), wait("m1"), wait("m2"));
        assert_eq!(departures.boots().len(), 2);
        drop((one, third));
        assert_eq!(departures.boots().len(), 1);
        drop(other);
        assert!(departures.boots().is_empty());
    }

    fn over(seen: &[(&str, &str)]) -> Vec<bool> {
        let mut stay = Stay::default();
        seen.iter()
            .map(|(instance, state)| stay.is_over(Some(&machine(instance, state))))
            .collect()
    }

    #[test]
    fn a_boot_is_over_once_its_machine_rests_or_has_begun_another() {
        let down = [("a", "started"), ("a", "stopping"), ("a", "stopped")];
        assert_eq!(over(&down), [false, false, true]);
        let again = [("a", "started"), ("a", "restarting"), ("a", "started")];
        assert_eq!(over(&again), [false, false, true]);
        let updated = [("a", "started"), ("b", "started")];
        assert_eq!(over(&updated), [false, true]);
        let seen_late = [("a", "replacing"), ("a", "replacing"), ("b", "replacing")];
        assert_eq!(over(&seen_late), [false, false, true]);
        assert!(Stay::default().is_over(None));
    }
}
